"""The elements of one large JSON array, parsed one by one as the file is read."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from eyas.errors import DataError

CHUNK_BYTES = 2**16
NEAR_THE_END = 64
"""Characters before the end of what was read within which an error may only mean that the rest was not read yet."""
_SPACE = " \t\r\n"
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
"""What decides where an element ends: whole strings, brackets and commas."""


def array_elements(file: IO[bytes], *, name: str, longest: int) -> Iterator[object]:
    """Elements of the array that a file holds. Memory holds the longest element, not the file.

    An element that is not JSON is given as the DataError that says so, where its brackets and quotes show its end.

    Raises: DataError, with the number of the record at which the text is no longer a JSON array, or whose element
    is longer than `longest` characters.
    """
    text = _Text(file, name=name, longest=longest)
    text.expect("[")
    if text.next_character() == "]":
        text.expect("]")
    else:
        while True:
            yield text.value()
            text.number += 1
            if text.next_character() == "]":
                text.expect("]")
                break
            text.expect(",")
    if text.next_character():
        raise text.malformed("more text after the array's end")


class _Text:
    """The part of the file that was read and not yet parsed."""

    def __init__(self, file: IO[bytes], *, name: str, longest: int) -> None:
        self.file, self.name, self.longest = file, name, longest
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self.pending, self.position, self.ended = "", 0, False
        self.number = 1

    def malformed(self, why: str) -> DataError:
        return DataError(f"{self.name}, record {self.number}: not JSON ({why}). Expected one array of objects.")

    def read(self) -> None:
        """Read as much again as is pending, so that a long element costs its length, not its square."""
        found = self.file.read(max(CHUNK_BYTES, len(self.pending) - self.position))
        self.ended = not found
        more = self.decoder.decode(found, final=self.ended)
        self.pending, self.position = self.pending[self.position :] + more, 0

    def next_character(self) -> str:
        """The next character that is no space, not consumed; empty at the end."""
        while True:
            while self.position < len(self.pending):
                if self.pending[self.position] not in _SPACE:
                    return self.pending[self.position]
                self.position += 1
            if self.ended:
                return ""
            self.read()

    def expect(self, character: str) -> None:
        found = self.next_character()
        if found != character:
            raise self.malformed(f"expected {character!r}, found {found!r}" if found else "the file ends too early")
        self.position += 1

    def value(self) -> object:
        """The next element, consumed; the DataError that says why it is none, if its end can be told."""
        if not self.next_character():
            raise self.malformed("the file ends too early")
        while True:
            try:
                value, end = DECODER.raw_decode(self.pending, self.position)
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self.pending) - NEAR_THE_END or error.msg.startswith("Unterminated")
                if self.ended or not unfinished:
                    return self.skipped(self.malformed(error.msg))
            except (ValueError, RecursionError) as error:
                return self.skipped(self.malformed(json_problem(error)))
            else:
                text, self.position = self.pending[self.position : end], end
                return value if _is_utf8(text) else DataError(f"{self.name}, record {self.number}: not UTF-8.")
            self.read_on()

    def skipped(self, problem: DataError) -> DataError:
        """`problem`, once the element that has it is consumed.

        Raises: DataError, `problem` itself, if nothing in the text says where the next element begins.
        """
        while (end := self.end_of_element()) is None:
            if self.ended:
                raise problem
            self.read_on()
        self.position = end
        return problem

    def end_of_element(self) -> int | None:
        """Where the comma or bracket after the element stands; None if that was not read yet."""
        depth = 0
        for piece in _PIECE.finditer(self.pending, self.position):
            found = piece[0]
            if found in "[{":
                depth += 1
            elif depth == 0 and found in ",]":
                return piece.start()
            elif found in "]}":
                depth -= 1
        return None

    def read_on(self) -> None:
        if len(self.pending) - self.position > self.longest:
            raise self.malformed(f"an element is longer than {self.longest // 2**20} MiB")
        self.read()


def json_problem(error: Exception) -> str:
    """Why a text is not JSON, in few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, _RepeatedKey) else "a number has too many digits"


class _RepeatedKey(ValueError):
    """An object has two values under one key, so it is not clear which is meant."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(f"the key {next(key for key in keys if keys.count(key) > 1)[:40]!r} is there twice")
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


DECODER = json.JSONDecoder(object_pairs_hook=_object)
