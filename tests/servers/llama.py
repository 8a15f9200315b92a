"""llama.cpp's own HTTP server, as `xllamacpp` serves it: run as a program, with the weights' file as its argument."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp_server.llm.gguf_weights import bundled_weights

STOP_SECONDS = 20.0


@contextmanager
def serve_llama() -> Iterator[str]:
    """Serve the embedded model's weights on a free port, in a process of its own; yields its base URL."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(bundled_weights().path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = next((line for line in process.stdout if line.startswith("http")), "")
        assert address, "llama.cpp's server did not start"
        yield f"{address.strip()}/v1"
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(weights: str) -> None:
    llama: Any = importlib.import_module("xllamacpp")  # it has no types
    params = llama.CommonParams()
    params.model.path = weights
    params.model_alias = {"smollm2"}
    params.port = 0
    params.n_parallel = 2
    params.n_ctx = 4096
    params.ui = False
    params.verbosity = 0
    params.warmup = False
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = 1
    params.use_jinja = True
    params.embedding = True
    params.pooling_type = llama.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = llama.Server(params)
    print(f"\n{server.listening_address}", flush=True)
    sys.stdin.read()
    os._exit(0)  # nothing to save, and the C++ threads need not be asked


if __name__ == "__main__":
    main(sys.argv[1])
