"""`milvus-lite server`: the gRPC interface of Milvus in a process of its own on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.ports import free_ports

START_SECONDS = 60.0


class MilvusLite:
    """One server with its data in a scratch folder; a context manager that ends it by its pid."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="isthmus-milvus-"))
        [self.port] = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What ISTHMUS_VECTORS_URL would be."""
        return f"milvus://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the data and the port that it had, and return when it takes connections."""
        command = [
            str(Path(sys.executable).parent / "milvus-lite"),
            "server",
            *("--data-dir", str(self.folder / "data")),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = (self.folder / "log").read_text(errors="replace")
                raise AssertionError(f"milvus-lite did not start: {text[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9, its own children included."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False
