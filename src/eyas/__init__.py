"""eyas: curriculum SFT, offline on-policy distillation and measurement of small language models for the edge."""

__version__ = "0.1.0"
