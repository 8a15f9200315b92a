"""Any sequence of writes, conditions, sums, leases and pages against a model of a few lines, on every kind of store."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mcp_server.audit import Audit
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, NotFound
from mcp_server.limits import Limits
from mcp_server.operation import Operations
from mcp_server.services.kv import KvItem, KvService
from mcp_server.storage.cache.memory import MemoryCache
from mcp_server.storage.cache.redis import open_redis
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import Cluster
from tests.conftest import make_tenant
from tests.contract.cache.conftest import ENGINES
from tests.servers.valkey import Valkey

LONG = os.environ.get("TEST_LENGTH") == "long"
# One, two, three and four bytes in UTF-8, and the edges of what a prefix' range ends before.
KEYS = st.text("aA/~é\ud7ff\ue000中\uffff🦊\U0010ffff", min_size=1, max_size=3)
VALUES = st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
NUMBERS = st.integers(-5, 5) | st.sampled_from([0.1, 0.25, -1.5])
NAMES = st.sampled_from(["one", "two"])
NUMBER = itertools.count()


class KeysAreADictionary(RuleBasedStateMachine):
    """What the service answers is what a dictionary would, but for versions, which only rise."""

    portal: BlockingPortal
    kv: KvService
    who: Principal
    kind: str

    @initialize()
    def begin(self) -> None:
        self.namespace = f"{'' if self.kind == 'durable' else 'cache/'}n{next(NUMBER)}"
        self.model: dict[str, KvItem] = {}
        self.held: dict[str, int] = {}
        self.newest = 0

    def ask(self, method: str, *arguments: Any, **more: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.kv, method)(self.who, self.namespace, *arguments, **more)

        return self.portal.call(call)

    def rises(self, number: int) -> None:
        assert number > self.newest
        self.newest = number

    def wrote(self, key: str, item: KvItem, value: Any) -> None:
        self.rises(item["version"])
        assert repr(item["value"]) == repr(value)
        self.model[key] = item

    @rule(key=KEYS, value=VALUES | NUMBERS, ttl=st.none() | st.just(3600))
    def set(self, key: str, value: Any, ttl: float | None) -> None:
        item = self.ask("set", key, value, ttl_seconds=ttl)
        assert (item["expires_at"] is None) is (ttl is None)
        self.wrote(key, item, value)

    @rule(key=KEYS, value=VALUES, wrong=st.integers(0, 3))
    def set_if(self, key: str, value: Any, wrong: int) -> None:
        current = self.model[key]["version"] if key in self.model else 0
        if wrong in {0, 1}:
            expected = current
            self.wrote(key, self.ask("set", key, value, expected_version=expected), value)
            return
        expected = self.newest + 1 if wrong == 2 or not current else 0
        with pytest.raises(Conflict, match=rf"version is {current}$"):
            self.ask("set", key, value, expected_version=expected)

    @rule(key=KEYS)
    def expire(self, key: str) -> None:
        self.rises(self.ask("set", key, "short", ttl_seconds=0.001)["version"])
        self.model.pop(key, None)
        self.portal.call(self._gone, key)

    async def _gone(self, key: str) -> None:
        with anyio.fail_after(30):
            while (await self.kv.get_many(self.who, self.namespace, [key]))["items"]:
                await asyncio.sleep(0.001)

    @rule(key=KEYS, by=NUMBERS)
    def increment(self, key: str, by: Any) -> None:
        before = self.model[key]["value"] if key in self.model else 0
        if isinstance(before, bool) or not isinstance(before, int | float):
            with pytest.raises(Conflict, match="not a number"):
                self.ask("increment", key, by)
            return
        item = self.ask("increment", key, by)
        whole = isinstance(before, int) and isinstance(by, int)
        if key in self.model:
            assert item["expires_at"] == self.model[key]["expires_at"]
        self.wrote(key, item, before + by if whole else round(before + by, 6))

    @rule(key=KEYS, expected=st.sampled_from(["any", "current", "wrong"]))
    def delete(self, key: str, expected: str) -> None:
        current = self.model[key]["version"] if key in self.model else 0
        if expected == "wrong":
            with pytest.raises(Conflict, match=rf"version is {current}$"):
                self.ask("delete", key, expected_version=self.newest + 1)
            return
        terms = {"expected_version": current} if expected == "current" else {}
        assert self.ask("delete", key, **terms) == {"deleted": bool(current)}
        self.model.pop(key, None)

    @rule(name=NAMES)
    def lease(self, name: str) -> None:
        lease = self.ask("lease", name, 3600)
        assert lease["acquired"] is (name not in self.held)
        if lease["acquired"]:
            self.rises(lease["token"])
            self.held[name] = lease["token"]

    @rule(name=NAMES, right=st.booleans())
    def renew_or_release(self, name: str, right: bool) -> None:
        token = self.held.get(name, 1) if right else self.newest + 1
        own = self.held.get(name) == token
        assert self.ask("lease", name, 3600, token=token)["acquired"] is own
        assert self.ask("release", name, token) == {"released": own}
        if own:
            del self.held[name]
            # An old token is worth nothing, whatever else is held.
            with pytest.raises(Conflict, match="is not held any more"):
                self.ask("set", "fenced", 1, fence=token)

    @rule(key=KEYS, name=NAMES, value=VALUES)
    def set_fenced(self, key: str, name: str, value: Any) -> None:
        if name in self.held:
            self.wrote(key, self.ask("set", key, value, fence=self.held[name]), value)
        else:
            with pytest.raises(Conflict, match="is not held any more"):
                self.ask("set", key, value, fence=self.newest + 1)

    @rule(
        prefix=st.none() | KEYS,
        size=st.integers(1, 3),
        churn=st.lists(st.tuples(KEYS, st.booleans()), max_size=4),
    )
    def list_while_others_come_and_go(
        self, prefix: str | None, size: int, churn: list[tuple[str, bool]]
    ) -> None:
        if not self.model:
            return
        wanted = {key for key in self.model if key.startswith(prefix or "")}
        stays = wanted - {key for key, _ in churn}
        seen: list[str] = []
        cursor, changes = None, iter(churn)
        while True:
            page = self.ask("list", prefix=prefix, limit=size, cursor=cursor)
            assert len(page["items"]) <= size
            seen += [item["key"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            for key, comes in itertools.islice(changes, 1):
                if comes:
                    self.set(key, "came", None)
                else:
                    self.delete(key, "any")
        assert seen == sorted(set(seen), key=str.encode)
        assert stays <= set(seen)
        assert all(key.startswith(prefix or "") for key in seen)

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        if not getattr(self, "model", None):
            return
        listed = self.ask("list", limit=1000)["items"]
        assert {item["key"]: item for item in listed} == self.model
        many = self.ask("get_many", list(self.model)[:100])
        assert many == {"items": list(self.model.values())[:100], "missing": []}
        with pytest.raises(NotFound):
            self.ask("get", "nobody writes this")


@asynccontextmanager
async def opened(
    kind: str, cluster: Cluster, url: str
) -> AsyncGenerator[tuple[KvService, Principal]]:
    async with open_control(cluster.control_url, pool_size=2) as control:
        who = await make_tenant(control)
        operations = Operations(Limits(), Audit())
        if kind == "redis":
            async with open_redis(url) as engine:
                yield KvService(operations, control, cache=engine), who
        else:
            yield KvService(operations, control, cache=MemoryCache(), undo_days=7), who


@contextmanager
def machine(kind: str, cluster: Cluster, url: str) -> Iterator[type[KeysAreADictionary]]:
    """Give a machine whose service lives in an event loop of its own."""
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        with portal.wrap_async_context_manager(opened(kind, cluster, url)) as (kv, who):
            own = {"portal": portal, "kv": kv, "who": who, "kind": kind}
            yield type("Machine", (KeysAreADictionary,), own)


@pytest.mark.parametrize("kind", ["durable", *ENGINES])
def test_keys_are_a_dictionary(kind: str, cluster: Cluster, valkey: Valkey) -> None:
    with machine(kind, cluster, valkey.url) as made:
        run_state_machine_as_test(
            made,
            settings=settings(
                max_examples=300 if LONG else 12,
                stateful_step_count=40 if LONG else 25,
                deadline=None,
                derandomize=not LONG,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
