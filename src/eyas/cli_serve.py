"""`eyas chat` and `eyas serve`: a trained model or an exported file answers, on the terminal or over HTTP."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

CHAT_EXAMPLES = (
    "Examples:",
    "eyas chat runs/quickstart   (then type 12+30-5, /fast, /think, /quit)",
    "eyas chat model-q8_0.gguf --threads 4",
    "eyas chat onnx-directory",
)
SERVE_EXAMPLES = (
    "Examples:",
    "eyas serve model-q8_0.gguf",
    "eyas serve model-q8_0.gguf --port 0 --threads 2 --context 2048 --alias student",
    "EYAS_API_KEY=secret eyas serve model-q8_0.gguf --host 0.0.0.0",
)
RESOLVED = "resolved.json"
"""What makes a directory a run."""
WEIGHTS, GENAI = "config.json", "genai_config.json"
"""What makes a directory one in Hugging Face layout, and one for onnxruntime-genai, which may hold both."""

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Cores; all, if not given.", show_default=False)]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        min=1,
        help="Tokens of prompt and completion together, of a GGUF file; what the model was trained for, at most 4096.",
        show_default=False,
    ),
]


def chat(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A finished run, a .gguf file, a directory of ONNX graphs or of weights.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Of a run: base, sft, distilled, teacher, …; distilled.", show_default=False),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 512,
    threads: Threads = None,
    context: Context = None,
) -> None:
    """Talk to a run's student or to an exported file; /fast and /think switch the mode."""
    from eyas.chat import chat_with_file, chat_with_run, chat_with_weights
    from eyas.errors import RecipeError

    is_run, is_weights = (path / RESOLVED).is_file(), (path / WEIGHTS).is_file() and not (path / GENAI).is_file()
    if (is_run or is_weights) and (threads is not None or context is not None):
        raise RecipeError(f"{path} is computed by torch, on all cores. Drop --threads and --context.")
    if is_run:
        chat_with_run(path, role=model or "distilled", temperature=temperature, max_completion_tokens=max_tokens)
        return
    if model is not None:
        raise RecipeError(f"{path} is no run (no {RESOLVED}), so it has one model. Drop --model.")
    if is_weights:
        chat_with_weights(path, temperature=temperature, max_completion_tokens=max_tokens)
        return
    chat_with_file(
        path, temperature=temperature, max_completion_tokens=max_tokens, threads=threads, context_length=context
    )


def serve(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is open to the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    threads: Threads = None,
    context: Context = None,
    alias: Annotated[
        str | None, typer.Option(help="The model's name in answers; the file's, if not given.", show_default=False)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EYAS_API_KEY", help="Requests must carry it; by default anyone may ask.", show_default=False
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Where the server's log goes; a file of the cache.", show_default=False)
    ] = None,
) -> None:
    """Serve a GGUF file as an OpenAI-compatible API, by llama.cpp's server, until Ctrl-C or SIGTERM."""
    from eyas.runtimes.server import ModelServer, Serving, default_log

    serving = Serving(
        path=path, host=host, port=port, threads=threads, context_length=context, alias=alias,
        log=log or default_log(port), api_key=api_key or None,
    )  # fmt: skip
    earlier = signal.signal(signal.SIGTERM, _interrupted)
    try:
        with ModelServer(serving) as server:
            typer.echo(f"{server.alias} answers at {server.url}   (log: {server.log}; Ctrl-C ends it)\n")
            typer.echo(curl_example(server.url, model=server.alias, with_key=bool(api_key)))
            server.wait()
    except KeyboardInterrupt:
        typer.echo("\nStopped.")
    finally:
        signal.signal(signal.SIGTERM, earlier)


def curl_example(url: str, *, model: str, with_key: bool = False) -> str:
    """A command that asks the server something, ready to paste; a key is taken from the environment, not shown."""
    body = {"model": model, "messages": [{"role": "user", "content": "12+30-5"}], "temperature": 0}
    key = ' -H "Authorization: Bearer $EYAS_API_KEY"' if with_key else ""
    return f"curl {url}/chat/completions{key} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def register(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    app.command(epilog="\n\n".join(CHAT_EXAMPLES))(chat)
    app.command(epilog="\n\n".join(SERVE_EXAMPLES))(serve)
