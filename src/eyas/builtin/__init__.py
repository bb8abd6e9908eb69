"""The embedded pair's tokenizer and weights, and how they were made (recipes/nano-pretrain.yaml)."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""Holds `tokenizer/`, `nano-student/` and `nano-teacher/`, each in Hugging Face layout."""
