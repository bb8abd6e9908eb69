"""`eyas evaluate MODEL --suite paper` and `--tasks a,b`: benchmarks through lm-evaluation-harness.

Results lie in `evaluations/NAME-harness-HASH/TASK.json` (of a suite, which asks for its own shots and metric,
`TASK--HASH.json`), one a task, so an interrupted suite goes on where it stopped; tasks of the user's own directory are
always run again, since their data may have changed.

Whether the hub answers must be known before its libraries are imported, so they and torch are imported late.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from eyas.errors import MissingExtra, RecipeError
from eyas.suite import Benchmark

HUB = "https://huggingface.co"
PROBE_S = 4.0
"""How long the hub may take to answer before it counts as out of reach."""
Status = Literal[
    "measured", "needs the hub", "needs packages", "needs --unsafe-code", "needs fast mode", "no task", "failed"
]


@dataclass(frozen=True)
class SuiteOptions:
    """How a model is asked."""

    limit: int | None = None
    """At most this many documents a task; None takes all."""
    max_tokens: int | None = None
    """Longest generated answer; None leaves it to each task."""
    chat: bool | None = None
    """Whether prompts go through the chat template; None: if there is one."""
    mode: Literal["reasoning", "fast"] = "fast"
    """What the chat template is told, where it knows of thinking. Choices cannot be scored in `reasoning`."""
    unsafe_code: bool = False
    """Whether code that the model writes may be executed, outside any sandbox."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of one benchmark."""

    name: str
    status: Status
    reason: str = ""
    task: str = ""
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """95 % Wilson interval over the documents; conservative where a document may earn a part of its point."""
    n: int = 0
    shots: int = 0
    version: str = ""
    """The harness's version of the task."""


def require_harness() -> str:
    """The installed version of the harness.

    Raises: MissingExtra.
    """
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        raise MissingExtra("lm-eval", extra="lm-eval", purpose="--suite and --tasks") from None


def go_offline_unless_reachable() -> bool:
    """Whether the hub answers; if not, its libraries are told so before they are imported, and do not wait for it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "ON", "YES", "TRUE"):
        try:
            request = urllib.request.Request(os.environ.get("HF_ENDPOINT", HUB), method="HEAD")
            with urllib.request.urlopen(request, timeout=PROBE_S):
                return True
        except urllib.error.HTTPError:
            return True
        except (OSError, ValueError):
            pass
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_EVALUATE_OFFLINE="1")
    return False


class Harness:
    """A loaded model with the harness's tasks."""

    def __init__(
        self, model: Path, *, options: SuiteOptions, include: Path | None, thinking: Mapping[str, Any], directory: Path
    ) -> None:
        """`thinking`: the thinking format's `close` and `template_argument`. Results go to `directory`."""
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from eyas.recipe import ExecutionSpec
        from eyas.storage.models import device_of, load_model
        from eyas.storage.process import prepare_process
        from eyas.storage.tokenization import load_tokenizer

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if options.unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # what the `code_eval` metric of `evaluate` asks for
        execution = ExecutionSpec()
        prepare_process(execution)
        tokenizer = load_tokenizer(model)
        argument = thinking["template_argument"]
        self.chat = bool(tokenizer.chat_template) if options.chat is None else options.chat
        if self.chat and not tokenizer.chat_template:
            raise RecipeError(f"{model}: the tokenizer has no chat template. Use --no-chat-template.")
        self._options, self._include, self.directory = options, include, directory
        self._tasks = TaskManager(include_path=None if include is None else str(include))
        self._model = HFLM(
            pretrained=load_model(model, dtype=options.dtype, device=device_of(execution)),
            tokenizer=tokenizer,
            backend="causal",
            batch_size=options.batch_size,
            think_end_token=str(thinking["close"]).strip(),
            chat_template_args={argument: options.mode == "reasoning"} if argument else {},
        )

    def require_tasks(self, names: Sequence[str]) -> None:
        """Raises: RecipeError, if the harness knows one of them neither itself nor from the included directory."""
        known = set(self._tasks.all_tasks)
        missing = [name for name in names if name not in known]
        if missing:
            raise RecipeError(
                f"--tasks: lm-evaluation-harness has no {', '.join(missing)} among its {len(known)} tasks. "
                "See `lm_eval ls tasks`, or give the directory of your own with --include-path."
            )

    def measure(self, benchmark: Benchmark) -> list[Outcome]:
        """Run one benchmark if it can be run; a tag of the harness gives one outcome per task."""
        name, task = benchmark.name, benchmark.task_for(chat=self.chat)
        if task is None:
            return [Outcome(name, "no task", "not in lm-evaluation-harness")]
        if benchmark.runs_code and not self._options.unsafe_code:
            return [_unsafe(name, task)]
        file = self.directory / result_file(benchmark, task)
        if file.is_file() and self._include is None:
            return [Outcome(**item) for item in json.loads(file.read_text())]
        try:
            with _quiet():
                loaded = self._tasks.load([task])
        except OSError as error:
            if type(error) is FileNotFoundError:  # the hub's own are subclasses
                return [_failed(name, task, error)]
            gated = "; gated: accept its terms there and log in with `hf auth login`" if benchmark.gated else ""
            return [Outcome(name, "needs the hub", f"{_first_line(error)}{gated}", task)]
        except (ImportError, AssertionError) as error:
            return [Outcome(name, "needs packages", _first_line(error), task)]
        except (ValueError, LookupError, TypeError, AttributeError, TemplateError) as error:  # a task file's mistake
            return [_failed(name, task, error)]
        parts = loaded["tasks"].values()
        if any(getattr(part, "UNSAFE_CODE", False) for part in parts) and not self._options.unsafe_code:
            return [_unsafe(name, task)]
        if self._options.mode == "reasoning" and any(part.OUTPUT_TYPE != "generate_until" for part in parts):
            return [Outcome(name, "needs fast mode", "scores choices, which follow the prompt at once", task)]
        results = self._evaluate([loaded["groups"][task]] if task in loaded["groups"] else list(parts), benchmark)
        outcomes = outcomes_of(benchmark.name, task, benchmark.metric_for(chat=self.chat), results)
        self.directory.mkdir(parents=True, exist_ok=True)
        from eyas.storage.artifacts import atomic_path

        with atomic_path(file) as draft:
            draft.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
        return outcomes

    def _evaluate(self, tasks: list[Any], benchmark: Benchmark) -> Mapping[str, Any]:
        import lm_eval

        options = self._options
        with _quiet():
            results: Mapping[str, Any] = lm_eval.simple_evaluate(
                model=self._model,
                tasks=tasks,
                num_fewshot=benchmark.shots,
                task_manager=self._tasks,
                limit=options.limit,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=self.chat,
                gen_kwargs=None if options.max_tokens is None else {"max_gen_toks": options.max_tokens},
                bootstrap_iters=0,
                log_samples=False,
                confirm_run_unsafe_code=options.unsafe_code,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
        return results


def outcomes_of(name: str, task: str, metric: str | None, results: Mapping[str, Any]) -> list[Outcome]:
    """The benchmark's row, or a row per task where the harness has no value for the whole."""
    counts = results["n-samples"]
    if task not in results["results"]:
        return [_outcome(part, part, None, results, [part]) for part in counts]
    return [_outcome(name, task, metric, results, [task] if task in counts else list(counts))]


def _outcome(name: str, task: str, metric: str | None, results: Mapping[str, Any], leaves: Sequence[str]) -> Outcome:
    from eyas.proportions import wilson

    values = results["results"][task]
    metric = metric or next(key for key in values if "," in key and "_stderr," not in key)
    n = sum(results["n-samples"][leaf]["effective"] for leaf in leaves)
    value = float(values[metric])
    low, high = wilson(value * n, n) if 0 <= value <= 1 else (None, None)
    return Outcome(
        name=name, status="measured", task=task, metric=metric, value=value, low=low, high=high, n=n,
        shots=results["n-shot"][leaves[0]], version=str(results["versions"].get(task, "")),
    )  # fmt: skip


def _unsafe(name: str, task: str) -> Outcome:
    return Outcome(name, "needs --unsafe-code", "executes what the model writes, on this machine, unconfined", task)


def _failed(name: str, task: str, error: Exception) -> Outcome:
    return Outcome(name, "failed", f"the task cannot be loaded: {type(error).__name__}: {_first_line(error)}", task)


def result_file(benchmark: Benchmark, task: str) -> str:
    """Name of the file with a benchmark's result: the same task with other shots or another metric has another."""
    if benchmark == Benchmark(task, task):
        return f"{task}.json"
    digest = hashlib.sha256(json.dumps(asdict(benchmark), sort_keys=True).encode()).hexdigest()
    return f"{task}--{digest[:8]}.json"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:240]


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and its tasks print as they go, which would tear our bars; errors still come as exceptions."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def open_harness(
    origin: str,
    options: SuiteOptions,
    *,
    include: Path | None,
    thinking: str | None,
    workspace: Path,
    harness_version: str,
) -> Harness:
    """The harness on any model; its results' directory is named after model, settings and the harness's version.

    Raises: ModelError; RecipeError, if `include` is no directory or a chat template is asked for that there is not.
    """
    from eyas.measurement import materialised, slug, thinking_of, weights_of
    from eyas.recipe import ModelSpec
    from eyas.storage.models import identity

    if include is not None and not include.is_dir():
        raise RecipeError(f"--include-path {include}: no such directory. Give the one that holds your task files.")
    spec = ModelSpec(from_=weights_of(origin), dtype=options.dtype)
    format_, _ = thinking_of(spec, thinking, workspace)
    settings = {name: value for name, value in asdict(options).items() if name not in ("batch_size", "unsafe_code")}
    text = json.dumps([identity(spec), settings, format_.model_dump(), harness_version], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Harness(
        materialised(spec, workspace),
        options=options,
        include=include,
        thinking=format_.model_dump(),
        directory=workspace / "evaluations" / f"{slug(origin)}-harness-{digest}",
    )
