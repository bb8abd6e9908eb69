"""What a measured number hangs on beside the model: its graders, the prompts as the model saw them, its template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from eyas.accuracy import by_mode
from eyas.records import Example, SequenceRecord


def what_was_asked(
    examples: Sequence[Example], answers: Sequence[SequenceRecord], *, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Facts of an evaluation: `graders`, `prompts_sha256` by mode, `template_sha256`."""
    return {
        "graders": sorted({example.grader for example in examples}),
        "prompts_sha256": {mode: prompts_sha256(part, tokenizer=tokenizer) for mode, part in by_mode(answers).items()},
        "template_sha256": template_sha256(tokenizer),
    }


def prompts_sha256(answers: Sequence[SequenceRecord], *, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of a JSON array of one mode's prompts as rendered, in the order of example ids."""
    prompts = [
        str(tokenizer.decode(item.prompt_ids, clean_up_tokenization_spaces=False))
        for item in sorted(answers, key=lambda item: item.example_id)
        if item.sample == 0
    ]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex SHA-256 of the chat template's text in UTF-8, which is that of a `chat_template.jinja`.

    Raises: ValueError, if the tokenizer has none.
    """
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()
