"""Settings for `to_quality.py`, both sides', on a seed that is not compared.

python benchmarks/to_quality_sweep.py
"""

from __future__ import annotations

import measure
from to_quality import TRL, evaluate, make_task, run_ours, run_trl

SWEPT = 9


def main() -> None:
    """Both sides' settings: TRL some 20 seconds each, the likeliest its whole budget; we some 8 seconds each."""
    measure.prepare()
    report = measure.Report("to_quality_sweep", short=False)
    task = make_task(SWEPT, held_out=500)
    report.note(SFT=str(evaluate(task, task.start)))
    for threads in (1, 2):
        spent, _ = run_trl(task, 10 * 128, **TRL[1] | {"threads": threads})
        report.note(**{f"TRL, {threads} threads, 10 steps of 128": f"{spent:.1f} s"})
    for batch_size, sequences in ((32, 4000), (64, 6000), (128, 7680)):
        for rate in (1e-3, 2e-3, 4e-3):
            spent, made = run_trl(task, sequences, **TRL[1] | {"batch_size": batch_size, "learning_rate": rate})
            report.note(**{f"TRL, batch {batch_size}, lr {rate}, {sequences} sequences, {spent:.1f} s": str(made)})
    for beta in (0.5, 1.0):
        spent, made = run_trl(task, 7680, **TRL[1] | {"beta": beta})
        report.note(**{f"TRL, beta {beta}, {spent:.1f} s": str(made)})
    for batch_size, rate in ((64, 1e-3), (64, 2e-3), (128, 1e-3), (128, 2e-3)):
        spent, made = run_trl(task, 200 * 128, **TRL[1] | {"batch_size": batch_size, "learning_rate": rate})
        report.note(**{f"TRL, batch {batch_size}, lr {rate}, whole budget, {spent:.1f} s": str(made)})
    for batch_size, sequences in ((32, 9600), (64, 11520), (128, 12800)):
        for epochs in (4, 6):
            for rate in (1e-3, 2e-3):
                setting = {"batch_size": batch_size, "learning_rate": rate, "epochs": epochs}
                spent, made = run_ours(task, sequences, **setting)
                report.note(**{f"ours, {setting}, {spent:.1f} s": str(made)})


if __name__ == "__main__":
    main()
