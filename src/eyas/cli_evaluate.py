"""`eyas evaluate`: a recipe's evaluation stages, or any model on a file of examples or on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from eyas.cli_measure import measure_on_file, run_benchmarks

if TYPE_CHECKING:
    from eyas.records import Mode

EXAMPLES = (
    "Examples:",
    "eyas evaluate HuggingFaceTB/SmolLM2-135M-Instruct --data test.jsonl --limit 200",
    "eyas evaluate runs/NAME/models/distilled --baseline runs/NAME/models/sft --data test.jsonl",
    "eyas evaluate MODEL --data test.jsonl --samples 8 --temperature 0.7",
    "eyas evaluate MODEL --suite paper --limit 100",
)
OF_FILE, OF_BENCHMARKS, OF_RECIPE = "On a file of examples", "On benchmarks", "Of a recipe"
RECIPES = (".yaml", ".yml")


class RunStage(Protocol):
    """Runs one type of stage of a recipe, and what it needs."""

    def __call__(
        self, path: Path, out: Path, overrides: list[str] | None, limit: int | None, *, stage: str, name: str | None
    ) -> None:
        """Run to the end or continue."""


Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|MODEL",
        help="Recipe (*.yaml), or a model: hub id, directory, builtin:NAME, runs/NAME/models/ROLE.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Workspace: artifacts, runs and evaluations are kept here.")]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="At most this many examples.")]
Name = Annotated[
    str | None,
    typer.Option("--name", rich_help_panel=OF_RECIPE, help="Only the stage of this name, not all of the type."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", rich_help_panel=OF_RECIPE, metavar="KEY=VALUE", help="Override a field: seed=1."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", rich_help_panel=OF_FILE, metavar="FILE", help="Examples with answers."),
]
Grader = Annotated[
    str | None,
    typer.Option("--grader", rich_help_panel=OF_FILE, help="How answers are checked (docs/graders.md); else numeric."),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        rich_help_panel=OF_FILE,
        metavar="MODEL",
        help="Compare with this model, example by example.",
    ),
]
Thinking = Annotated[
    str | None, typer.Option("--thinking", help="plain, qwen3 or pangu; guessed from run or template.")
]
Modes = Annotated[
    str | None, typer.Option("--modes", help="reasoning, fast or both with a comma; both if the model thinks.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Longest completion; 512, or what a benchmark says.", show_default=False),
]
Temperature = Annotated[float, typer.Option("--temperature", rich_help_panel=OF_FILE, min=0.0, help="0 is greedy.")]
Samples = Annotated[
    int,
    typer.Option("--samples", rich_help_panel=OF_FILE, min=1, help="Answers per example; needs a temperature."),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the samples, and of which examples --limit takes.")]
Dtype = Annotated[Literal["float32", "bfloat16", "float16"], typer.Option("--dtype", help="Type of the weights.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Completions decoded together; 64, benchmarks 8.", show_default=False),
]
Suite = Annotated[
    Literal["paper"] | None, typer.Option("--suite", rich_help_panel=OF_BENCHMARKS, help="The paper's benchmarks.")
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        rich_help_panel=OF_BENCHMARKS,
        metavar="A,B",
        help="Tasks of lm-evaluation-harness, instead of --data.",
    ),
]
Include = Annotated[
    Path | None,
    typer.Option("--include-path", rich_help_panel=OF_BENCHMARKS, help="Directory with task files of your own."),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat-template/--no-chat-template",
        rich_help_panel=OF_BENCHMARKS,
        help="Whether prompts go through the chat template; they do if there is one.",
        show_default=False,
    ),
]
UnsafeCode = Annotated[
    bool,
    typer.Option(
        "--unsafe-code", rich_help_panel=OF_BENCHMARKS, help="Execute code that the model writes, unconfined."
    ),
]


def register(app: typer.Typer, *, run_stage: RunStage) -> None:
    """Add the command to `app`."""

    def evaluate(
        target: Target,
        data: Data = None,
        baseline: Baseline = None,
        suite: Suite = None,
        tasks: Tasks = None,
        include_path: Include = None,
        modes: Modes = None,
        thinking: Thinking = None,
        grader: Grader = None,
        limit: Limit = None,
        max_tokens: MaxTokens = None,
        temperature: Temperature = 0.0,
        samples: Samples = 1,
        seed: Seed = 0,
        dtype: Dtype = "float32",
        batch_size: BatchSize = None,
        chat_template: Chat = None,
        unsafe_code: UnsafeCode = False,
        out: Out = Path("runs"),
        name: Name = None,
        set_: Set = None,
    ) -> None:
        """Measure a recipe's models on its held-out examples, or any model on a file of examples or on benchmarks.

        A recipe runs first what its evaluation needs and skips what is done.
        """
        given = {"--data": data, "--suite": suite, "--tasks": tasks}
        if target.endswith(RECIPES):
            of_models: dict[str, object] = {"--baseline": baseline, "--modes": modes, "--thinking": thinking}
            of_models |= {"--grader": grader, "--chat-template": chat_template is not None}
            of_models |= {"--max-tokens": max_tokens, "--temperature": temperature, "--samples": samples > 1}
            of_models |= {"--seed": seed, "--dtype": dtype != "float32", "--batch-size": batch_size}
            of_models |= {"--include-path": include_path, "--unsafe-code": unsafe_code}
            refuse(f"{target} is a recipe, which says all that itself (or --set does)", given | of_models)
            run_stage(Path(target), out, set_, limit, stage="evaluate", name=name)
            return
        refuse(f"{target} is taken for a model, not a recipe (*.yaml)", {"--name": name, "--set": set_})
        _require_one(target, given)
        common: dict[str, Any] = {"limit": limit, "seed": seed, "dtype": dtype}
        if data is None:
            own = {"--baseline": baseline, "--grader": grader, "--temperature": temperature, "--samples": samples > 1}
            refuse("benchmarks have graders and sampling of their own", own)
            common |= {"max_tokens": max_tokens, "chat": chat_template, "unsafe_code": unsafe_code}
            common |= {"batch_size": batch_size or 8, "mode": _one_mode(modes)}
            run_benchmarks(target, common, suite, tasks, include=include_path, thinking=_known(thinking), out=out)
            return
        benchmarks = {"--include-path": include_path, "--unsafe-code": unsafe_code}
        refuse("--data has nothing to do with benchmarks", benchmarks | {"--chat-template": chat_template is not None})
        if samples > 1 and temperature == 0:
            refuse("a greedy answer is the same every time; --temperature 0.7 samples", {"--samples": samples})
        common |= {"samples": samples, "thinking": _known(thinking), "modes": _modes(modes)}
        sampling = {"temperature": temperature, "max_completion_tokens": max_tokens or 512}
        measure_on_file(target, data, grader, sampling, common, batch_size or 64, baseline=baseline, out=out)

    app.command(epilog="\n\n".join(EXAMPLES))(evaluate)


def refuse(reason: str, options: Mapping[str, object]) -> None:
    """Raises: RecipeError, if one of the options was given."""
    from eyas.errors import RecipeError

    given = [name for name, value in options.items() if value]
    if given:
        raise RecipeError(f"{reason}. Drop {' and '.join(given)}.")


def _require_one(target: str, options: Mapping[str, object]) -> None:
    from eyas.errors import RecipeError

    given = [name for name, value in options.items() if value]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise RecipeError(f"{target}: expected one of --data FILE, --suite paper and --tasks A,B, found {found}.")


def _modes(text: str | None) -> tuple[Mode, ...] | None:
    from eyas.errors import RecipeError
    from eyas.records import MODES

    wanted = None if text is None else [part.strip() for part in text.split(",")]
    if wanted is None:
        return None
    if not set(wanted) <= set(MODES):
        raise RecipeError(f"--modes {text}: expected {' and '.join(MODES)}, separated by a comma.")
    return tuple(mode for mode in MODES if mode in wanted)


def _one_mode(text: str | None) -> Mode:
    from eyas.errors import RecipeError

    wanted = _modes(text) or ("fast",)
    if len(wanted) > 1:
        raise RecipeError(f"--modes {text}: benchmarks run in one mode at a time. Give fast or reasoning.")
    return wanted[0]


def _known(name: str | None) -> str | None:
    from eyas.errors import RecipeError
    from eyas.recipe import THINKING_FORMATS

    if name is not None and name not in THINKING_FORMATS:
        raise RecipeError(f"--thinking {name}: unknown; known: {', '.join(THINKING_FORMATS)}.")
    return name
