"""The texts of a record: checked one by one, so that what is no text is said where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

from eyas.errors import DataError

SHOWN_KEYS, SHOWN_LENGTH = 8, 40
"""Of a record's keys, and of each key's characters, in an error."""
_INVISIBLE = re.compile(r"[\s\u200b-\u200d\u2060\ufeff]*")


def text_of(row: Mapping[str, Any], field: str, *, where: str) -> str:
    """A field's text without white space around it; a number as it is written.

    Raises: DataError, if it is anything else, empty, or holds what no text can: a NUL character or half a character.
    """
    value = row[field]
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not isinstance(value, int) and not isfinite(value):
            raise DataError(f"{where}: `{field}` must be text or a finite number, found {value}.")
        value = str(value)
    if not isinstance(value, str):
        found = "nothing" if value is None else type(value).__name__
        raise DataError(f"{where}: `{field}` must be text, found {found}.")
    if is_blank(value):
        raise DataError(f"{where}: `{field}` is empty.")
    if "\0" in value:
        raise DataError(f"{where}: `{field}` holds a NUL character, so it was no text or was damaged.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: `{field}` holds half a character (\\u{ord(value[error.start]):04x}).") from error
    return value.strip()


def optional_text(row: Mapping[str, Any], field: str, *, where: str) -> str | None:
    """As `text_of`; None where the field is missing, null or empty.

    Raises: as `text_of`.
    """
    value = row.get(field)
    return None if value is None or (isinstance(value, str) and is_blank(value)) else text_of(row, field, where=where)


def is_blank(text: str) -> bool:
    """Whether nothing would be seen of it: white space, or characters without a width."""
    return _INVISIBLE.fullmatch(text) is not None


def shown_keys(row: Iterable[object]) -> str:
    """The first keys of a record, for an error; those that a terminal could not show are escaped."""
    keys = [_shown(str(key)) for _, key in zip(range(SHOWN_KEYS + 1), row, strict=False)]
    return ", ".join(keys[:SHOWN_KEYS] + ["…"] * (len(keys) > SHOWN_KEYS)) or "none"


def _shown(key: str) -> str:
    key = key if len(key) <= SHOWN_LENGTH else key[: SHOWN_LENGTH - 1] + "…"
    return key if key.isprintable() else key.encode("unicode_escape").decode()
