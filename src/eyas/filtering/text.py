"""A prompt as the text that filters compare."""

from __future__ import annotations

import hashlib
import re

import regex

from eyas.records import Example

_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]")


def written(example: Example) -> str:
    """All messages of the prompt as they are, one space between them."""
    return " ".join(text for _, text in example.prompt)


def normalised(text: str) -> str:
    """Lower case, runs of anything but letters, digits and signs made one space.

    Chinese characters and kana, which are written without spaces, are a word each.
    """
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", text)
    return re.sub(r"[^\w+\-*/=.]+", " ", text.lower()).strip()


def prompt_text(example: Example) -> str:
    """The example's prompt as one normalised text."""
    return normalised(written(example))


def hash_64(text: str) -> int:
    """64 bits of a text's hash: among a million texts two share one with a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
