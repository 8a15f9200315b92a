"""One tenant that saturates search keeps no other waiting for all of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import LimitExceeded
from mcp_server.operation import Operations
from mcp_server.services.vectors import Mode, VectorService
from mcp_server.services.vectors.turns import EACH, LONGEST
from mcp_server.storage.vectors import VectorEngine
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import MODES, found

CROWD = 60


class Held(HashedWords):
    """Embeds when it is let go; tells what it was asked for meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()
        self.go.set()
        self.begun: list[str] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.begun += texts
        await self.go.wait()
        return await super().embed(texts)

    async def has_begun(self, text: str, times: int) -> None:
        with anyio.fail_after(30):
            while self.begun.count(text) < times:
                await asyncio.sleep(0.01)


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


async def test_one_tenants_searches_leave_half_of_the_processors_and_a_bounded_queue(
    operations: Operations,
    control: AsyncEngine,
    engine: VectorEngine,
    principal: Principal,
    stranger: Principal,
) -> None:
    embedder = Held()
    vectors = VectorService(operations, control, engine, embedder)
    await vectors.add(principal, "s", "the loud one's text", document="loud")
    await vectors.add(stranger, "s", "the quiet one's text", document="quiet")
    embedder.go = anyio.Event()
    loud = [
        asyncio.create_task(vectors.search(principal, "s", "loud", mode="dense"))
        for _ in range(EACH + LONGEST + 3)
    ]
    with anyio.fail_after(60):
        refused, _ = await asyncio.wait(loud, return_when=asyncio.FIRST_COMPLETED)
    quiet = asyncio.create_task(vectors.search(stranger, "s", "quiet", mode="dense"))
    await embedder.has_begun("quiet", 1)  # all of the other's places are taken
    assert embedder.begun.count("loud") == EACH
    assert all(isinstance(each.exception(), LimitExceeded) for each in refused)
    embedder.go.set()
    assert found(await quiet) == ["quiet"]
    assert sum(each.done() and not each.exception() for each in loud) < LONGEST / 2
    answers = await asyncio.gather(*loud, return_exceptions=True)
    assert sum(isinstance(answer, LimitExceeded) for answer in answers) == 3
    assert sum(isinstance(answer, dict) for answer in answers) == EACH + LONGEST
