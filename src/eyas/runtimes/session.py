"""A model that turns tokens into logits and remembers them: what the host loop drives.

Suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32] | NDArray[np.float16]


class Session(Protocol):
    """Tokens go in once, in order; logits come out in the dtype of the file."""

    context_length: int
    """Tokens that it remembers at most."""
    graph_s: float
    """Seconds spent inside the model so far: a compiled graph, llama.cpp. What else passes is the host's."""

    def prefill(self, ids: Sequence[int], *, every: bool) -> Logits:
        """Logits after these tokens, which follow those taken in before: [T, V] with `every`, else the last [1, V].

        The array may be overwritten by the next call.

        Raises: DataError, if they do not fit, are none, or an id is not in the vocabulary.
        """

    def decode(self, token_id: int) -> Logits:
        """Logits [V] after one more token; else as `prefill`."""

    def reset(self) -> None:
        """Forget all tokens."""

    def close(self) -> None: ...
