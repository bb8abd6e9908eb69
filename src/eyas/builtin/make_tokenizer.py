"""Make the embedded pair's tokenizer: `python -m eyas.builtin.make_tokenizer`. Deterministic.

A byte-level BPE with SmolLM's pre-tokenizer (digits apart), all 256 bytes, a few merges, 320 entries in all.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eyas.builtin import DIRECTORY

VOCABULARY = 320
"""A multiple of 32, which every quantised format likes."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>")
CORPUS = ["\n\n", "reverse ", "plus ", "minus ", "answer "] * 100
"""What the merges are learnt from."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- '<|im_start|>' + message.content + '<|im_end|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{%- if enable_thinking is defined and not enable_thinking -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}
"""


def make_tokenizer(directory: Path) -> None:
    """Train and save the tokenizer in Hugging Face layout."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    filler = VOCABULARY - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([AddedToken(f"<|unused_{i}|>", special=True) for i in range(filler)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    wrapped.save_pretrained(directory)


if __name__ == "__main__":
    make_tokenizer(DIRECTORY / "tokenizer")
