"""One record to an Example: the schemas that are recognised without configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from eyas.errors import DataError
from eyas.recipe.graders import function_of
from eyas.records import Example
from eyas.tasks.chats import Turns, chat_turns
from eyas.tasks.choices import choices_of, letter_of, listed
from eyas.tasks.code import code_example
from eyas.tasks.references import split_reference
from eyas.tasks.texts import optional_text, shown_keys, text_of

_REPLIES = ("answer", "completion", "response", "output")
_PROMPTS = {
    "messages": (),
    "conversations": (),
    "question": _REPLIES,
    "prompt": _REPLIES,
    "instruction": ("output", "response", "completion", "answer"),
}
"""What tells a schema -> where its reference is; a chat ends with it."""
_CHATS = ("messages", "conversations")
SCHEMA_KEYS = {*_PROMPTS, *_REPLIES, "input", "context", "system", "reasoning", "level"}
"""Keys that mean something in some schema."""
_LIKE_PROMPTS = ("question", "prompt", "problem", "query", "instruction", "input", "task", "text", "conversation")
_LIKE_ANSWERS = ("answer", "solution", "response", "completion", "output", "target", "label", "gold", "result")
"""Names that prompts and answers go by elsewhere, likeliest first: what an error proposes, never what is read."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a schema finds in a row, as text."""

    prompt: Turns
    reference: str | None
    reasoning: str | None = None


def example_of(row: object, *, grader: str, where: str) -> Example:
    """An Example from a row in one of the schemas of docs/data.md, recognised by its keys.

    GSM8K's `####` and a `<think>` block split reasoning from answer; `reasoning`, `level` and `system` are taken in
    every schema, the last one unless a chat begins with its own.

    Raises: DataError, starting with `where`.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}. Name its fields.")
    if grader == "code":
        return code_example(row, where=where)
    parts = _parts(row, where=where)
    reasoning = optional_text(row, "reasoning", where=where) or parts.reasoning
    answer = parts.reference
    if answer is not None:
        answer, reasoning = split_reference(answer, reasoning, where=where)
    return Example(
        key=" ".join(" ".join(text.split()) for _, text in parts.prompt),
        prompt=parts.prompt,
        answer=answer,
        reasoning=reasoning,
        grader=grader,
        level=optional_text(row, "level", where=where) or "",
        metadata=_metadata(row, grader, where=where),
    )


def _metadata(row: dict[str, Any], grader: str, *, where: str) -> str:
    """What the grader needs beside the answer, as JSON: IFEval's columns, or `metadata` (text as it is)."""
    if grader == "instructions" and "instruction_id_list" in row:
        value: object = {name: row.get(name) for name in ("instruction_id_list", "kwargs")}
    else:
        value = row.get("metadata") if grader == "instructions" or function_of(grader) is not None else None
    try:
        if isinstance(value, str):
            return value if text_of(row, "metadata", where=where) else ""
        return "" if value is None else json.dumps(value)
    except TypeError as error:
        raise DataError(f"{where}: `metadata` must be text or JSON ({error}). Write it as text.") from error


def _advice(row: dict[str, Any]) -> str:
    """The `fields` line that this record's keys suggest."""
    known = {key.lower(): key for key in row if isinstance(key, str) and key.isidentifier() and row[key] is not None}
    guessed = {
        ours: next((known[name] for name in names if name in known), "…")
        for ours, names in {"prompt": _LIKE_PROMPTS, "answer": _LIKE_ANSWERS}.items()
    }
    fields = ", ".join(f"{ours}: {theirs}" for ours, theirs in guessed.items())
    holding = [key for key, value in row.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(row) == 1 and holding:
        return f"If `{shown_keys(holding)}` are the records, save that list alone."
    return (
        f"Say what they are called in the recipe's source, for instance `fields: {{{fields}}}` "
        f"(`eyas init --fields {fields.replace(': ', '=').replace(', ', ',')}` writes it)."
    )


def _parts(row: dict[str, Any], *, where: str) -> _Parts:
    present = [name for name in _PROMPTS if name in row]
    if not present:
        raise DataError(
            f"{where}: expected one of `{'`, `'.join(_PROMPTS)}`, found the keys: {shown_keys(row)}. {_advice(row)}"
        )
    # Tables that join several schemas hold null where a row is of another one.
    name = next((name for name in present if row[name] is not None), present[0])
    system = optional_text(row, "system", where=where)
    field = next((key for key in _PROMPTS[name] if row.get(key) is not None), None)
    if name in _CHATS or isinstance(row[name], list):
        turns = row[name]
        if field is not None and isinstance(turns, list):
            reply = row[field]
            turns = [*turns, *(reply if isinstance(reply, list) else [{"role": "assistant", "content": reply}])]
        return _Parts(*chat_turns(turns, name=name, system=system, where=where))
    text = text_of(row, name, where=where)
    if name == "instruction":
        inputs = (optional_text(row, given, where=where) for given in ("input", "context"))
        text = "\n\n".join(filter(None, [text, *inputs]))
    if choices := choices_of(row):
        text += "\n\n" + listed(choices, where=where)
        answer = row.get("answerKey") if field is None else row[field]
        reference = None if answer is None else letter_of(answer, choices, row, where=where)
    else:
        reference = None if field is None else text_of(row, field, where=where)
    first = () if system is None else (("system", system),)
    return _Parts(prompt=(*first, ("user", text)), reference=reference)
