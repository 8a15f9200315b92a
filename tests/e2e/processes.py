"""`isthmus` processes for end-to-end tests: started as a user would, ended by their pid."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
# The command as a user has it, but that what goes by under /v1 is recorded and checked.
ISTHMUS = (sys.executable, "-m", "tests.traffic.isthmus")
LONG = os.environ.get("TEST_LENGTH") == "long"


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """A clean environment with the given settings; the scripted model unless another is named."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ISTHMUS_", "COVERAGE"))
    }
    given = {
        "ISTHMUS_LLM_URL": "scripted:",
        **{f"ISTHMUS_{name}": value for name, value in settings.items()},
    }
    return kept | given | {"ISTHMUS_DATA_DIR": str(data_dir)}


class ServeProcess:
    """One `isthmus serve` in a process group of its own."""

    def __init__(self, data_dir: Path, port: int = 0, *arguments: str, **settings: str) -> None:
        command = [*ISTHMUS, "serve", "--port", str(port), *arguments]
        self.process = subprocess.Popen(
            command,
            env=environment(data_dir, **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        for target in (self._read_output, self._read_errors):
            threading.Thread(target=target, daemon=True).start()
        self.output: list[str] = []
        self.url = ""

    def wait_ready(self) -> str:
        """Wait for the line that says so, and return the address in it."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                line = self._lines.get(timeout=0.05)
            except queue.Empty:
                if self.process.poll() is not None:
                    break
                continue
            self.output.append(line)
            if match := re.match(r"Isthmus is ready at (http://\S+)$", line):
                self.url = match[1]
                return self.url
        raise AssertionError(f"the server did not start: {''.join(self.errors)[-3000:]}")

    def kill_group(self) -> None:
        """kill -9 of everything that the server started in its group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill_group()
            raise AssertionError("the server did not end within 30 s of SIGTERM") from None
        self._close()
        return code

    def _close(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read_output(self) -> None:
        self._read(self.process.stdout, self._lines.put)

    def _read_errors(self) -> None:
        self._read(self.process.stderr, lambda line: self.errors.append(line + "\n"))

    @staticmethod
    def _read(stream: Any, keep: Any) -> None:
        try:
            for line in stream:
                keep(line.rstrip("\n"))
        except ValueError:  # closed under us: the process is gone
            return


@contextmanager
def serve(data_dir: Path, *arguments: str, **settings: str) -> Iterator[ServeProcess]:
    """Yield a ready server."""
    server = ServeProcess(data_dir, 0, *arguments, **settings)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def postmaster_pid(data_dir: Path) -> int | None:
    """The pid in the cluster's lock file, None if no server runs there."""
    try:
        return int((data_dir / "postgres" / "pgdata" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
