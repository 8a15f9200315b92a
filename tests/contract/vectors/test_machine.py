"""Random writes, updates, deletes and undos leave every engine with what a plain dictionary holds."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import filters, journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, NotFound
from mcp_server.operation import Operations
from mcp_server.services.vectors import VectorService
from mcp_server.services.writes import carry_out
from mcp_server.storage.vectors import VectorEngine
from tests.contract.vectors.hashed_words import HashedWords
from tests.contract.vectors.reading import MODES
from tests.contract.vectors.test_filter_semantics import evaluate

WORDS = ["alpha", "beta", "gamma", "delta"]
NAMES = st.sampled_from(["a", "b", "a/c", "中"])
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
VALUES = st.sampled_from([0, 1, 2.5, "x", "y", True, None])
METADATA = st.dictionaries(st.sampled_from(["k", "l"]), VALUES, max_size=2)
FILTERS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["eq", "ne", "gte"]),
        "key": st.sampled_from(["k", "l"]),
        "value": st.sampled_from([0, 1, 2.5, "x"]),
    }
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NAMES, TEXTS, METADATA),
        st.tuples(st.just("update"), NAMES, METADATA),
        st.tuples(st.just("update where"), FILTERS, METADATA),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("delete where"), FILTERS),
        st.tuples(st.just("roll back"), NAMES, TEXTS, METADATA),
        st.tuples(st.just("undo")),
        st.tuples(st.just("drop")),
        st.tuples(st.just("look"), st.sampled_from(WORDS), st.none() | FILTERS),
    ),
    min_size=4,
    max_size=14,
)

Stored = dict[str, tuple[str, dict[str, Any]]]


@dataclass
class Machine:
    """The service beside a dictionary that does the same."""

    control: AsyncEngine
    operations: Operations
    vectors: VectorService
    who: Principal
    store: str = field(default_factory=lambda: f"m-{uuid.uuid4().hex[:12]}")
    documents: Stored = field(default_factory=dict[str, tuple[str, dict[str, Any]]])
    there: bool = False

    async def step(self, name: str, *arguments: Any) -> None:
        try:
            await getattr(self, name.replace(" ", "_"))(*arguments)
        except NotFound:
            assert not self.there
        await self.check()

    async def add(self, name: str, text: str, metadata: dict[str, Any]) -> None:
        await self.vectors.add(self.who, self.store, text, document=name, metadata=metadata)
        self.documents[name], self.there = (text, metadata), True

    def _patch(self, name: str, patch: dict[str, Any]) -> None:
        text, metadata = self.documents[name]
        merged = {key: value for key, value in (metadata | patch).items() if value is not None}
        self.documents[name] = text, merged

    def _fitting(self, raw: dict[str, Any]) -> list[str]:
        node = filters.parse(raw)
        return [name for name, (_, held) in self.documents.items() if evaluate(node, held)]

    async def update(self, name: str, patch: dict[str, Any]) -> None:
        done = await self.vectors.update(self.who, self.store, patch, document=name)
        assert done == {"updated": int(name in self.documents)}
        if name in self.documents:
            self._patch(name, patch)

    async def update_where(self, raw: dict[str, Any], patch: dict[str, Any]) -> None:
        fitting = self._fitting(raw)
        done = await self.vectors.update(self.who, self.store, patch, filter=raw)
        assert done == {"updated": len(fitting)}
        for name in fitting:
            self._patch(name, patch)

    async def delete(self, name: str) -> None:
        done = await self.vectors.delete(self.who, self.store, document=name)
        assert done == {"deleted": int(self.documents.pop(name, None) is not None)}

    async def delete_where(self, raw: dict[str, Any]) -> None:
        fitting = self._fitting(raw)
        assert await self.vectors.delete(self.who, self.store, filter=raw) == {
            "deleted": len(fitting)
        }
        for name in fitting:
            del self.documents[name]

    async def roll_back(self, name: str, text: str, metadata: dict[str, Any]) -> None:
        draft = await self.vectors.draft_write(
            self.who, self.store, text, document=name, metadata=metadata
        )
        async with self.operations(self.who, "write", draft.uri) as op:
            await draft.prepare(op)
            self.there = True  # a store is made before its first document is committed
            async with self.control.connect() as tx:
                await draft.apply(tx, op)
                await tx.rollback()
        await draft.abandon()

    async def undo(self) -> None:
        base = f"vector://{self.store}/"
        rows, _ = await journal.read(self.control, self.who.tenant, None, 1000)
        mine = [row for row in rows if row["uri"].startswith(base)]
        if not mine or not self.there or mine[-1]["uri"] == base:
            return
        last = mine[-1]
        name = last["uri"].removeprefix(base)
        try:
            draft = await self.vectors.draft_restore(
                self.who, last["uri"], last["prev_version"], last["version"] or 0
            )
        except Conflict:  # its version went with an earlier store of the name
            return
        async with self.operations(self.who, "write", draft.uri) as op:
            await carry_out(self.control, op, draft)
        try:
            shown = await self.vectors.get(self.who, self.store, name)
            assert last["prev_version"] is not None
            self.documents[name] = shown["text"], shown["metadata"]
        except NotFound:
            assert last["prev_version"] is None
            del self.documents[name]

    async def drop(self) -> None:
        assert await self.vectors.delete_store(self.who, self.store) == {"deleted": self.there}
        self.documents.clear()
        self.there = False

    async def look(self, word: str, raw: dict[str, Any] | None) -> None:
        fitting = set(self.documents if raw is None else self._fitting(raw))
        holding = {name for name in fitting if word in self.documents[name][0].split()}
        for mode in MODES:
            answer = await self.vectors.search(
                self.who, self.store, word, k=100, filter=raw, mode=mode
            )
            found = {each["document"] for each in answer["results"]}
            assert found == (holding if mode == "text" else fitting), mode
            for each in answer["results"]:
                assert (each["text"], each["metadata"]) == self.documents[each["document"]]

    async def check(self) -> None:
        if not self.there:
            return
        listed = (await self.vectors.list(self.who, self.store))["items"]
        assert {each["document"]: each["metadata"] for each in listed} == {
            name: metadata for name, (_, metadata) in self.documents.items()
        }


@settings(
    max_examples=200 if os.environ.get("TEST_LENGTH") == "long" else 12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
@example(  # what Python calls equal is not the same to a filter
    steps=[
        ("add", "a", "alpha", {"k": 1}),
        ("update", "a", {"k": True}),
        ("update where", {"type": "eq", "key": "k", "value": 1}, {}),
    ]
)
async def test_a_store_is_a_dictionary_that_can_be_searched(
    control: AsyncEngine,
    operations: Operations,
    engine: VectorEngine,
    principal: Principal,
    steps: list[tuple[Any, ...]],
) -> None:
    vectors = VectorService(operations, control, engine, HashedWords(), undo_days=1)
    machine = Machine(control, operations, vectors, principal)
    for name, *arguments in steps:
        await machine.step(name, *arguments)
    for word in WORDS:
        await machine.step("look", word, None)
