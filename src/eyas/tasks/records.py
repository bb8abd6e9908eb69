"""One JSON object to an Example: the schemas that are recognised without configuration."""

from __future__ import annotations

import re
from typing import Any

from eyas.errors import DataError
from eyas.records import Example

_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's calculator annotations."""
_GSM8K_ANSWER = re.compile(r"####[ \t]*([^\n]*)\Z")
"""In the last line only: elsewhere `####` is a Markdown heading."""
_ROLES = ("system", "user", "assistant")


def example_of(row: object, *, grader: str, where: str) -> Example:
    """An Example from `question`/`answer` (GSM8K's `####` splits reasoning from answer), `prompt`/`completion` or
    chat `messages` (the last assistant message is the reference); `reasoning`, `level` and a `<think>` block too.

    Raises: DataError, starting with `where`.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}.")
    if "messages" in row:
        prompt, reference = _messages(row["messages"], where=where)
    elif "question" in row or "prompt" in row:
        name = "question" if "question" in row else "prompt"
        prompt = (("user", _text(row, name, where=where)),)
        field = next((key for key in ("answer", "completion") if row.get(key) is not None), None)
        reference = None if field is None else _text(row, field, where=where)
    else:
        found = ", ".join(map(str, list(row)[:8])) or "none"
        raise DataError(f"{where}: expected `question`, `prompt` or `messages`, found the keys: {found}.")
    reasoning = _text(row, "reasoning", where=where) if row.get("reasoning") is not None else None
    answer = reference
    if reference is not None:
        answer, reasoning = _split_reference(reference, reasoning, where=where)
        if not answer:
            raise DataError(
                f"{where}: the reference has no final answer (an empty text or nothing after its reasoning)."
            )
    return Example(
        key=" ".join(" ".join(text.split()) for _, text in prompt),
        prompt=prompt,
        answer=answer,
        reasoning=reasoning,
        grader=grader,
        level="" if row.get("level") is None else _text(row, "level", where=where),
    )


def _text(row: dict[str, Any], field: str, *, where: str) -> str:
    value = row[field]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: `{field}` must be text, found {type(value).__name__}.")
    if not value.strip():
        raise DataError(f"{where}: `{field}` is empty.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: `{field}` holds half a character (\\u{ord(value[error.start]):04x}).") from error
    return value.strip()


def _messages(value: object, *, where: str) -> tuple[tuple[tuple[str, str], ...], str | None]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: `messages` must be a list that is not empty.")
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise DataError(f"{where}: message {number} needs a `role` out of {', '.join(_ROLES)} and a `content`.")
        turns.append(
            (message["role"], _text({"content": None, **message}, "content", where=f"{where}, message {number}"))
        )
    reference = turns.pop()[1] if turns[-1][0] == "assistant" else None
    if not turns or turns[-1][0] != "user":
        raise DataError(f"{where}: the last message before the reference must be the user's.")
    return tuple(turns), reference


def _split_reference(text: str, reasoning: str | None, *, where: str) -> tuple[str, str | None]:
    if gsm8k := _GSM8K_ANSWER.search(text):
        return gsm8k[1].strip(), reasoning or _CALCULATOR.sub("", text[: gsm8k.start()]).strip() or None
    steps, closed, answer = text.partition("</think>")
    if closed:
        return answer.strip(), reasoning or steps.replace("<think>", "", 1).strip() or None
    if text.startswith("<think>"):
        raise DataError(f"{where}: `<think>` opens and never closes, so there is no final answer.")
    return text, reasoning
