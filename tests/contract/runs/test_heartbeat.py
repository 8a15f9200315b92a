"""A heartbeat goes on whatever one beat meets: a worker without it would hold and claim nothing for ever."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from mcp_server.runs.heartbeat import Heartbeat
from mcp_server.runs.leases import Renewal
from tests.contract.runs.engine import QUICK
from tests.contract.runs.rows import Rows


async def test_a_defect_in_one_beat_does_not_end_the_heart(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = rows.leases.renew
    beats = 0

    async def renew(epoch: int) -> Renewal | None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise RuntimeError("the transport is closed")
        return await original(epoch)

    monkeypatch.setattr(rows.leases, "renew", renew)
    heartbeat = Heartbeat(rows.leases, "tester", 1, QUICK, lambda _: None)
    keeping = asyncio.create_task(heartbeat.keep())
    try:
        with anyio.fail_after(10):
            while beats < 3:
                await asyncio.sleep(0.02)
        assert heartbeat.sure()
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if heartbeat.epoch is not None:
            rows.taken.append(heartbeat.epoch)
    assert "cannot renew its lease" in caplog.text
