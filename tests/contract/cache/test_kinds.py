"""Durable and cache namespaces: the same tools, the same results."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from tests.contract.cache.conftest import Kind


async def gone(kind: Kind, principal: Principal, key: str) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                await kind.kv.get(principal, kind.namespace, key)
            except NotFound:
                return
            await asyncio.sleep(0.01)


async def test_values_come_back_with_rising_versions(kind: Kind, principal: Principal) -> None:
    seen: list[int] = []
    for value in ({"b": [1, None, "ü\0"]}, 1.0, 1, "", False, None):
        written = await kind.kv.set(principal, kind.namespace, "k", value)
        back = await kind.kv.get(principal, kind.namespace, "k")
        assert (back, repr(back["value"])) == (written, repr(value))
        seen.append(written["version"])
    await kind.kv.delete(principal, kind.namespace, "k")
    seen.append((await kind.kv.set(principal, kind.namespace, "k", 1))["version"])
    assert seen == sorted(set(seen))


async def test_conditions_decide(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "k")
    with pytest.raises(Conflict, match=r"version is 0$"):
        await kind.kv.set(*at, 1, expected_version=5)
    version = (await kind.kv.set(*at, 1, expected_version=0))["version"]
    for expected in (0, version + 1):
        with pytest.raises(Conflict, match=rf"version is {version}$"):
            await kind.kv.set(*at, 2, expected_version=expected)
        with pytest.raises(Conflict, match=rf"version is {version}$"):
            await kind.kv.delete(*at, expected_version=expected)
    assert (await kind.kv.get(*at))["value"] == 1
    assert (await kind.kv.set(*at, 2, expected_version=version))["version"] > version
    assert await kind.kv.delete(*at) == {"deleted": True}
    assert await kind.kv.delete(*at) == {"deleted": False}
    assert await kind.kv.delete(*at, expected_version=0) == {"deleted": False}
    with pytest.raises(Conflict, match=r"version is 0$"):
        await kind.kv.delete(*at, expected_version=version)


async def test_one_of_many_wins_a_condition(kind: Kind, principal: Principal) -> None:
    outcomes: list[str] = []

    async def claim(number: int) -> None:
        try:
            await kind.kv.set(principal, kind.namespace, "k", number, expected_version=0)
            outcomes.append("won")
        except Conflict as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(claim, number)
    assert sorted(outcomes) == ["conflict"] * 11 + ["won"]


async def test_what_expired_is_absent_everywhere(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "k")
    first = await kind.kv.set(*at, 1, ttl_seconds=0.05)
    assert first["expires_at"] is not None
    await gone(kind, principal, "k")
    await kind.kv.set(principal, kind.namespace, "other", 1)
    listed = await kind.kv.list(principal, kind.namespace)
    assert [item["key"] for item in listed["items"]] == ["other"]
    assert (await kind.kv.get_many(principal, kind.namespace, ["k"]))["missing"] == ["k"]
    with pytest.raises(Conflict, match=r"version is 0$"):
        await kind.kv.set(*at, 2, expected_version=first["version"])
    again = await kind.kv.set(*at, 2, expected_version=0, ttl_seconds=3600)
    assert again["version"] > first["version"]
    assert (await kind.kv.set(*at, 3))["expires_at"] is None


async def test_many_keys_are_read_at_once(kind: Kind, principal: Principal) -> None:
    for key in ("a", "b", "中"):
        await kind.kv.set(principal, kind.namespace, key, key)
    many = await kind.kv.get_many(principal, kind.namespace, ["中", "absent", "a", "a"])
    assert [item["key"] for item in many["items"]] == ["中", "a"]
    assert many["items"][1] == await kind.kv.get(principal, kind.namespace, "a")
    assert many["missing"] == ["absent"]
    for keys in ([], [str(number) for number in range(101)]):
        with pytest.raises(InvalidInput, match="keys"):
            await kind.kv.get_many(principal, kind.namespace, keys)
    with pytest.raises(InvalidInput, match="key"):
        await kind.kv.get_many(principal, kind.namespace, ["a", ""])
    narrow = Principal(principal.tenant, "n", frozenset({f"read:kv://{kind.namespace}/a"}))
    with pytest.raises(Forbidden):
        await kind.kv.get_many(narrow, kind.namespace, ["b"])


@pytest.mark.parametrize(
    ("before", "by", "after"),
    [
        (None, 1, 1),
        (None, 0.1, 0.1),
        (41, 1, 42),
        (2**63 - 1, 1, 2**63),
        (10**30, -1, 10**30 - 1),
        (0.1, 0.2, 0.3),
        (1, 0.5, 1.5),
        (0.5, 0.5, 1.0),
        (-1.25, 3, 1.75),
        (5, -5, 0),
    ],
)
async def test_sums_are_exact(
    kind: Kind, principal: Principal, before: Any, by: Any, after: Any
) -> None:
    if before is not None:
        await kind.kv.set(principal, kind.namespace, "n", before)
    item = await kind.kv.increment(principal, kind.namespace, "n", by)
    assert repr(item["value"]) == repr(after)
    assert item == await kind.kv.get(principal, kind.namespace, "n")


async def test_what_is_no_number_or_would_lose_is_refused(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "n")
    for value in ("1", True, None, [1], {}):
        before = await kind.kv.set(*at, value)
        with pytest.raises(Conflict, match="not a number"):
            await kind.kv.increment(*at)
        assert await kind.kv.get(*at) == before
    for number, by in ((10**33, 9 * 10**33), (1e300, 1), (9007199254740993, 0.5)):
        before = await kind.kv.set(*at, number)
        with pytest.raises(InvalidInput, match="by: the sum"):
            await kind.kv.increment(*at, by)
        assert await kind.kv.get(*at) == before
    for by in (float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="by: "):
            await kind.kv.increment(*at, by)


async def test_increments_at_once_are_all_counted(kind: Kind, principal: Principal) -> None:
    seen: list[Any] = []

    async def count() -> None:
        for _ in range(5):
            item = await kind.kv.increment(principal, kind.namespace, "n")
            seen.append(item["value"])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(count)
    assert sorted(seen) == list(range(1, 41))


async def test_a_counter_keeps_the_time_that_it_began_with(
    kind: Kind, principal: Principal
) -> None:
    at = (principal, kind.namespace, "n")
    first = await kind.kv.increment(*at, ttl_seconds=3600)
    second = await kind.kv.increment(*at, ttl_seconds=60)
    assert first["expires_at"] is not None
    assert second["expires_at"] == first["expires_at"]
    await kind.kv.set(*at, 1)
    assert (await kind.kv.increment(*at, ttl_seconds=60))["expires_at"] is None
    await kind.kv.set(*at, 9, ttl_seconds=0.05)
    await gone(kind, principal, "n")
    assert (await kind.kv.increment(*at))["value"] == 1


async def test_a_lease_has_one_holder_and_rising_tokens(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "job")
    first = await kind.kv.lease(*at, 3600, owner="ann")
    assert first["acquired"] is True
    refused = await kind.kv.lease(*at, 60, owner="ben")
    assert refused == first | {"token": None, "acquired": False}
    token = first["token"]
    assert token is not None
    longer = await kind.kv.lease(*at, 7200, token=token)
    assert longer["expires_at"] > first["expires_at"]  # pyright: ignore[reportOperatorIssue]
    assert (longer["token"], longer["owner"]) == (token, "ann")
    assert (await kind.kv.lease(*at, 60, token=token + 1))["acquired"] is False
    assert await kind.kv.release(*at, token + 1) == {"released": False}
    assert await kind.kv.release(*at, token) == {"released": True}
    assert await kind.kv.release(*at, token) == {"released": False}
    late = await kind.kv.lease(*at, 60, token=token)
    assert (late["acquired"], late["expires_at"], late["owner"]) == (False, None, None)
    second = await kind.kv.lease(*at, 0.05)
    assert second["token"] is not None
    assert second["token"] > token
    with anyio.fail_after(30):
        while not (third := await kind.kv.lease(*at, 60))["acquired"]:
            await asyncio.sleep(0.01)
    assert third["token"] is not None
    assert third["token"] > second["token"]
    with pytest.raises(NotFound):  # a lease is no key
        await kind.kv.get(*at)


async def test_only_the_holder_writes_with_its_fence(kind: Kind, principal: Principal) -> None:
    job = (principal, kind.namespace, "job")
    value = (principal, kind.namespace, "value")
    token = (await kind.kv.lease(*job, 3600))["token"]
    assert token is not None
    written = await kind.kv.set(*value, 1, fence=token)
    with pytest.raises(Conflict, match=f"lease of token {token + 10**6} is not held"):
        await kind.kv.set(*value, 2, fence=token + 10**6)
    with pytest.raises(Conflict, match="version is"):
        await kind.kv.set(*value, 2, fence=token, expected_version=0)
    await kind.kv.release(*job, token)
    with pytest.raises(Conflict, match="is not held any more"):
        await kind.kv.set(*value, 2, fence=token)
    newer = (await kind.kv.lease(*job, 0.05))["token"]
    assert newer is not None
    with anyio.fail_after(30):
        while not (await kind.kv.lease(*job, 60))["acquired"]:
            await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="is not held any more"):
        await kind.kv.set(*value, 2, fence=newer)
    assert await kind.kv.get(*value) == written


async def test_bad_terms_are_refused(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "k")
    for ttl in (0, -1, 24 * 3600 + 1, float("nan")):
        with pytest.raises(InvalidInput, match="ttl_seconds"):
            await kind.kv.lease(*at, ttl)
    for token in (0, -1, 2**63):
        with pytest.raises(InvalidInput, match="token"):
            await kind.kv.release(*at, token)
        with pytest.raises(InvalidInput, match="fence"):
            await kind.kv.set(*at, 1, fence=token)
    with pytest.raises(InvalidInput, match="owner"):
        await kind.kv.lease(*at, 60, owner="a\0")


async def test_another_tenant_meets_nothing_of_it(
    kind: Kind, principal: Principal, stranger: Principal
) -> None:
    token = (await kind.kv.lease(principal, kind.namespace, "k", 60))["token"]
    assert token is not None
    await kind.kv.set(principal, kind.namespace, "k", 1)
    with pytest.raises(NotFound):
        await kind.kv.get(stranger, kind.namespace, "k")
    assert (await kind.kv.get_many(stranger, kind.namespace, ["k"]))["items"] == []
    assert (await kind.kv.increment(stranger, kind.namespace, "k"))["value"] == 1
    with pytest.raises(Conflict, match="is not held any more"):
        await kind.kv.set(stranger, kind.namespace, "k", 1, fence=token)
    assert await kind.kv.release(stranger, kind.namespace, "k", token) == {"released": False}
    assert (await kind.kv.lease(stranger, kind.namespace, "k", 60))["acquired"] is True
    assert await kind.kv.delete(stranger, kind.namespace, "k") == {"deleted": True}
    assert (await kind.kv.get(principal, kind.namespace, "k"))["value"] == 1


async def test_a_repeated_call_answers_as_the_first(kind: Kind, principal: Principal) -> None:
    at = (principal, kind.namespace, "n")
    for _ in range(2):
        assert (await kind.kv.increment(*at, idempotency_key="one"))["value"] == 1
    first = await kind.kv.lease(*at, 60, idempotency_key="two")
    assert await kind.kv.lease(*at, 60, idempotency_key="two") == first
    assert first["token"] is not None
    for _ in range(2):
        done = await kind.kv.release(*at, first["token"], idempotency_key="three")
        assert done == {"released": True}
    written = await kind.kv.set(*at, "x", idempotency_key="four")
    await kind.kv.set(*at, "y")
    assert await kind.kv.set(*at, "x", idempotency_key="four") == written
    assert (await kind.kv.get(*at))["value"] == "y"
    await kind.kv.delete(*at, idempotency_key="five")
    await kind.kv.set(*at, "z")
    assert await kind.kv.delete(*at, idempotency_key="five") == {"deleted": True}
    assert (await kind.kv.get(*at))["value"] == "z"


async def test_a_namespace_that_nothing_was_written_to_is_missing_unless_it_is_a_cache(
    kind: Kind, principal: Principal
) -> None:
    if kind.durable:
        with pytest.raises(NotFound, match=f"namespace '{kind.namespace}' does not exist"):
            await kind.kv.list(principal, kind.namespace)
    else:
        assert (await kind.kv.list(principal, kind.namespace))["items"] == []
    await kind.kv.set(principal, kind.namespace, "k", 1)
    await kind.kv.delete(principal, kind.namespace, "k")
    assert await kind.kv.list(principal, kind.namespace) == {"items": [], "next_cursor": None}
    assert (await kind.kv.list(principal, "default"))["items"] == []


async def test_only_visible_prefixes_are_listed(kind: Kind, principal: Principal) -> None:
    for key in ("a/1", "a/2", "b/1", "c", "a/2/x"):
        await kind.kv.set(principal, kind.namespace, key, 1)
    base = f"read:kv://{kind.namespace.replace('/', '%2F')}/"
    narrow = Principal(
        principal.tenant, "n", frozenset({f"{base}a/2*", f"{base}b*", f"{base}a/2/*"})
    )

    async def listed(prefix: str | None) -> list[str]:
        items: list[str] = []
        cursor = None
        while True:
            page = await kind.kv.list(narrow, kind.namespace, prefix=prefix, limit=1, cursor=cursor)
            items += [item["key"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return items

    assert await listed(None) == ["a/2", "a/2/x", "b/1"]
    assert await listed("a") == ["a/2", "a/2/x"]
    assert await listed("a/2/") == ["a/2/x"]


async def test_a_page_of_large_values_ends_early(kind: Kind, principal: Principal) -> None:
    large = "x" * 1_000_000
    for number in range(20):
        await kind.kv.set(principal, kind.namespace, f"{number:02}", large)
    first = await kind.kv.list(principal, kind.namespace)
    assert 10 <= len(first["items"]) < 20
    rest = await kind.kv.list(principal, kind.namespace, cursor=first["next_cursor"])
    keys = [item["key"] for item in first["items"] + rest["items"]]
    assert keys == [f"{number:02}" for number in range(20)]
    assert rest["next_cursor"] is None
