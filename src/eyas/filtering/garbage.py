"""Prompts that no one wrote: broken encodings, one character or one line over and over.

In the spirit of Gopher's repetition rules (arXiv 2112.11446, table A1), which are for web pages: code, grids of digits
and tables exceed their thresholds (30 % duplicate lines, 16 to 20 % in one run of words), so those here ask for half of
a long text, and count only lines and runs of words, not of digits and signs.
"""

from __future__ import annotations

import re
from collections import Counter

BROKEN_SHARE = 0.1
"""Of characters that are U+FFFD, or control characters that are no white space."""
LONG_CHARACTERS, LONG_LINES, LONG_WORDS = 200, 10, 100
"""A text below these is not looked at for repetition."""
REPEATED_SHARE = 0.5
RUN = 3
"""Words of a repeated run, and the least a repeated line has."""
_BROKEN = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd]")
_RUN_OF_ONE = re.compile(r"(\S)\1{19,}")
_WORD = re.compile(r"[^\W\d_]{2,}")
"""Single letters may be the cells of a grid."""


def is_garbage(prompt: str) -> bool:
    """Whether a prompt, as it is written, is broken or mostly repetition of one thing."""
    if len(_BROKEN.findall(prompt)) > BROKEN_SHARE * len(prompt):
        return True
    if len(prompt) < LONG_CHARACTERS:
        return False
    if max((len(found.group()) for found in _RUN_OF_ONE.finditer(prompt)), default=0) > REPEATED_SHARE * len(prompt):
        return True
    return _one_line(prompt) or _one_run(prompt)


def _one_line(prompt: str) -> bool:
    lines = [line.strip() for line in prompt.splitlines() if line.strip()]
    if len(lines) < LONG_LINES:
        return False
    line, times = Counter(lines).most_common(1)[0]
    return len(_WORD.findall(line)) >= RUN and times * len(line) > REPEATED_SHARE * sum(map(len, lines))


def _one_run(prompt: str) -> bool:
    words = prompt.split()
    if len(words) < LONG_WORDS:
        return False
    runs = list(zip(*(words[start:] for start in range(RUN)), strict=False))
    run, _ = Counter(runs).most_common(1)[0]
    if not all(map(_WORD.search, run)):
        return False
    covered = {at + offset for at, found in enumerate(runs) if found == run for offset in range(RUN)}
    return len(covered) > REPEATED_SHARE * len(words)
