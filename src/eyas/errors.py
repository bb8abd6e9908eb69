"""Every error eyas raises on purpose. Each says what was found, what was expected and what to do.

EyasError
├── RecipeError (ValueError)          the recipe cannot be run as written
├── DataError (ValueError)            a record, file or split is unusable
├── ModelError (ValueError)           a model, tokenizer or template cannot be used
│   └── PairMismatch                  student and teacher do not fit together
├── ShapeError (ValueError)           tensors that must agree in shape do not
├── GradingError (ValueError)         an unknown or misused grader
├── SandboxError (RuntimeError)       untrusted code cannot be confined on this machine
├── TrainingError (RuntimeError)      training cannot go on
│   └── NonFiniteLoss (FloatingPointError)
├── ExportError (RuntimeError)        a model cannot be written in a format, or not faithfully
├── BenchError (RuntimeError)         an exported file cannot be measured
├── ArtifactError (RuntimeError)      an artifact is missing, corrupt or made from something else
│   ├── CorruptArtifact
│   └── Locked                        somebody else is working in this directory
├── StorageError (OSError)            the disk is full or not writable
├── OutOfMemory (MemoryError)         names the setting to lower
└── MissingExtra (ImportError)        names the extra to install
"""

from __future__ import annotations


class EyasError(Exception):
    """Root of the tree; the command line prints its message alone and exits with 1."""


class RecipeError(EyasError, ValueError):
    """The recipe cannot be run as written."""


class DataError(EyasError, ValueError):
    """A record, a file or a split is unusable."""


class ModelError(EyasError, ValueError):
    """A model, tokenizer or chat template cannot be used."""


class PairMismatch(ModelError):
    """Student and teacher do not fit together."""


class ShapeError(EyasError, ValueError):
    """Tensors that must agree in shape do not."""


class GradingError(EyasError, ValueError):
    """An unknown grader, or one without what it needs."""


class SandboxError(EyasError, RuntimeError):
    """Untrusted code cannot be confined on this machine."""


class TrainingError(EyasError, RuntimeError):
    """Training cannot go on."""


class NonFiniteLoss(TrainingError, FloatingPointError):
    """The loss became NaN or infinite; raised before the update is applied."""


class ExportError(EyasError, RuntimeError):
    """A model cannot be written in the format asked for, or what was written is not faithful to it."""


class BenchError(EyasError, RuntimeError):
    """The process that measures an exported file failed, or was ended."""


class ServerError(EyasError, RuntimeError):
    """A server cannot be started, or it ended."""


class ArtifactError(EyasError, RuntimeError):
    """An artifact is missing, corrupt or made from something else."""


class CorruptArtifact(ArtifactError):
    """A file's content does not match its checksum."""


class Locked(ArtifactError):
    """Another process is working in this directory."""


class StorageError(EyasError, OSError):
    """The disk is full or not writable."""


class OutOfMemory(EyasError, MemoryError):
    """Memory ran out; the message names the setting to lower."""


class MissingExtra(EyasError, ImportError):
    """An optional dependency is not installed; `extra` is None where no package index has it."""

    def __init__(self, package: str, *, extra: str | None, purpose: str, command: str | None = None) -> None:
        command = command or f"pip install {package}"
        of = f" (extra eyas[{extra}])" if extra else ""
        super().__init__(f"{purpose} needs the package {package!r}{of}: install it with `{command}`.")
