"""The embedded engine's child process: llama.cpp's own HTTP server from the ``xllamacpp`` wheel.

Run as ``python -m gateway.embedded``: one JSON object of launch settings on standard input (``process.LaunchSpec``),
the server's log on standard error, one line ``ready`` on standard output. It ends when standard input closes, so it
cannot outlive the gateway.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

__all__ = ["main"]


def main() -> None:
    # A Ctrl-C in the terminal reaches the whole process group; the gateway decides when the engine stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec: dict[str, Any] = json.loads(sys.stdin.readline())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = spec["model"]
    params.hostnames = [spec["host"]]
    params.port = spec["port"]
    params.n_parallel = spec["slots"]
    params.n_ctx = spec["slots"] * spec["ctx_per_slot"]
    params.n_gpu_layers = spec["gpu_layers"]
    params.model_alias = {spec["alias"]}
    params.api_keys = [spec["api_key"]]
    params.n_batch = spec["batch_tokens"]
    params.n_ubatch = min(512, spec["batch_tokens"])
    params.cache_ram_mib = spec["cache_ram_mib"]
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.ui = False
    params.cpuparams.n_threads = spec["threads"]
    params.cpuparams_batch.n_threads = spec["threads"]
    params.verbosity = spec["verbosity"]
    # Scale 0 at load: adapters loaded at 1 are all summed for any request that names none.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in spec["adapters"]]
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    sys.stdin.read()
    sys.stderr.flush()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
