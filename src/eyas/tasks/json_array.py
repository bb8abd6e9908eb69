"""The elements of one large JSON array, parsed one by one as the file is read."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import IO

from eyas.errors import DataError

CHUNK_BYTES = 2**16
NEAR_THE_END = 64
"""Characters before the end of what was read within which an error may only mean that the rest was not read yet."""
_SPACE = " \t\r\n"


def array_elements(file: IO[bytes], *, name: str, longest: int) -> Iterator[object]:
    """Elements of the array that a file holds. Memory holds the longest element, not the file.

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
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.pending, self.position, self.ended = "", 0, False
        self.number = 1

    def malformed(self, why: str) -> DataError:
        return DataError(f"{self.name}, record {self.number}: not JSON ({why}). Expected one array of objects.")

    def read(self) -> None:
        """Read as much again as is pending, so that a long element costs its length, not its square."""
        found = self.file.read(max(CHUNK_BYTES, len(self.pending) - self.position))
        self.ended = not found
        try:
            more = self.decoder.decode(found, final=self.ended)
        except UnicodeDecodeError as error:
            raise DataError(f"{self.name}, at or after record {self.number}: not UTF-8 ({error.reason}).") from error
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
        if not self.next_character():
            raise self.malformed("the file ends too early")
        while True:
            try:
                value, self.position = _DECODER.raw_decode(self.pending, self.position)
                return value
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self.pending) - NEAR_THE_END or error.msg.startswith("Unterminated")
                if self.ended or not unfinished:
                    raise self.malformed(error.msg) from error
            except (ValueError, RecursionError) as error:
                raise self.malformed(str(error)) from error
            if len(self.pending) - self.position > self.longest:
                raise self.malformed(f"an element is longer than {self.longest // 2**20} MiB")
            self.read()


_DECODER = json.JSONDecoder()
