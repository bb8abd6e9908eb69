"""Peak memory and time of the loss call alone: ours on stored top-10, dense PyTorch, Liger's and TRL's chunked losses.

    python benchmarks/loss_memory.py [--short]

T = 4096 completion tokens, V = 151,936, D = 1024, float32, forward KL, value and gradients of hidden states and head
weight. Every way runs in a child process of its own. Peak memory is the high-water mark of its resident set (`VmHWM` of
/proc/self/status, reset before the call) over what was resident before it, less the gradients that the call leaves:
parameters, hidden states and all gradients are outside, all that comes and goes is inside, whoever allocated it. Where
the dense loss at this T would need more than half the memory, it is measured at the largest T that does not, and scaled
linearly, which the printed row says. The dense and chunked losses are given the teacher's hidden states and head, as
they are used; both are outside the peak too. Short: T = 2048, one round.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from torch import Tensor

from eyas.storage.processor import total_memory_bytes

VOCABULARY, HIDDEN, TOP_K = 151_936, 1024, 10
DENSE_COPIES = 4
"""Room left for the dense loss: float32 [T, V] tensors alive at its peak (3.1 measured)."""
WAYS = {"ours": "eyas", "dense": "dense PyTorch", "liger": "Liger chunked", "trl": "TRL chunked"}


def main() -> None:
    """One child per way and round; or, with --way, be such a child."""
    parser = measure.options(__doc__)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure.prepare()
    if options.way:
        print(json.dumps(child(options.way, options.tokens)))
        return
    report = measure.Report("loss_memory", short=options.short)
    tokens, rounds = (2048, 1) if options.short else (4096, 3)
    fits = int(total_memory_bytes() / 2 / (4 * VOCABULARY * DENSE_COPIES))
    dense_tokens = min(tokens, fits // 128 * 128)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(spawn(way, dense_tokens if way == "dense" else tokens))
    report.note(tokens=tokens, dense_tokens=dense_tokens, **found)
    for way in ("dense", "liger", "trl"):
        scale = tokens / dense_tokens if way == "dense" else 1.0
        add_rows(report, way, found["ours"], found[way], scale=scale, tokens=tokens, dense_tokens=dense_tokens)
    report.finish()


def add_rows(
    report: measure.Report, way: str, own: list[dict[str, float]], peer: list[dict[str, float]], *, scale: float,
    tokens: int, dense_tokens: int,
) -> None:  # fmt: skip
    """Memory and speed against one way."""
    note = f"T = {tokens}" + (f", dense measured at T = {dense_tokens} and scaled linearly" if scale > 1 else "")
    memory_target = 10.0 if way == "dense" else 1.0
    for what, key, unit, target in (
        ("loss, peak memory", "peak_mib", "MiB", memory_target),
        ("loss, time", "seconds", "s", None if way == "dense" else 1.0),
    ):
        mine, theirs = [row[key] for row in own], [row[key] * scale for row in peer]
        report.add(
            measure.Row(
                what=what, peer=WAYS[way], ours=f"{min(mine):.3g} {unit}", theirs=f"{min(theirs):.3g} {unit}",
                ratios=measure.ratios(mine, theirs), target=target, note=note,
            )
        )  # fmt: skip


def spawn(way: str, tokens: int) -> dict[str, float]:
    """What a child measured."""
    command = [sys.executable, __file__, "--way", way, "--tokens", str(tokens)]
    made = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    if made.returncode:
        raise SystemExit(f"{way}: {made.stderr[-2000:]}")
    result: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return result


def child(way: str, tokens: int) -> dict[str, float]:
    """Peak of a first call; its seconds, or those of the fastest of three where it takes less than 5 s."""
    torch.manual_seed(0)
    hidden_TD = torch.randn(tokens, HIDDEN).requires_grad_()
    weight_VD = (torch.randn(VOCABULARY, HIDDEN) * HIDDEN**-0.5).requires_grad_()
    call = CALLS[way](hidden_TD, weight_VD)
    tensors = (hidden_TD, weight_VD)
    peak_kib, first_s = peak_of(call, tensors)
    spent = [first_s]
    for _ in range(2 if first_s < 5 else 0):
        for tensor in tensors:
            tensor.grad = None
        spent.append(measure.seconds(call))
    return {"peak_mib": peak_kib / 1024, "seconds": min(spent), "tokens": float(tokens)}


def peak_of(call: Callable[[], None], tensors: tuple[Tensor, ...]) -> tuple[float, float]:
    """(KiB of resident memory that the call held at most beyond the gradients it leaves, its seconds)."""
    tiny = torch.randn(64, 64, requires_grad=True)
    torch.nn.functional.cross_entropy(tiny @ tiny, torch.arange(64)).backward()  # autograd's own start-up
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS, proc(5)
    before, start = status("VmRSS"), time.perf_counter()
    call()
    spent = time.perf_counter() - start
    gradients = sum(tensor.grad.numel() * 4 for tensor in tensors if tensor.grad is not None) / 1024
    return status("VmHWM") - before - gradients, spent


def status(name: str) -> float:
    """KiB of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name))


def our_call(hidden_TD: Tensor, weight_VD: Tensor) -> Callable[[], None]:
    """Forward KL with the tail in a bucket, on ten stored entries a token."""
    import ours

    return ours.loss_call(hidden_TD, weight_VD, top_k=TOP_K)


def _teacher(hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
    return torch.randn(hidden_TD.shape), torch.randn(VOCABULARY, HIDDEN) * HIDDEN**-0.5


def dense_call(hidden_TD: Tensor, weight_VD: Tensor) -> Callable[[], None]:
    """Plain PyTorch on both sides' full logits."""
    teacher_TD, teacher_VD = _teacher(hidden_TD)

    def call() -> None:
        with torch.no_grad():
            teacher_TV = torch.log_softmax(teacher_TD @ teacher_VD.T, dim=-1)
        student_TV = torch.log_softmax(hidden_TD @ weight_VD.T, dim=-1)
        torch.nn.functional.kl_div(student_TV, teacher_TV, reduction="sum", log_target=True).backward()

    return call


def liger_call(hidden_TD: Tensor, weight_VD: Tensor) -> Callable[[], None]:
    """LigerFusedLinearJSDLoss with beta 0 (forward KL), soft loss alone, not compiled: no Triton is needed then."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    teacher_TD, teacher_VD = _teacher(hidden_TD)
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False, chunk_size=256)
    labels_T = torch.randint(0, VOCABULARY, (len(hidden_TD),))
    return lambda: loss(hidden_TD, weight_VD, teacher_TD, teacher_VD, labels_T).backward()


def trl_call(hidden_TD: Tensor, weight_VD: Tensor) -> Callable[[], None]:
    """The loss of TRL's stable DistillationTrainer, as it calls it."""
    import peers

    teacher_TD, teacher_VD = _teacher(hidden_TD)
    return lambda: peers.chunked_loss(hidden_TD, teacher_TD, weight_VD, teacher_VD).backward()


CALLS = {"ours": our_call, "dense": dense_call, "liger": liger_call, "trl": trl_call}


if __name__ == "__main__":
    main()
