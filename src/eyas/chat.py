"""Talk to a run's model on the terminal; `/fast` and `/think` switch mode."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from eyas.engines.respondent import load_respondent
from eyas.errors import DataError
from eyas.pipeline import run_model
from eyas.recipe import SamplingSpec, parse_recipe
from eyas.records import Example, Mode
from eyas.storage.artifacts import read_json
from eyas.thinking import parse_completion

HELP = "/fast answers at once, /think reasons first, /new forgets the conversation, /quit leaves."
TURNS_KEPT = 8
"""Messages of the conversation that are sent again with the next one."""


def chat_with(run: Path, *, role: str, temperature: float, max_completion_tokens: int) -> None:
    """Read messages from the terminal until /quit or end of file.

    Raises: ArtifactError, if the run has no such model.
    """
    made = run_model(run, role)
    recipe = parse_recipe(read_json(run / "resolved.json"), where=str(run / "resolved.json"))
    console = Console(highlight=False)
    console.print(f"{recipe.name}, {role}. {HELP}")
    respondent = load_respondent(
        made.path / "model", dtype=str(made.facts["dtype"]), thinking=recipe.thinking, execution=recipe.execution
    )
    sampling = SamplingSpec(temperature=temperature, max_completion_tokens=max_completion_tokens)
    mode: Mode = "reasoning"
    turns: list[tuple[str, str]] = []
    while True:
        try:
            text = console.input(f"[bold]{mode}[/bold] > ").strip()
        except EOFError:
            return
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
            example = Example(key=text, prompt=tuple(asked))
            try:
                (reply,) = respondent.answer(
                    [(example, mode, len(asked))], sampling=sampling, source="student", seed=("chat", text)
                )
            except DataError as error:
                console.print(f"{error} Type /new to start over.", style="red")
                continue
            parsed = parse_completion(reply.text, thinking=recipe.thinking)
            if parsed.thinking:
                console.print(parsed.thinking, style="dim", markup=False)
            console.print(parsed.answer or "(no answer)", markup=False)
            turns = [*asked, ("assistant", parsed.answer)]
