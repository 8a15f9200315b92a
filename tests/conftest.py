"""What every test may use: one embedded cluster a session, fresh tenants, and no network beyond this machine."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster, open_cluster

pytest_plugins = ["tests.traffic.plugin"]

SECRET = bytes(range(32))

# The same examples each time, on however busy a machine: how long one takes is no property of the code.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the bytecode of hundreds of processes, aside where none may be written beside the sources.

    A server that compiles everything anew takes twice as long to start.
    """
    cache = getattr(config, "cache", None)  # there is none with `-p no:cacheprovider`
    if cache is not None and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches out fails instead: everything it needs runs on this machine."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address!r}")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder that the database's own user may pass: pytest's are closed to it when root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def data_dir(scratch: Path) -> Path:
    """A fresh data directory."""
    return scratch / uuid.uuid4().hex[:12]


@pytest.fixture(scope="session")
async def cluster(anyio_backend: object, scratch: Path) -> AsyncIterator[Cluster]:
    async with open_cluster(scratch / "session") as cluster:
        yield cluster


@pytest.fixture(scope="session")
async def control(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    async with open_control(cluster.control_url) as control:
        await journal.ensure_partitions(control)
        yield control


@pytest.fixture(scope="session")
async def operations(control: AsyncEngine) -> AsyncIterator[Operations]:
    audit = Audit()
    async with audit.writing(control):
        yield Operations(Limits(), audit)


async def make_tenant(control: AsyncEngine, *scopes: str) -> Principal:
    """Return a principal of a tenant that nobody used before."""
    tenant = f"t-{uuid.uuid4().hex[:12]}"
    async with control.begin() as tx:
        await tx.execute(text("select create_tenant(:tenant)"), {"tenant": tenant})
    return Principal(tenant, "tester", frozenset(scopes) or OWNER_SCOPES)


@pytest.fixture
async def principal(control: AsyncEngine) -> Principal:
    """The owner of a tenant of its own."""
    return await make_tenant(control)


@pytest.fixture
async def stranger(control: AsyncEngine) -> Principal:
    """The owner of another tenant."""
    return await make_tenant(control)
