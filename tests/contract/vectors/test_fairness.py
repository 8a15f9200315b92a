"""One tenant that saturates search keeps no other waiting for all of its own."""

from __future__ import annotations

import anyio

from mcp_server.auth.principal import Principal
from mcp_server.services.vectors import Mode, VectorService
from tests.contract.vectors.reading import MODES, found

CROWD = 60


async def test_a_tenant_beside_a_long_queue_is_answered_long_before_its_end(
    vectors: VectorService, principal: Principal, stranger: Principal
) -> None:
    await vectors.add(principal, "s", "the loud one's text", document="loud")
    await vectors.add(stranger, "s", "the quiet one's text", document="quiet")
    for mode in MODES:
        answered = 0
        begun = anyio.Event()

        async def loud(mode: Mode = mode, begun: anyio.Event = begun) -> None:
            nonlocal answered
            await vectors.search(principal, "s", "text", mode=mode)
            answered += 1
            begun.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(CROWD):
                tasks.start_soon(loud)
            await begun.wait()
            assert found(await vectors.search(stranger, "s", "text", mode=mode)) == ["quiet"]
            assert answered < CROWD / 2
        assert answered == CROWD
