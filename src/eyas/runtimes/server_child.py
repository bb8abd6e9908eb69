"""The process that is llama.cpp's server: `python -m eyas.runtimes.server_child`, ended with its parent.

The first line of standard input is JSON: what to serve, and how.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Serve until standard input ends: the parent closes it, or is no more."""
    import xllamacpp

    asked = json.loads(sys.stdin.buffer.readline())
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.model_alias = asked["path"], {asked["alias"]}
    parameters.hostnames, parameters.port = [asked["host"]], asked["port"]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = asked["threads"]
    parameters.n_ctx, parameters.n_parallel = asked["context_length"], 1
    parameters.default_template_kwargs = asked["template_arguments"]
    parameters.cache_ram_mib = 0  # its default keeps 8 GiB of earlier prompts, which no small device has
    parameters.endpoint_slots = False  # it shows anyone what others asked
    parameters.ui = False
    if asked["api_key"] is not None:
        parameters.api_keys = [asked["api_key"]]
    server = xllamacpp.Server(parameters)  # loads the model and listens in threads of its own
    sys.stdin.buffer.read()
    del server


if __name__ == "__main__":
    main()
