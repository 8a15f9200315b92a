"""A real S3 server in a process of its own on loopback: started, killed, stopped for a while, started again."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import minio
import urllib3

from tests.servers.ports import free_ports

ACCESS_KEY = "isthmus-tests"
SECRET_KEY = "a-secret-of-the-tests"
START_SECONDS = 90.0


class S3Server(ABC):
    """One server with its data in a scratch folder; a context manager that ends it by its pid."""

    name: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"isthmus-{self.name}-"))
        self.ports = free_ports(self.ports_needed())
        self.process: subprocess.Popen[bytes] | None = None
        self.secret_key = SECRET_KEY

    @classmethod
    def instead_of(cls, other: S3Server) -> Self:
        """Return a server on the port of one that was killed, which knows another secret."""
        server = cls()
        server.ports[0] = other.ports[0]
        server.secret_key = "another-secret-by-now"
        return server

    @property
    def endpoint(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.ports[0]}"

    def url(self, bucket: str, **query: str) -> str:
        """Return what ISTHMUS_OBJECTS_URL would be."""
        options = urlencode({"secure": "false", **query})
        return f"s3://{ACCESS_KEY}:{self.secret_key}@{self.endpoint}/{bucket}?{options}"

    def client(self) -> minio.Minio:
        """Return the bare client library."""
        pool = urllib3.PoolManager(timeout=30.0, retries=False, maxsize=16)
        return minio.Minio(
            self.endpoint,
            ACCESS_KEY,
            self.secret_key,
            secure=False,
            region="us-east-1",
            http_client=pool,
        )

    def start(self) -> None:
        """Start it, on the data and the port that it had, and return when a put succeeds."""
        command, environment = self.command()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._serves():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log_text = (self.folder / "log").read_text(errors="replace")
                raise AssertionError(f"{self.name} did not start: {log_text[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stand_still(self) -> None:
        """SIGSTOP: it takes connections, and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.prepare()
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

    def _serves(self) -> bool:
        # Its port may be open seconds before a write succeeds: only a real put tells.
        client = self.client()
        with contextlib.suppress(minio.error.MinioException, urllib3.exceptions.HTTPError):
            if not client.bucket_exists("ready"):
                client.make_bucket("ready")
            client.put_object("ready", "ready", io.BytesIO(b"1"), 1)
            return True
        return False

    @classmethod
    def ports_needed(cls) -> int:
        return 1

    def prepare(self) -> None:
        """Make its data once, before the first start."""
        return

    @abstractmethod
    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return the command line and the environment's additions."""


def program(name: str) -> str:
    """Return the path of a binary that came as a wheel into this environment."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed; run: uv sync --group dev"
    return found
