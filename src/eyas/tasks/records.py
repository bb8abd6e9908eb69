"""One record to an Example: the schemas that are recognised without configuration."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from eyas.errors import DataError
from eyas.recipe.graders import function_of
from eyas.records import Example
from eyas.tasks.code import code_example

_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's calculator annotations."""
_GSM8K_ANSWER = re.compile(r"####[ \t]*([^\n]*)\Z")
"""In the last line only: elsewhere `####` is a Markdown heading."""
_PROMPTS = {
    "messages": (),
    "conversations": (),
    "question": ("answer", "completion"),
    "prompt": ("answer", "completion"),
    "instruction": ("output",),
}
"""What tells a schema -> where its reference is; a chat ends with it."""
_CHATS = ("messages", "conversations")
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""Roles of chat messages and of ShareGPT's `conversations` -> the role in a prompt."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a schema finds in a row, as text."""

    prompt: tuple[tuple[str, str], ...]
    reference: str | None
    reasoning: str | None = None


def example_of(row: object, *, grader: str, where: str) -> Example:
    """An Example from a row in one of the schemas of docs/data.md, recognised by its keys.

    GSM8K's `####` and a `<think>` block split reasoning from answer; `reasoning`, `level` and `system` are taken in
    every schema, the last one unless a chat begins with its own.

    Raises: DataError, starting with `where`.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}.")
    if grader == "code":
        return code_example(row, where=where)
    parts = _parts(row, where=where)
    reasoning = _optional(row, "reasoning", where=where) or parts.reasoning
    answer = parts.reference
    if answer is not None:
        answer, reasoning = _split_reference(answer, reasoning, where=where)
        if not answer:
            raise DataError(
                f"{where}: the reference has no final answer (an empty text or nothing after its reasoning)."
            )
    return Example(
        key=" ".join(" ".join(text.split()) for _, text in parts.prompt),
        prompt=parts.prompt,
        answer=answer,
        reasoning=reasoning,
        grader=grader,
        level=_optional(row, "level", where=where) or "",
        metadata=_metadata(row, grader, where=where),
    )


def _metadata(row: dict[str, Any], grader: str, *, where: str) -> str:
    """What the grader needs beside the answer, as JSON: IFEval's columns, or `metadata` (text as it is)."""
    if grader == "instructions" and "instruction_id_list" in row:
        value: object = {name: row.get(name) for name in ("instruction_id_list", "kwargs")}
    else:
        value = row.get("metadata") if grader == "instructions" or function_of(grader) is not None else None
    try:
        return "" if value is None else value if isinstance(value, str) else json.dumps(value)
    except TypeError as error:
        raise DataError(f"{where}: `metadata` must be text or JSON ({error}).") from error


def _parts(row: dict[str, Any], *, where: str) -> _Parts:
    present = [name for name in _PROMPTS if name in row]
    if not present:
        found = ", ".join(map(str, list(row)[:8])) or "none"
        raise DataError(
            f"{where}: expected one of `{'`, `'.join(_PROMPTS)}`, found the keys: {found}. "
            "Say what they are with `fields` in the recipe's source: {prompt: …, answer: …}."
        )
    # Tables that join several schemas hold null where a row is of another one.
    name = next((name for name in present if row[name] is not None), present[0])
    system = _optional(row, "system", where=where)
    field = next((key for key in _PROMPTS[name] if row.get(key) is not None), None)
    if name in _CHATS or isinstance(row[name], list):
        turns = row[name]
        if field is not None and isinstance(turns, list):
            reply = row[field]
            turns = [*turns, *(reply if isinstance(reply, list) else [{"role": "assistant", "content": reply}])]
        return _chat(turns, name=name, system=system, where=where)
    text = _text(row, name, where=where)
    if name == "instruction" and str(row.get("input") or "").strip():
        text += "\n\n" + _text(row, "input", where=where)
    reference = None if field is None else _text(row, field, where=where)
    return _Parts(prompt=(*_system(system), ("user", text)), reference=reference)


def _system(text: str | None) -> tuple[tuple[str, str], ...]:
    return () if text is None else (("system", text),)


def _optional(row: dict[str, Any], field: str, *, where: str) -> str | None:
    return None if row.get(field) is None else _text(row, field, where=where)


def _text(row: dict[str, Any], field: str, *, where: str) -> str:
    value = row[field]
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not isfinite(value):
            raise DataError(f"{where}: `{field}` must be text or a finite number, found {value}.")
        value = str(value)
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise DataError(f"{where}: `{field}` must be text, found {found}.")
    if not value.strip():
        raise DataError(f"{where}: `{field}` is empty.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: `{field}` holds half a character (\\u{ord(value[error.start]):04x}).") from error
    return value.strip()


def _chat(value: object, *, name: str, system: str | None, where: str) -> _Parts:
    """Turns of a chat; the last one is the reference, if it is the assistant's."""
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: `{name}` must be a list that is not empty.")
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(value, start=1):
        sharegpt = isinstance(message, dict) and message.get("from") is not None
        speaker, said = ("from", "value") if sharegpt else ("role", "content")
        role = _ROLES.get(str(message.get(speaker))) if isinstance(message, dict) else None
        if role is None:
            raise DataError(f"{where}: message {number} needs a `{speaker}` out of {', '.join(_ROLES)} and a `{said}`.")
        turns.append((role, _text({said: None, **message}, said, where=f"{where}, message {number}")))
    reference = reasoning = None
    if turns[-1][0] == "assistant":
        reference = turns.pop()[1]
        reasoning = _optional(value[-1], "reasoning_content", where=f"{where}, message {len(value)}")
    if not turns or turns[-1][0] != "user":
        raise DataError(f"{where}: the last message before the reference must be the user's.")
    before = () if turns[0][0] == "system" else _system(system)
    return _Parts(prompt=(*before, *turns), reference=reference, reasoning=reasoning)


def _split_reference(text: str, reasoning: str | None, *, where: str) -> tuple[str, str | None]:
    """The final answer and the reasoning; one that a field of its own gives wins over one inside the text."""
    steps, closed, rest = text.partition("</think>")
    if closed:
        reasoning = reasoning or steps.replace("<think>", "", 1).strip() or None
        text = rest.strip()
    elif text.startswith("<think>"):
        raise DataError(f"{where}: `<think>` opens and never closes, so there is no final answer.")
    if gsm8k := _GSM8K_ANSWER.search(text):
        return gsm8k[1].strip(), reasoning or _CALCULATOR.sub("", text[: gsm8k.start()]).strip() or None
    return text, reasoning
