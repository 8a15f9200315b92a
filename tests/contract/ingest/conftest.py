"""One whole process with its worker, over a database and stores of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings


@pytest.fixture(scope="session")
async def runtime(anyio_backend: object, scratch: Path) -> AsyncIterator[Runtime]:
    settings = load_settings(
        data_dir=scratch / "ingest", llm_url=("scripted:",), auth="off", fetch_allow=("127.0.0.1",)
    )
    async with open_runtime(settings, concurrency=2) as runtime:
        yield runtime
