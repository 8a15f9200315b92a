"""The child process that holds the embedded model: llama.cpp's server on a loopback port, behind a key.

Run by its path, it needs nothing but xllamacpp. The first line on stdin is the configuration, the one
line that it writes to its own stdout is `{"url": ...}` or `{"error": ...}`; it ends when stdin does.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> NoReturn:
    """Serve until the parent closes our stdin or dies, however it dies."""
    reports = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints: what it says must not reach the parent as a report
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        server = _open_server(json.loads(line))
        report = {"url": server.listening_address}
    except (RuntimeError, ImportError) as error:
        report = {"error": str(error)}
    os.write(reports, json.dumps(report).encode() + b"\n")
    os.close(reports)
    if "error" in report:
        os._exit(1)
    # The parent decides when to end, not a Ctrl+C that the terminal gives to everyone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        signal.pause()


def _end_with_stdin() -> NoReturn:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)  # nothing to save, and the C++ threads need not be asked


def _open_server(config: dict[str, Any]) -> Any:
    llama: Any = importlib.import_module("xllamacpp")  # it has no types
    params = llama.CommonParams()
    params.model.path = config["model"]
    params.api_keys = [config["api_key"]]
    params.port = 0
    params.n_parallel = config["slots"]
    params.n_ctx = config["context"]
    params.n_batch = config["batch"]
    params.ui = False
    params.verbosity = 0
    params.warmup = False
    params.use_jinja = True
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = config["threads"]
    return llama.Server(params)


if __name__ == "__main__":
    main()
