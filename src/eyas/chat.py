"""Talk to a run's model, to weights or to an exported file, on the terminal; `/fast` and `/think` switch mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from eyas.errors import DataError, ModelError
from eyas.recipe import THINKING_FORMATS, ExecutionSpec, SamplingSpec, ThinkingSpec, parse_recipe
from eyas.records import Example, Mode
from eyas.runtimes.dialogue import Dialogue, open_dialogue, texts
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.runtime import Runtime, Timings
from eyas.runtimes.server import default_context
from eyas.storage.gguf import read_gguf_head
from eyas.thinking import begins_thinking, format_of_template, parse_completion, stream_parts

HELP = (
    "/fast answers at once, /think reasons first, /new forgets the conversation, /quit leaves; Ctrl-C stops an answer."
)
TURNS_KEPT = 8
"""Messages of the conversation that are sent again with the next one."""
Turns = list[tuple[str, str]]
"""(role, text) each."""
Answer = Callable[[Turns, Mode], str]
"""Prints the answer to the last of these messages, and returns it without its thinking."""


def chat_with_run(run: Path, *, role: str, temperature: float, max_completion_tokens: int) -> None:
    """Read messages from the terminal until /quit or end of file.

    Raises: ArtifactError, if the run has no such model.
    """
    from eyas.pipeline import run_model
    from eyas.storage.artifacts import read_json

    made = run_model(run, role)
    recipe = parse_recipe(read_json(run / "resolved.json"), where=str(run / "resolved.json"))
    _chat_in_torch(
        made.path / "model", f"{recipe.name}, {role}.", dtype=str(made.facts["dtype"]), thinking=recipe.thinking,
        execution=recipe.execution,
        sampling=SamplingSpec(temperature=temperature, max_completion_tokens=max_completion_tokens),
    )  # fmt: skip


def chat_with_weights(path: Path, *, temperature: float, max_completion_tokens: int) -> None:
    """As `chat_with_run`, with the model in a Hugging Face directory, in float32.

    Raises: ModelError, if it cannot be loaded.
    """
    from eyas.storage.tokenization import load_tokenizer

    template = str(load_tokenizer(path).chat_template or "")
    _chat_in_torch(
        path, f"{path.name}.", dtype="float32", thinking=THINKING_FORMATS[format_of_template(template)],
        execution=ExecutionSpec(),
        sampling=SamplingSpec(temperature=temperature, max_completion_tokens=max_completion_tokens),
    )  # fmt: skip


def _chat_in_torch(
    path: Path, title: str, *, dtype: str, thinking: ThinkingSpec, execution: ExecutionSpec, sampling: SamplingSpec
) -> None:
    from eyas.engines.respondent import load_respondent

    console = Console(highlight=False)
    respondent = load_respondent(path, dtype=dtype, thinking=thinking, execution=execution)

    def answer(turns: Turns, mode: Mode) -> str:
        text = turns[-1][1]
        (reply,) = respondent.answer(
            [(Example(key=text, prompt=tuple(turns)), mode, len(turns))],
            sampling=sampling, source="student", seed=("chat", text),
        )  # fmt: skip
        parsed = parse_completion(reply.text, thinking=thinking)
        if parsed.thinking:
            console.print(parsed.thinking, style="dim", markup=False)
        console.print(parsed.answer or "(no answer)", markup=False)
        return parsed.answer

    _talk(console, title, answer)


def chat_with_file(
    path: Path, *, temperature: float, max_completion_tokens: int, threads: int | None, context_length: int | None
) -> None:
    """As `chat_with_run`, with a GGUF file or a directory of graphs; answers appear token by token.

    `context_length` is of a GGUF; 4096 tokens, or what the model was trained for, if None.

    Raises: ModelError, if the file is damaged, or carries no tokenizer or chat template; MissingExtra.
    """
    if path.is_file() and context_length is None:
        context_length = default_context(read_gguf_head(path))
    with open_runtime(path, threads=threads, context_length=context_length) as runtime:
        console = Console(highlight=False)
        dialogue = open_dialogue(path, runtime)

        def answer(turns: Turns, mode: Mode) -> str:
            prompt_ids = dialogue.encode_chat(turns, mode)
            ids = runtime.generate(
                prompt_ids, max_tokens=max_completion_tokens, stop_ids=dialogue.stop_ids, temperature=temperature,
                seed=len(turns),
            )  # fmt: skip
            answer_ids = (token for token in ids if token not in dialogue.stop_ids)
            return print_stream(console, answer_ids, prompt_ids=prompt_ids, dialogue=dialogue, runtime=runtime)

        _talk(console, f"{path.name} in {runtime.name} {runtime.version}.", answer)


def _talk(console: Console, title: str, answer: Answer) -> None:
    console.print(f"{title} {HELP}")
    mode: Mode = "reasoning"
    turns: Turns = []
    while True:
        try:
            text = console.input(f"[bold]{mode}[/bold] > ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        except UnicodeDecodeError as error:
            console.print(f"What was typed is no {error.encoding} ({error.reason}). Say it otherwise.", style="red")
            continue
        if text in ("/quit", "/exit"):
            return
        if text in ("/fast", "/think"):
            mode = "fast" if text == "/fast" else "reasoning"
        elif text == "/new":
            turns = []
        elif text.startswith("/"):
            console.print(HELP)
        elif text:
            asked = [*turns[-TURNS_KEPT:], ("user", text)]
            try:
                said = answer(asked, mode)
            except (DataError, ModelError) as error:
                console.print(f"{error} Type /new to start over.", style="red", markup=False)
                continue
            except KeyboardInterrupt:
                console.print("\n(stopped; not part of the conversation)")
                continue
            turns = [*asked, ("assistant", said)]


def print_stream(
    console: Console, ids: Iterable[int], *, prompt_ids: Sequence[int], dialogue: Dialogue, runtime: Runtime
) -> str:
    """Print an answer as its ids come, thinking dim, and how fast `runtime` made it; the answer without thinking."""
    begun = begins_thinking(dialogue.decode(prompt_ids), thinking=dialogue.thinking)
    parts = {True: "", False: ""}
    for thinks, text in stream_parts(texts(ids, dialogue=dialogue), thinking=dialogue.thinking, begun=begun):
        if parts[True] and not thinks and not parts[False]:
            console.print()
        parts[thinks] += text
        console.print(text, end="", style="dim" if thinks else None, markup=False, soft_wrap=True)
        console.file.flush()
    console.print("" if parts[False] else "(no answer)" if not parts[True] else "\n(no answer)")
    console.print(speed(runtime.timings()), style="dim")
    return parts[False]


def speed(timings: Timings) -> str:
    """One line on the last reply: prompt, time to the first token, tokens a second after it."""
    first = f"{timings.prompt_tokens} tokens in, first token after {timings.prefill_s * 1e3:.0f} ms (TTFT)"
    total_s = sum(timings.decode_s)
    rate = f", {len(timings.decode_s) / total_s:.0f} tokens/s" if total_s else ""
    return f"{first}, {timings.completion_tokens} out{rate}"
