"""llama.cpp's server as we start it: real processes, real HTTP, the answers of our own runtime."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyas.cli_serve import curl_example
from eyas.errors import DataError, ModelError, ServerError
from eyas.records import MODES, Mode
from eyas.runtimes.dialogue import GGUFDialogue
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.runtimes.server import ModelServer, Serving, default_context
from eyas.storage.gguf import GGUFHead

OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
QUESTIONS = ("12+30-5", "reverse 4071", "99+1-50")
THINKS = {"reasoning": {"enable_thinking": True}, "fast": {"enable_thinking": False}}


def serving(path: Path, folder: Path, **changes: Any) -> Serving:
    given = {"host": "127.0.0.1", "port": 0, "threads": 1, "context_length": None, "alias": None}
    return Serving(**{"path": path, "log": folder / "log" / "serve.log", **given, **changes})


@pytest.fixture(scope="module")
def server(nano_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    with ModelServer(serving(nano_gguf, tmp_path_factory.mktemp("server"), alias="student")) as running:
        yield running


def posted(url: str, question: str, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64, **more}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return OPEN(request, timeout=20)


def greedy(path: Path, question: str, mode: Mode) -> tuple[list[int], str]:
    """Ids with the stop id, and their text without it, by our own runtime."""
    with LlamaCpp(path, threads=1) as runtime:
        dialogue = GGUFDialogue(path, runtime)
        prompt_ids = dialogue.encode_chat([("user", question)], mode)
        ids = list(runtime.generate(prompt_ids, max_tokens=64, stop_ids=dialogue.stop_ids))
        return ids, dialogue.decode(ids[:-1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_served_answers_are_our_runtimes_token_by_token(
    server: ModelServer, nano_gguf: Path, question: str, mode: Mode
) -> None:
    ids, text = greedy(nano_gguf, question, mode)
    answer = json.load(
        posted(server.url, question, chat_template_kwargs=THINKS[mode], verbose=True, return_tokens=True)
    )
    assert answer["__verbose"]["tokens"] == ids
    assert answer["choices"][0]["message"]["content"] == text
    assert (answer["model"], answer["choices"][0]["finish_reason"]) == ("student", "stop")
    assert ("<think>" in text) == (mode == "reasoning")


def test_the_model_thinks_unless_a_request_says_otherwise(server: ModelServer, nano_gguf: Path) -> None:
    """llama.cpp's own default is not to, where it does not recognise the template's tags."""
    answer = json.load(posted(server.url, QUESTIONS[0]))
    assert answer["choices"][0]["message"]["content"] == greedy(nano_gguf, QUESTIONS[0], "reasoning")[1]


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_of_events_adds_up_to_the_answer(server: ModelServer, nano_gguf: Path, mode: Mode) -> None:
    with posted(server.url, QUESTIONS[0], stream=True, chat_template_kwargs=THINKS[mode]) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = [line.decode().strip() for line in response]
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") for event in events]
    ids, text = greedy(nano_gguf, QUESTIONS[0], mode)
    assert "".join(piece or "" for piece in pieces) == text
    assert len([piece for piece in pieces if piece]) > len(ids) // 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_who_has_no_key_gets_no_answer_and_the_key_is_on_no_process_list(nano_gguf: Path, tmp_path: Path) -> None:
    with ModelServer(serving(nano_gguf, tmp_path, api_key="s3cret")) as running:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            posted(running.url, QUESTIONS[0])
        assert b"s3cret" not in (Path("/proc") / str(running.pid) / "cmdline").read_bytes()
        body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 1}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}
        request = urllib.request.Request(f"{running.url}/chat/completions", json.dumps(body).encode(), headers)
        with OPEN(request, timeout=20) as response:
            assert response.status == 200
    assert "s3cret" not in running.log.read_text()
    assert '-H "Authorization: Bearer $EYAS_API_KEY"' in curl_example(running.url, model="m", with_key=True)


def test_what_others_asked_is_not_shown(server: ModelServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="501"):
        OPEN(f"{server.url.removesuffix('/v1')}/slots", timeout=20)


def test_a_port_in_use_is_named(server: ModelServer, nano_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=rf"127.0.0.1, port {server.port}: cannot be listened on \(Address already"):
        ModelServer(serving(nano_gguf, tmp_path, port=server.port))
    with pytest.raises(ServerError, match=r"192.0.2.1, port 0: cannot be listened on"):
        ModelServer(serving(nano_gguf, tmp_path, host="192.0.2.1"))


def test_a_name_may_hold_quotes_and_the_printed_command_is_one_for_a_shell(nano_gguf: Path, tmp_path: Path) -> None:
    alias = """Bob's "best" ü"""
    with ModelServer(serving(nano_gguf, tmp_path, alias=alias)) as running:
        assert json.load(posted(running.url, "12+30", max_tokens=1))["model"] == alias
        words = shlex.split(curl_example(running.url, model=running.alias))
    assert words[:2] == ["curl", f"{running.url}/chat/completions"]
    assert json.loads(words[-1])["model"] == alias


def test_files_that_cannot_be_served_are_refused_before_a_process_starts(nano_gguf: Path, tmp_path: Path) -> None:
    data = nano_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"cut.gguf: a damaged GGUF file: tensor .* bytes after the file"):
        ModelServer(serving(tmp_path / "cut.gguf", tmp_path))
    (tmp_path / "bare.gguf").write_bytes(data.replace(b"tokenizer.chat_template", b"tokenizer.chat_templat_"))
    with pytest.raises(ModelError, match=r"bare.gguf: no chat template inside"):
        ModelServer(serving(tmp_path / "bare.gguf", tmp_path))
    with pytest.raises(ModelError, match=r"a directory, but .*`eyas export MODEL --format gguf-q8_0`"):
        ModelServer(serving(tmp_path, tmp_path))
    with pytest.raises(DataError, match="a context of 257 tokens, the model was trained for 256"):
        ModelServer(serving(nano_gguf, tmp_path, context_length=257))
    assert not (tmp_path / "log").exists()


def test_an_unwritable_log_is_named(nano_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a directory should be")
    with pytest.raises(ServerError, match="the server's log cannot be written"):
        ModelServer(serving(nano_gguf, tmp_path))


def test_a_server_that_dies_is_an_error_with_its_last_words(nano_gguf: Path, tmp_path: Path) -> None:
    running = ModelServer(serving(nano_gguf, tmp_path))
    os.kill(running.pid, signal.SIGKILL)
    with pytest.raises(ServerError, match=r"(?s)ended with code -9. Its last words, of .*serve.log:\n  .*task"):
        running.wait()
    running.close()


def test_a_server_that_cannot_start_is_an_error_with_its_last_words(
    nano_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise SystemExit('no llama here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(ServerError, match=r"ended with code 1. .*\n  no llama here"):
        ModelServer(serving(nano_gguf, tmp_path))


def test_the_default_context_fits_a_small_device() -> None:
    assert default_context(GGUFHead({"general.architecture": "llama", "llama.context_length": 256}, (), 0)) == 256
    assert default_context(GGUFHead({"general.architecture": "llama", "llama.context_length": 131072}, (), 0)) == 4096
    assert default_context(GGUFHead({"general.architecture": "llama"}, (), 0)) == 4096


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def child_of(pid: int) -> int:
    (child,) = (Path("/proc") / str(pid) / "task" / str(pid) / "children").read_text().split()
    return int(child)


def gone(pid: int) -> bool:
    """Within five seconds."""
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_serves_and_leaves_no_process_behind(
    number: signal.Signals, nano_gguf: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "eyas", "serve", str(nano_gguf), "--port", "0", "--threads", "1"]
    command += ["--log", str(tmp_path / "serve.log"), "--alias", "small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        assert first.startswith("small answers at http://127.0.0.1:")
        assert running.stdout.readline() == "\n"
        assert running.stdout.readline().startswith("curl http://127.0.0.1:")
        child = child_of(running.pid)
        assert alive(child)
        port = int(first.split("/v1")[0].rpartition(":")[2])
        running.send_signal(number)
        rest = running.communicate(timeout=10)[0]
    assert running.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert rest == ("" if number == signal.SIGKILL else "\nStopped.\n")
    assert gone(child)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert "listening on" in (tmp_path / "serve.log").read_text()
