"""llama.cpp's OpenAI-compatible server over one GGUF file, in a process of its own: started, checked, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from eyas.errors import ModelError, ServerError
from eyas.recipe import THINKING_FORMATS
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.storage.chat_template import template_of
from eyas.storage.gguf import GGUFHead, read_gguf_head
from eyas.storage.processor import core_count
from eyas.thinking import format_of_template

CONTEXT = 4096
"""Tokens of context where none is asked for and the model knows as many: its cache must fit a small device."""
START_S, POLL_S, END_S = 600.0, 0.05, 5.0
"""Seconds: for loading from a slow disk; between two looks; for ending by itself."""
LAST_LINES = 6
"""Of a server that died."""
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""All addresses of a machine -> the one by which it reaches itself."""


@dataclass(frozen=True)
class Serving:
    """What a server is asked to be."""

    path: Path
    host: str
    port: int
    """0 takes a free one."""
    threads: int | None
    context_length: int | None
    alias: str | None
    """The model's name in answers; the file's without its ending, if None."""
    log: Path
    api_key: str | None = None
    """Requests must carry it as `Authorization: Bearer KEY`; None: anyone may ask."""


class ModelServer:
    """A server that answered a real request. A context manager that ends it."""

    def __init__(self, serving: Serving) -> None:
        """Start it, wait until it is ready and ask it for one token.

        Raises: ModelError, for what is no whole GGUF file with a chat template that llama.cpp can run; DataError, for
        a context longer than the model's; ServerError, if the port cannot be used, or the server dies or does not
        answer; MissingExtra, without `xllamacpp` and `gguf`.
        """
        settings = _settings(serving)
        self.alias, self.log, self._api_key = str(settings["alias"]), serving.log, serving.api_key
        self.host, self.port = serving.host, int(settings["port"])
        self._process = _started(settings, serving.log)
        with contextlib.ExitStack() as unless_ready:
            unless_ready.callback(self.close)
            self._await()
            unless_ready.pop_all()

    @property
    def url(self) -> str:
        """What a client calls `base_url`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def wait(self) -> None:
        """Return never: an interrupt ends it.

        Raises: ServerError, when the server ends, with its last words.
        """
        self._process.wait()
        raise self._ended()

    def close(self) -> None:
        """End the server's process; calling it twice is harmless."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # an answer is still being made
            self._process.kill()
            self._process.wait()

    def _await(self) -> None:
        deadline = time.monotonic() + START_S
        while self._ask("GET", "/health", None)[0] != http.HTTPStatus.OK:
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise ServerError(f"the server is not ready after {START_S:.0f} s. Its log: {self.log}.")
            time.sleep(POLL_S)
        asked = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
        status, answer = self._ask("POST", "/v1/chat/completions", asked)
        if self._process.poll() is not None:
            raise self._ended()
        if status != http.HTTPStatus.OK or _model_of(answer) != self.alias:
            raise ServerError(
                f"the server is up but answered a first request with {status}: {answer[:300]}. Its log: {self.log}."
            )

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, str]:
        """Status and body; status 0 where nobody answers."""
        connection = http.client.HTTPConnection(ANY.get(self.host, self.host), self.port, timeout=START_S)
        try:
            headers = {"Content-Type": "application/json"}
            if self._api_key is not None:
                headers["Authorization"] = f"Bearer {self._api_key}"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            return 0, "no answer"
        finally:
            connection.close()

    def _ended(self) -> ServerError:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        said = "\n  ".join(line.strip() for line in lines) or "nothing"
        return ServerError(
            f"the server ended with code {self._process.returncode}. Its last words, of {self.log}:\n  {said}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _model_of(answer: str) -> object:
    """The name of the model that answered; None, if it is no answer of such a server."""
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found.get("model") if isinstance(found, dict) else None


def default_log(port: int) -> Path:
    """`serve-PORT.log` in `$XDG_CACHE_HOME/eyas` (`~/.cache/eyas`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eyas" / f"serve-{port}.log"


def default_context(head: GGUFHead) -> int:
    """The tokens that the model was trained for, at most CONTEXT."""
    trained = head.metadata.get(f"{head.architecture}.context_length")
    return min(trained, CONTEXT) if isinstance(trained, int) and trained > 0 else CONTEXT


def _settings(serving: Serving) -> dict[str, Any]:
    """What the child is told, once the file was opened in this process, where errors have words."""
    path = serving.path
    if path.is_dir():
        raise ModelError(
            f"{path}: a directory, but llama.cpp's server runs GGUF files. Make one of the model with "
            "`eyas export MODEL --format gguf-q8_0`; `eyas chat` runs directories too."
        )
    head = read_gguf_head(path)
    template = template_of(head.metadata, where=path)
    context_length = serving.context_length or default_context(head)
    LlamaCpp(path, context_length=context_length, threads=1).close()
    argument = THINKING_FORMATS[format_of_template(template)].template_argument
    return {
        "path": str(path),
        "alias": serving.alias or path.stem,
        "host": serving.host,
        "port": _usable(serving.host, serving.port),
        "threads": serving.threads or core_count(),
        "context_length": context_length,
        "api_key": serving.api_key,
        # llama.cpp answers without thinking where it does not recognise a template's tags
        "template_arguments": {argument: "true"} if argument else {},
    }


def _usable(host: str, port: int) -> int:
    """The port itself, or a free one for 0.

    Raises: ServerError, if this process could not listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ServerError(
            f"{host}, port {port}: cannot be listened on ({error.strerror or error}). Give another --port (0 takes a "
            "free one), or an address of this machine as --host."
        ) from error


def _started(settings: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "eyas.runtimes.server_child"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
    except OSError as error:
        raise ServerError(f"{log}: the server's log cannot be written ({error}). Give another --log.") from error
    if process.stdin is not None:  # by a pipe, for arguments are everybody's to see
        with contextlib.suppress(BrokenPipeError):  # it died already, which is told where its answer is awaited
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
    return process
