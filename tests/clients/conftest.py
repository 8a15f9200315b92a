"""One server that real clients share: its model does what a request demands, in the same way each time."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.doors.live import Live, open_live


@pytest.fixture(scope="module")
async def live(anyio_backend: object, scratch: Path) -> AsyncIterator[Live]:
    """With tools, `scripted:` calls the first and repeats its result; with a schema, it fills it; else it echoes."""
    data_dir = scratch / f"clients-{uuid.uuid4().hex[:8]}"
    async with open_live(data_dir, llm_url=("scripted:",)) as live:
        yield live
