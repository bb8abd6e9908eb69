"""The turns of a chat: messages with `role` and `content`, or ShareGPT's with `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyas.errors import DataError
from eyas.tasks.references import without_reasoning
from eyas.tasks.texts import is_blank, optional_text, text_of

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""Roles that are found in data (OpenAI's, ShareGPT's, Gemma's) -> the role in a prompt."""
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of an assistant's message that hold its reasoning, as servers and data sets call it."""
Turns = tuple[tuple[str, str], ...]


def chat_turns(value: object, *, name: str, system: str | None, where: str) -> tuple[Turns, str | None, str | None]:
    """The prompt, and the reference with its reasoning where the last turn is the assistant's.

    A message's content is text, or a list of parts that are all text. Earlier turns lose their reasoning, as in the
    templates of models that reason; an empty system message is none.

    Raises: DataError, starting with `where`.
    """
    if not isinstance(value, list) or not value:
        found = "an empty one" if isinstance(value, list) else type(value).__name__
        raise DataError(f"{where}: `{name}` must be a list that is not empty, found {found}.")
    turns: list[tuple[str, str]] = []
    reference = reasoning = None
    for number, message in enumerate(value, start=1):
        at = f"{where}, message {number}"
        role, field = _speaker(message, number=number, where=where)
        content = {field: _joined(message.get(field), field, where=at)}
        if role == "system" and isinstance(content[field], str) and is_blank(content[field]):
            continue
        if message.get("tool_calls") and not content[field]:
            raise DataError(f"{at}: calls a tool, and tools are not trained on. Leave such chats out.")
        text = text_of(content, field, where=at)
        if role == "assistant" and number == len(value):
            reference = text
            reasoning = next(filter(None, (optional_text(message, name, where=at) for name in REASONING)), None)
        else:
            turns.append((role, without_reasoning(text, where=at) if role == "assistant" else text))
    if not turns or turns[-1][0] != "user":
        raise DataError(f"{where}: the last message before the reference must be the user's.")
    first = () if system is None or turns[0][0] == "system" else (("system", system),)
    return (*first, *turns), reference, reasoning


def _speaker(message: object, *, number: int, where: str) -> tuple[str, str]:
    """The role of a message, and the name of the field that holds its text."""
    named = isinstance(message, dict) and message.get("from") is not None
    speaker, field = ("from", "value") if named else ("role", "content")
    said = message.get(speaker) if isinstance(message, dict) else None
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        found = f"`{speaker}` {said[:40]!r}" if isinstance(said, str) else f"no `{speaker}`"
        if not isinstance(message, dict):
            found = type(message).__name__
        raise DataError(
            f"{where}: message {number} needs a `{speaker}` out of {', '.join(ROLES)} and a `{field}`, found {found}."
        )
    return role, field


def _joined(content: object, field: str, *, where: str) -> Any:
    """The text of a list of parts; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type", "no text") if isinstance(part, Mapping) else type(part).__name__
            raise DataError(f"{where}: `{field}` holds a part that is no text (found {str(kind)[:40]!r}).")
        texts.append(text)
    return "".join(texts)
