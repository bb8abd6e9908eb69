from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import HOSTILE, RIGHT, N, write_run
from rich.console import Console

from eyas.filtering.reasons import REASONS
from eyas.proportions import wilson
from eyas.records import SequenceRecord
from eyas.report.console import result_table
from eyas.report.evidence import Prediction, read_predictions
from eyas.storage.shards import write_shard

Made = tuple[dict, str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("run")
    summary, page = write_run(root)
    return summary, page, root / "report" / "report.html"


def against(summary: dict, b: str, mode: str) -> dict:
    (found,) = [
        item for item in summary["comparisons"] if (item["a"], item["b"], item["mode"]) == ("distilled", b, mode)
    ]
    return found


def test_the_summary_has_exactly_the_contracts_keys(made: Made) -> None:
    summary, _, _ = made
    assert list(summary["models"]) == ["base", "sft", "control", "control_seconds", "seqkd", "distilled", "teacher"]
    for model in summary["models"].values():
        assert set(model) == {"accuracy", "pass_at_k", "settings", "parameters", "bytes", "latency", "off_task"}
        assert set(model["accuracy"]) == {"reasoning", "fast"}
        beside = {"mean_tokens", "truncated"}
        assert all(set(found) == {"value", "low", "high", "n"} | beside for found in model["accuracy"].values())
    contract = {"a", "b", "mode", "difference", "low", "high", "n"}
    assert all(set(item) == contract | {"outcome", "p_value"} for item in summary["comparisons"])
    assert all(set(item) == {"seconds", "tokens"} for item in summary["cost"].values())
    assert set(summary["cache"]) == {"bytes_per_token", "mean_captured_mass"}


def test_accuracies_and_paired_differences_are_those_counted_by_hand(made: Made) -> None:
    summary, _, _ = made
    assert summary["models"]["distilled"]["accuracy"]["reasoning"] == {
        "value": 160 / 200, "low": wilson(160, N)[0], "high": wilson(160, N)[1], "n": N, "mean_tokens": 5.0,
        "truncated": 0.0,
    }  # fmt: skip
    # Reasoning: distilled has examples 0..159, control 10..143: (160 - 134) / 200 = 13 points, all of them wins.
    found = against(summary, "control", "reasoning")
    assert found["difference"] == pytest.approx(0.13)
    assert 0 < found["low"] < 0.13 < found["high"] < 0.2
    # Wins 0..9 and 144..159, no losses: p = 2 / 2^26.
    assert found["p_value"] == pytest.approx(2 / 2**26)
    # Fast: 0..97 against 2..91: (98 - 90) / 200 = 4 points.
    assert against(summary, "seqkd", "fast")["difference"] == pytest.approx(0.04)
    assert against(summary, "teacher", "reasoning")["difference"] == pytest.approx((160 - 184) / 200)
    assert len(summary["comparisons"]) == 7 * 2


def test_cost_and_cache_are_those_of_the_artifacts(made: Made) -> None:
    summary, _, _ = made
    assert summary["cost"]["sft-reasoning"] == {"seconds": 11.0, "tokens": 50_000}
    # 2 modes x (200 held-out + 20 off-task) answers of 3 + 5 tokens.
    assert summary["cost"]["evaluate.base"]["tokens"] == 2 * 220 * 8
    # Weighted by completion tokens, the divergence's own scores left out: (60*1000 + 20*3000) / 4000.
    assert summary["cache"]["bytes_per_token"] == pytest.approx(30.0)
    assert summary["cache"]["mean_captured_mass"] == pytest.approx((0.95 * 1000 + 0.99 * 3000) / 4000)
    assert summary["regime"]["labelled"] == 100
    assert summary["hardware"]["cpu"] == "Testium 3000"


def test_a_difference_that_is_more_than_chance_has_a_sign_and_not_only_a_colour(made: Made) -> None:
    _, page, _ = made
    assert '<span class="ahead">▲ +13.0</span>' in page
    assert '<span class="behind">▼ −12.0</span>' in page
    assert '<span class="level">▲' not in page


def test_the_first_sentence_says_that_distillation_won(made: Made) -> None:
    summary, page, _ = made
    assert summary["verdict"].startswith(
        "Distillation beat the control: +13.0 points in reasoning mode (95 % interval "
    )
    assert "and +4.0 in fast mode" in summary["verdict"]
    # Right in reasoning: control 134, distilled 160, teacher 184: (160 - 134) / (184 - 134).
    assert "Of the gap between the control and the teacher, distillation closed 52 % in reasoning mode" in page


def test_the_first_lines_say_what_was_forgotten_and_that_the_equal_time_control_was_not_equal(made: Made) -> None:
    _, page, _ = made
    told = "Off the task it forgot: accuracy there fell from 90 to 60 % in reasoning mode (60 % after SFT)"
    assert told in page
    assert re.search(r"The equal-time control got only \d+ % of distillation’s time", page)


def test_how_pass_rates_are_known_and_bad_references_are_counted(made: Made) -> None:
    _, page, _ = made
    row = re.search(r'<th scope="row">distill.1</th><td>weight frontier, only.*', page)
    assert row is not None
    # By sft's four rollouts a prompt; 30 sequences are below the window and 9 above it.
    assert re.findall(r"<td[^>]*>([^<]*)<", row[0])[1:] == ["sft, 4", "123", "0", "477", "460", "39", "0.63–1.13"]
    assert 'their own grader rejects the reference answer</td><td class="n">4<' in page


def test_the_pass_rates_of_each_set_of_rollouts_are_drawn(made: Made) -> None:
    _, page, _ = made
    for number in (1, 2):
        counts = "reasoning 0: 40, 0.25: 20, 1: 10; fast 0: 53"
        assert f'aria-label="distill.{number}.rollout, examples by pass rate: {counts}"' in page


def test_labels_from_the_teacher_are_counted_by_what_speaks_for_them(made: Made) -> None:
    _, page, _ = made
    row = re.search(r'<th scope="row">synthesize</th><td>teacher</td>.*', page)
    assert row is not None
    assert re.findall(r'<td class="n[^>]*>([^<]*)<', row[0]) == ["0", "500", "100", "80.7", "12.0", "14.5"]


def test_every_round_says_how_stale_its_rollouts_became_and_what_was_left_out(made: Made) -> None:
    _, page, _ = made
    for name in ("distill.1", "distill"):
        assert f'{name}</th><td class="n">0.000 <small>[0.000, 0.000]</small></td><td class="n">0.114 <small>' in page
        assert f'{name}</th><td>truncated</td><td></td><td class="n">11</td>' in page
        assert f'{name}</th><td>longer than max length</td><td></td><td class="n">3</td>' in page
    assert "temperature 1, top-p 1" in page
    assert "graded wrong" not in page


def test_every_accuracy_has_its_interval_length_and_truncation_and_every_difference_n_and_p(made: Made) -> None:
    _, page, _ = made
    # Distilled in reasoning mode: the first 160 examples; of the first hundred all, of the second 60.
    section = page.split('<section id="sources">')[1].split("</section>")[0]
    for share, (low, high) in (("100.0", wilson(100, 100)), ("60.0", wilson(60, 100))):
        interval = f"<small>{100 * low:.1f}–{100 * high:.1f}</small>"
        assert f'{share}{interval}<small class="lengths">5.0&nbsp;tokens, 0.0&nbsp;%&nbsp;cut</small>' in section
    assert len(re.findall(r"<th scope=\"row\">(?:more )?sums</th><td class=\"n\">100</td>", section)) == 4
    for name in ("difficulty", "sources", "forgetting"):
        section = page.split(f'<section id="{name}">')[1].split("</section>")[0]
        assert section.count("tokens, 0.0&nbsp;%&nbsp;cut") >= 2 * 7, name
    section = page.split('<section id="forgetting">')[1].split("</section>")[0]
    # Off the task base has 18 of 20 right, the others 12 of them: 6 losses, p = 2 / 2^6.
    assert section.count("p 0.031, n 20") == 6 * 2


def test_the_small_print_says_what_the_accuracies_hang_on(made: Made) -> None:
    _, page, _ = made
    assert "Graders: exact, numeric, version 7. Sampling: greedy, at most 256 tokens." in page
    assert "SHA-256 of the reasoning prompts as rendered: abababababababab." in page
    fast = (
        "fast prompts as rendered, not the same for all models: efefefefefefefef (Base, SFT, Control, "
        "Control, equal time, SeqKD, Distilled); cdcdcdcdcdcdcdcd (Teacher)."
    )
    assert fast in page


def test_of_several_samples_accuracies_are_means_and_pass_at_k_is_shown(tmp_path: Path) -> None:
    summary, page = write_run(tmp_path, bare=True, samples=2)
    # Distilled, reasoning: first samples right on 0..159, second ones on the 80 even of these: (160 + 80) / 400.
    distilled = summary["models"]["distilled"]
    assert distilled["accuracy"]["reasoning"]["value"] == pytest.approx(240 / 400)
    assert distilled["accuracy"]["reasoning"]["n"] == N
    assert distilled["pass_at_k"]["reasoning"]["2"]["value"] == pytest.approx(160 / 200)
    # Control 10..143 has 134 + 67 right answers: 240 / 400 - 201 / 400.
    found = against(summary, "control", "reasoning")
    assert found["difference"] == pytest.approx(39 / 400)
    assert found["n"] == N
    assert "<h3>pass@k</h3>" in page
    assert "temperature 0.7, at most 256 tokens, 2 answers an example" in page
    assert "exact sign test of its shares of right ones" in page


def test_a_prediction_is_the_first_sample_and_the_share_of_right_ones(tmp_path: Path) -> None:
    made = [
        SequenceRecord(
            example_id=example, sample=sample, mode="fast", source="student", prompt_ids=[1],
            completion_ids=[2] * sample, finish_reason="stop", text=f"{example}{sample}", grade=grade,
        )
        for example, grades in (("a", (0.25, 1.0, 1.0, 0.0)), ("b", (None, None)))
        for sample, grade in enumerate(grades)
    ]  # fmt: skip
    write_shard(tmp_path, 0, made[:3], kind=SequenceRecord)
    write_shard(tmp_path, 1, made[3:], kind=SequenceRecord)
    found = read_predictions(tmp_path)
    # Half credit is not right: 2 of 4.
    assert found["a", "fast"] == Prediction(grade=0.5, first_grade=0.25, text="a0", truncated=False, tokens=0)
    assert found["b", "fast"].grade is None


def test_one_greedy_answer_an_example_has_no_pass_at_k(made: Made) -> None:
    _, page, _ = made
    assert "pass@k" not in page


def test_the_first_sentence_says_that_seqkd_won(tmp_path: Path) -> None:
    summary, page = write_run(tmp_path, right={**RIGHT, "seqkd": (range(176), range(98))}, bare=True)
    assert summary["verdict"].startswith(
        "SeqKD won over distillation: distilled minus seqkd is −8.0 points in reasoning"
    )
    assert "no difference shown in fast mode" in summary["verdict"]
    assert first_words(page).startswith("SeqKD won over distillation")


def test_the_first_sentence_says_that_the_control_won(tmp_path: Path) -> None:
    summary, page = write_run(tmp_path, right={**RIGHT, "control": (range(180), range(120))}, bare=True)
    assert summary["verdict"].startswith(
        "The control won over distillation: distilled minus the control is −10.0 points"
    )
    assert "−11.0 in fast mode" in summary["verdict"]
    assert first_words(page).startswith("The control won over distillation")


def test_winning_on_tokens_and_losing_on_wall_clock_is_a_defeat_in_the_first_sentence(tmp_path: Path) -> None:
    right = {**RIGHT, "control_seconds": (range(180), range(98))}
    summary, _ = write_run(tmp_path, right=right, bare=True)
    assert summary["verdict"].startswith("The equal-time control won over distillation")


def test_no_difference_and_a_mixed_result_are_called_so(tmp_path: Path) -> None:
    level = {**RIGHT, "control": (range(2, 161), range(1, 99))}
    summary, _ = write_run(tmp_path / "level", right=level, without=("seqkd", "control_seconds"), bare=True)
    assert summary["verdict"].startswith("No difference shown between distillation and the control")
    mixed = {**RIGHT, "control": (range(120), range(130))}
    summary, _ = write_run(tmp_path / "mixed", right=mixed, without=("seqkd", "control_seconds"), bare=True)
    assert summary["verdict"].startswith("A mixed result: distilled minus the control is +20.0 points in reasoning")


def test_a_bare_run_leaves_out_what_it_does_not_have(tmp_path: Path) -> None:
    without = ("control", "control_seconds", "seqkd", "base")
    summary, page = write_run(tmp_path, without=without, bare=True)
    assert summary["verdict"].startswith("No control was evaluated, so more training alone may explain this")
    assert set(summary["models"]) == {"sft", "distilled", "teacher"}
    for section in ("forgetting", "divergence", "difficulty", "sources", "training"):
        assert f'id="{section}"' not in page
    assert 'id="results"' in page


def test_four_examples_are_not_enough_to_call_a_winner(made: Made) -> None:
    # Fast mode: 98 right against the equal-time control's 94, no losses: the interval excludes zero,
    # but four tosses of a coin fall on one side with p = 2 / 2^4 = 0.125.
    summary, page, _ = made
    assert against(summary, "control_seconds", "fast")["low"] > 0
    assert "no difference shown in fast mode (+2.0," in page


def first_words(page: str) -> str:
    found = re.search(r'<p class="verdict">(.*?)</p>', page)
    return found.group(1) if found else ""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            if key in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.loaded.append(value or "")
            if key.startswith("on"):
                self.handlers.append(key)
            if key == "id":
                self.ids.append(value or "")


def test_the_page_loads_nothing_and_escapes_what_models_wrote(made: Made) -> None:
    _, page, _ = made
    parsed = _Page()
    parsed.feed(page)
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not parsed.tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form"}
    assert not parsed.handlers
    assert all(target.startswith("#") for target in parsed.loaded)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert len(parsed.ids) == len(set(parsed.ids))


def test_every_anchor_has_its_section(made: Made) -> None:
    _, page, _ = made
    parsed = _Page()
    parsed.feed(page)
    assert {target[1:] for target in parsed.loaded} <= set(parsed.ids)


def test_the_terminal_table_names_every_model_and_gain(made: Made) -> None:
    summary, _, _ = made
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(result_table(summary))
    console.file.close()
    text = console.export_text()
    assert "80.0 73.9–85.0" in text
    assert re.search(r"distilled − SeqKD\s+\+5\.0", text)
    assert "n = 200 a mode" in text


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "no Chromium on PATH to open the report in: `apt-get install chromium`, as .ci/run does"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


MEASURE = """<!doctype html><title>measuring</title><body><script>
const wait = [600, 1200].map(width => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = "report.html";
  frame.onload = () => {
    const inside = frame.contentDocument, wide = inside.documentElement.scrollWidth;
    inside.querySelectorAll("details").forEach(item => { item.open = true; });
    const cut = [...inside.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1);
    done(`${width}: page ${wide}, cut [${cut.map(box => box.closest("section").id)}]`);
  };
  document.body.append(frame);
}));
Promise.all(wait).then(lines => { document.title = lines.join("; "); });
</script>"""


def open_in(chromium: str, page: Path, profile: Path, *options: str) -> tuple[str, str]:
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        *options,
    ]
    command += ["--virtual-time-budget=4000", f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_a_real_browser_renders_the_page_without_an_error(made: Made, chromium: str, tmp_path: Path) -> None:
    _, _, path = made
    dom, log = open_in(chromium, path, tmp_path)
    assert "CONSOLE" not in log, log
    assert "Distillation beat the control: +13.0 points" in dom
    assert "Equal tokens, equal wall-clock" in dom
    assert dom.count("<svg") == 2 + 2 + 7 + 2
    assert "</html>" in dom


def test_nothing_overflows_on_a_wide_and_a_narrow_screen(made: Made, chromium: str, tmp_path: Path) -> None:
    _, _, path = made
    (path.parent / "measure.html").write_text(MEASURE)
    dom, _ = open_in(chromium, path.parent / "measure.html", tmp_path, "--allow-file-access-from-files")
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    assert found.group(1) == "600: page 600, cut []; 1200: page 1200, cut []"


def test_the_page_says_what_was_left_out_why_and_what_it_repeats(made: Made) -> None:
    _, page, _ = made
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert f"prepare near duplicate {REASONS['near_duplicate']} 7" in text
    assert f"prepare near evaluation {REASONS['near_evaluation']} 2" in text
    assert "prepare near duplicate 00000000000000aa twice <script>alert(1)</script> 00000000000000bb once" in text
    assert "prepare near evaluation 00000000000000cc trained 00000000000000dd held out" in text
    assert "ids in the exclude file that none of the examples drawn has 5" in text
    assert "test examples: their own grader rejects the reference answer 4" in text
    assert "evaluate.base answered wrong prompts that do not fit into the model's context 6" in text
