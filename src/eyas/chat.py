"""Talk to a run's model on the terminal; `/fast` and `/think` switch mode."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from eyas.engines.transformers import TransformersEngine
from eyas.errors import DataError
from eyas.pipeline import run_model
from eyas.recipe import ExecutionSpec, parse_recipe
from eyas.records import Mode
from eyas.storage.artifacts import read_json
from eyas.storage.tokenization import load_tokenizer
from eyas.thinking import parse_completion

HELP = "/fast answers at once, /think reasons first, /new forgets the conversation, /quit leaves."
MAX_TURNS_KEPT = 8
"""Messages of the conversation that are sent again with the next one."""


def chat_with(run: Path, *, role: str, temperature: float) -> None:
    """Read messages from the terminal until /quit or end of file.

    Raises: ArtifactError, if the run has no such model.
    """
    path = run_model(run, role)
    recipe = parse_recipe(read_json(run / "resolved.json"), where=str(run / "resolved.json"))
    console = Console()
    console.print(f"{recipe.name}, {role}. {HELP}", highlight=False)
    tokenizer = load_tokenizer(path)
    engine = TransformersEngine(path, execution=ExecutionSpec(device=recipe.execution.device))
    mode: Mode = "reasoning"
    turns: list[tuple[str, str]] = []
    while True:
        try:
            text = console.input(f"[bold]{mode}[/bold] > ").strip()
        except EOFError:
            return
        if text in ("/quit", "/exit"):
            return
        if text in ("/fast", "/think", "/new", "/help"):
            mode = "fast" if text == "/fast" else "reasoning" if text == "/think" else mode
            turns = [] if text == "/new" else turns
            console.print({"/help": HELP, "/new": "A new conversation."}.get(text, f"Mode: {mode}."), highlight=False)
            continue
        if not text:
            continue
        turns = [*turns[-MAX_TURNS_KEPT:], ("user", text)]
        try:
            reply = _reply(engine, tokenizer, turns, mode, recipe, temperature=temperature)
        except DataError as error:
            console.print(f"{error} Type /new to start over.", highlight=False, style="red")
            continue
        answer = parse_completion(reply, thinking=recipe.thinking)
        if answer.thinking:
            console.print(answer.thinking, style="dim", highlight=False, markup=False)
        console.print(answer.answer or "(no answer)", highlight=False, markup=False)
        turns.append(("assistant", answer.answer))
