"""What every cache engine promises beneath the service: numbers that rise for ever, bounds, order, absence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anyio
import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.errors import ConfigurationError, LimitExceeded, Unavailable
from mcp_server.storage.cache import CacheEngine, Conditions, Entry, Place, Refusal
from mcp_server.storage.cache import memory as memory_engine
from mcp_server.storage.cache.memory import MemoryCache
from mcp_server.storage.cache.redis import open_redis
from tests.servers.valkey import Valkey

NOW = 1_900_000_000.0


async def put(engine: CacheEngine, place: Place, value: str = "1", ttl: float | None = None) -> int:
    entry = await engine.write(place, value, Conditions(ttl=ttl))
    assert isinstance(entry, Entry)
    return entry.version


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(valkey.url) as client:
        yield client


KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=3)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(keys=st.sets(KEYS, max_size=12), prefix=st.text(max_size=1), size=st.integers(1, 4))
async def test_pages_are_in_byte_order(
    engine: CacheEngine, tenant: str, keys: set[str], prefix: str, size: int
) -> None:
    if any("\ud800" <= char <= "\udfff" or char < " " for char in prefix):
        prefix = ""
    namespace = f"n{time.monotonic_ns()}"
    for key in keys:
        await put(engine, Place(tenant, namespace, key))
    seen: list[str] = []
    after = None
    while True:
        entries, cut = await engine.page(tenant, namespace, prefix, after, size)
        assert not cut
        if not entries:
            break
        seen += [entry.key for entry in entries]
        after = seen[-1]
    assert seen == sorted((key for key in keys if key.startswith(prefix)), key=str.encode)


async def test_names_that_look_alike_do_not_meet(engine: CacheEngine, tenant: str) -> None:
    places = [
        Place(tenant, "a", "b:c"),
        Place(tenant, "a/b", "c"),
        Place(tenant + "}:v:a", "b", "c"),
        Place(tenant + ":v", "a", "b:c"),
        Place(tenant, "a", "b"),
        Place(tenant, "a", "*"),
    ]
    for number, place in enumerate(places):
        await put(engine, place, str(number))
        await engine.acquire(place, None, 60, None)
    for number, place in enumerate(places):
        (entry,) = await engine.read(place.tenant, place.namespace, [place.key])
        assert entry.value == str(number)
    assert await engine.delete(Place(tenant, "a", "*"), None)
    assert len(await engine.read(tenant, "a", ["b:c", "b", "*"])) == 2


async def test_a_tenant_is_erased_and_nobody_else(engine: CacheEngine, tenant: str) -> None:
    versions: list[int] = []
    for own in (tenant, f"{tenant}2", f"{tenant[:-1]}*"):
        versions += [await put(engine, Place(own, "n", f"k{number}")) for number in range(30)]
        await engine.acquire(Place(own, "n", "lease"), "ann", 60, None)
    await engine.erase(tenant)
    await engine.erase(f"{tenant[:-1]}*")
    assert await engine.read(tenant, "n", ["k0", "k29"]) == []
    assert await engine.page(tenant, "n", "", None, 100) == ([], False)
    assert (await engine.acquire(Place(tenant, "n", "lease"), None, 60, None)).token
    assert len((await engine.page(f"{tenant}2", "n", "", None, 100))[0]) == 30
    assert not (await engine.acquire(Place(f"{tenant}2", "n", "lease"), None, 60, None)).token
    assert await put(engine, Place(tenant, "n", "k0")) > max(versions[:30])


async def test_redis_goes_on_above_its_numbers_after_it_lost_everything(
    tenant: str,
) -> None:
    place = Place(tenant, "n", "k")
    with Valkey() as server:
        async with open_redis(server.url) as engine:
            version = await put(engine, place)
            token = (await engine.acquire(place, None, 60, None)).token
            assert token is not None
            server.kill()
            with pytest.raises(Unavailable, match="the cache does not answer"):
                await engine.read(tenant, "n", ["k"])
            server.start()
            assert await engine.read(tenant, "n", ["k"]) == []
            assert await engine.write(place, "1", Conditions(expected=version)) == Refusal(0)
            assert await engine.write(place, "1", Conditions(fence=token)) == Refusal(held=False)
            assert await put(engine, place) > version
            again = (await engine.acquire(place, None, 60, None)).token
            assert again is not None
            assert again > token


async def test_memory_goes_on_above_the_numbers_of_the_process_before(tenant: str) -> None:
    place = Place(tenant, "n", "k")
    before = await put(MemoryCache(clock=lambda: NOW), place)
    assert await put(MemoryCache(clock=lambda: NOW + 0.001), place) > before


async def test_a_clock_that_goes_back_takes_no_number_back(tenant: str) -> None:
    times = iter([NOW, NOW - 60, NOW - 120, NOW - 180, NOW - 240, NOW - 300])
    engine = MemoryCache(clock=lambda: next(times))
    place = Place(tenant, "n", "k")
    first = await put(engine, place)
    assert await put(engine, place) == first + 1


async def test_a_cache_that_stands_still_is_unavailable_in_bounded_time(
    tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_server.storage.cache.redis.SECONDS", 0.3)
    with Valkey() as server:
        async with open_redis(server.url) as engine:
            await put(engine, Place(tenant, "n", "k"))
            server.pause()
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await engine.read(tenant, "n", ["k"])
            with pytest.raises(Unavailable):
                await engine.answers()
            assert time.monotonic() - begun < 30
            server.resume()
            assert len(await engine.read(tenant, "n", ["k"])) == 1


async def test_no_expired_key_stays_in_an_index(
    valkey: Valkey, client: redis.asyncio.Redis, tenant: str
) -> None:
    index = f"isthmus:{{{tenant}}}:i:n"
    async with open_redis(valkey.url) as engine:
        for number in range(50):
            await put(engine, Place(tenant, "n", f"short{number}"), ttl=0.01)
        with anyio.fail_after(5):
            while await client.exists(index):  # its longest entry is gone, and so is it
                await asyncio.sleep(0.02)
        for number in range(50):
            await put(engine, Place(tenant, "n", f"short{number}"), ttl=0.01)
        await put(engine, Place(tenant, "n", "stays"))
        for _ in range(1000):
            await put(engine, Place(tenant, "n", "stays"))
        assert await client.zcard(index) < 10
        entries, _ = await engine.page(tenant, "n", "", None, 100)
        assert [entry.key for entry in entries] == ["stays"]
        assert await client.zcard(index) == 1
        assert await client.ttl(index) == -1
        assert await engine.delete(Place(tenant, "n", "stays"), None)
        assert not await client.exists(index)


async def test_every_name_holds_its_tenant(
    valkey: Valkey, client: redis.asyncio.Redis, tenant: str
) -> None:
    before: set[bytes] = set(await client.keys("*"))  # pyright: ignore[reportAssignmentType]
    async with open_redis(valkey.url) as engine:
        place = Place(tenant, "n", "k")
        await put(engine, place, ttl=60)
        await engine.acquire(place, "ann", 60, None)
    made: set[bytes] = set(await client.keys("*")) - before  # pyright: ignore[reportAssignmentType]
    assert len(made) == 5
    begin = f"isthmus:{{{tenant}}}:"
    assert all(str(name, "utf-8").startswith(begin) for name in made)


async def test_the_tenant_that_holds_most_gives_way_first(tenant: str) -> None:
    engine = MemoryCache(max_bytes=100_000)
    await put(engine, Place("small", "n", "k"), "x" * 1000)
    for number in range(100):
        await put(engine, Place("large", "n", f"k{number:03}"), "x" * 2000)
        await engine.read("large", "n", ["k000"])  # used again and again: it stays
    assert len(await engine.read("small", "n", ["k"])) == 1
    entries, _ = await engine.page("large", "n", "", None, 1000)
    assert [entry.key for entry in entries[:1]] == ["k000"]
    assert entries[-1].key == "k099"
    assert 30 < len(entries) < 50
    assert len(entries[0].value) == 2000


async def test_leases_in_this_process_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_engine, "MAX_LEASES", 3)
    moment = [NOW]
    engine = MemoryCache(clock=lambda: moment[0])
    for number in range(3):
        await engine.acquire(Place("t", "n", str(number)), None, 60, None)
    with pytest.raises(LimitExceeded, match="leases"):
        await engine.acquire(Place("t", "n", "more"), None, 60, None)
    moment[0] += 61
    assert (await engine.acquire(Place("t", "n", "more"), None, 60, None)).token


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"install isthmus\[redis\]"):
        async with open_redis("redis://127.0.0.1:1"):
            pass
