"""Any sequence of puts, reads, deletes and sweeps against a dictionary that does the same."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mcp_server.errors import Unavailable
from mcp_server.storage.objects import BlobStore
from tests.contract.blobs.conftest import Opener

LONG_AGO = timedelta(days=1)


class BlobsAreADictionary(RuleBasedStateMachine):
    """`store` holds what `expected` holds, and what earlier examples left is removed by each."""

    portal: BlockingPortal
    store: BlobStore
    blobs = Bundle("blobs")

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, bytes] = {}

    @rule(target=blobs, chunks=st.lists(st.binary(max_size=2000), max_size=4))
    def put(self, chunks: list[bytes]) -> str:
        async def stream() -> AsyncGenerator[bytes]:
            for chunk in chunks:
                yield chunk

        blob = self.portal.call(self.store.put, stream())
        assert blob.key not in self.expected
        self.expected[blob.key] = b"".join(chunks)
        assert blob.size == len(self.expected[blob.key])
        return blob.key

    @rule(size=st.integers(0, 3))
    def put_that_fails(self, size: int) -> None:
        async def stream() -> AsyncGenerator[bytes]:
            for _ in range(size):
                yield b"x" * 1000
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            self.portal.call(self.store.put, stream())

    @rule(moments=st.integers(0, 40))
    def put_that_is_cancelled(self, moments: int) -> None:
        # Which end it comes to is up to the clock: what comes after must not depend on it.
        for key in self.portal.call(self._cancelled_put, moments):
            assert self._read(key, 4999, 5001) == b"ab"
            self.portal.call(self.store.delete, key)

    async def _cancelled_put(self, moments: int) -> list[str]:
        stored: list[str] = []

        async def stream() -> AsyncGenerator[bytes]:
            yield b"a" * 5000
            yield b"b"

        async def put() -> None:
            stored.append((await self.store.put(stream())).key)

        async with anyio.create_task_group() as group:
            group.start_soon(put)
            for _ in range(moments):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return stored

    @rule(key=blobs, start=st.floats(0, 1), end=st.floats(0, 1))
    def read(self, key: str, start: float, end: float) -> None:
        body = self.expected[key]
        first, last = sorted((round(start * len(body)), round(end * len(body))))
        assert self._read(key, first, last) == body[first:last]

    @rule(key=blobs)
    def read_past_the_end(self, key: str) -> None:
        size = len(self.expected[key])
        with pytest.raises(Unavailable):
            self._read(key, max(0, size - 1), size + 1)

    @rule(key=consumes(blobs))
    def delete(self, key: str) -> None:
        self.portal.call(self.store.delete, key)
        self.portal.call(self.store.delete, key)
        del self.expected[key]
        with pytest.raises(Unavailable):
            self._read(key, 0, 1)

    @rule()
    def sweep(self) -> None:
        assert self.portal.call(self.store.discard_unfinished, datetime.now(UTC) + LONG_AGO) == 0

    @invariant()
    def what_is_listed_is_what_is_there(self) -> None:
        assert self.portal.call(self._keys) == set(self.expected)

    def teardown(self) -> None:
        for key in self.expected:
            self.portal.call(self.store.delete, key)

    def _read(self, key: str, start: int, end: int) -> bytes:
        async def read() -> bytes:
            return b"".join([chunk async for chunk in self.store.get(key, start, end)])

        return self.portal.call(read)

    async def _keys(self) -> set[str]:
        return {blob.key async for blob in self.store.list()}


@contextmanager
def opened(opener: Opener, folder: Path) -> Iterator[type[BlobsAreADictionary]]:
    """Give a machine whose store lives in an event loop of its own."""
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        with portal.wrap_async_context_manager(opener(folder)) as store:
            yield type("Machine", (BlobsAreADictionary,), {"portal": portal, "store": store})


def test_a_store_of_blobs_is_a_dictionary(opener: Opener, tmp_path: Path) -> None:
    with opened(opener, tmp_path) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=10,
                stateful_step_count=15,
                deadline=None,
                derandomize=True,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
