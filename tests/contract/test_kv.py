"""Key-value on the real database: values, versions, conditions, expiry, pages and tenants."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import Conflict, Forbidden, InvalidInput, NotFound
from mcp_server.operation import Operations
from mcp_server.services.kv import KvService

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def kv(operations: Operations, control: AsyncEngine) -> KvService:
    return KvService(operations, control)


async def test_a_value_comes_back_with_its_version(kv: KvService, principal: Principal) -> None:
    written = await kv.set(principal, "default", "a", {"b": [1, None, "ü"]})
    assert await kv.get(principal, "default", "a") == written
    assert written["version"] >= 1
    assert written["expires_at"] is None


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=JSON)
async def test_any_json_comes_back_unchanged(
    kv: KvService, principal: Principal, value: Any
) -> None:
    await kv.set(principal, "default", "any", value)
    back = (await kv.get(principal, "default", "any"))["value"]
    assert back == value
    assert repr(back) == repr(value)  # 1 stays 1 and 1.0 stays 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, {"x": -math.inf}, b"bytes"])
async def test_what_json_has_not_is_refused(
    kv: KvService, principal: Principal, value: Any
) -> None:
    with pytest.raises(InvalidInput, match="not JSON"):
        await kv.set(principal, "default", "k", value)
    with pytest.raises(NotFound):
        await kv.get(principal, "default", "k")


async def test_versions_rise_and_are_never_used_again(kv: KvService, principal: Principal) -> None:
    seen: list[int] = []
    for name in ("a", "b", "a"):
        written = await kv.set(principal, "default", name, 1)
        seen.append(written["version"])
    assert (await kv.delete(principal, "default", "a"))["deleted"] is True
    seen.append((await kv.set(principal, "default", "a", 1, expected_version=0))["version"])
    assert seen == sorted(set(seen))
    first = await kv.set(principal, "default", "b", 2)
    second = await kv.set(principal, "default", "b", 3)
    assert second["version"] == first["version"] + 1  # a plain write takes one number


async def test_conditions_decide_under_concurrency(kv: KvService, principal: Principal) -> None:
    outcomes: list[str] = []

    async def claim(number: int) -> None:
        try:
            await kv.set(principal, "default", "lock", number, expected_version=0)
            outcomes.append("won")
        except Conflict as error:
            outcomes.append(error.code)

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(claim, number)
    assert sorted(outcomes) == ["conflict"] * 11 + ["won"]


async def test_a_wrong_version_names_the_current_one(kv: KvService, principal: Principal) -> None:
    version = (await kv.set(principal, "default", "k", 1))["version"]
    with pytest.raises(Conflict, match=f"version is {version}"):
        await kv.set(principal, "default", "k", 2, expected_version=version + 1)
    with pytest.raises(Conflict, match="version is 0"):
        await kv.set(principal, "default", "absent", 2, expected_version=5)
    with pytest.raises(Conflict, match=f"version is {version}"):
        await kv.delete(principal, "default", "k", expected_version=version + 1)
    assert (await kv.delete(principal, "default", "absent", expected_version=0)) == {
        "deleted": False
    }
    with pytest.raises(InvalidInput, match="expected_version"):
        await kv.set(principal, "default", "k", 2, expected_version=-1)


async def test_an_expired_key_is_absent_and_its_version_is_not_reused(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    before = await kv.set(principal, "default", "k", 1, ttl_seconds=3600)
    assert before["expires_at"] is not None
    async with control.begin() as tx:
        await tx.execute(
            text("update kv set expires_at = now() - interval '1 second' where tenant = :t"),
            {"t": principal.tenant},
        )
    with pytest.raises(NotFound):
        await kv.get(principal, "default", "k")
    assert (await kv.list(principal, "default"))["items"] == []
    with pytest.raises(Conflict, match="version is 0"):
        await kv.set(principal, "default", "k", 2, expected_version=before["version"])
    after = await kv.set(principal, "default", "k", 2, expected_version=0)
    assert after["version"] > before["version"]
    with pytest.raises(InvalidInput, match="ttl_seconds"):
        await kv.set(principal, "default", "k", 2, ttl_seconds=0)


async def test_pages_are_in_byte_order_and_complete(kv: KvService, principal: Principal) -> None:
    keys = ["b", "B", "a/1", "a/2", "é", "a-3", "中"]
    for name in keys:
        await kv.set(principal, "default", name, name)
    seen: list[str] = []
    cursor = None
    while True:
        page = await kv.list(principal, "default", limit=2, cursor=cursor)
        seen += [item["key"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(keys, key=str.encode)
    only = await kv.list(principal, "default", prefix="a/")
    assert [item["key"] for item in only["items"]] == ["a/1", "a/2"]


async def test_bad_names_pages_and_sizes_are_refused(kv: KvService, principal: Principal) -> None:
    for key in ("", "a\0b", "a\nb", "x" * 1025, "a\u202eb", "\ud800"):
        with pytest.raises(InvalidInput, match="key"):
            await kv.set(principal, "default", key, 1)
    for namespace in ("", "a b", "../x", "a//b", "-a", "ä"):
        with pytest.raises(InvalidInput, match="namespace"):
            await kv.set(principal, namespace, "k", 1)
    for limit in (0, 1001, -5):
        with pytest.raises(InvalidInput, match="limit"):
            await kv.list(principal, "default", limit=limit)
    for cursor in ("%%%", "", "AA"):
        with pytest.raises(InvalidInput, match="cursor"):
            await kv.list(principal, "default", cursor=cursor)
    with pytest.raises(InvalidInput, match="value"):
        await kv.set(principal, "default", "k", "x" * 1_100_000)


async def test_another_tenant_sees_nothing(
    kv: KvService, principal: Principal, stranger: Principal
) -> None:
    await kv.set(principal, "default", "secret", 1)
    with pytest.raises(NotFound) as foreign:
        await kv.get(stranger, "default", "secret")
    with pytest.raises(NotFound) as absent:
        await kv.get(stranger, "default", "secret2")
    assert str(foreign.value).replace("secret", "") == str(absent.value).replace("secret2", "")
    assert (await kv.list(stranger, "default"))["items"] == []
    assert await kv.delete(stranger, "default", "secret") == {"deleted": False}
    assert (await kv.get(principal, "default", "secret"))["value"] == 1


async def test_a_scope_on_a_prefix_is_all_that_its_key_sees(
    kv: KvService, principal: Principal
) -> None:
    for name in ("public/a", "private/b"):
        await kv.set(principal, "docs", name, 1)
    narrow = Principal(principal.tenant, "n", frozenset({"read:kv://docs/public/*"}))
    assert [item["key"] for item in (await kv.list(narrow, "docs"))["items"]] == ["public/a"]
    assert (await kv.get(narrow, "docs", "public/a"))["value"] == 1
    with pytest.raises(Forbidden, match="may not read kv://docs/private/b"):
        await kv.get(narrow, "docs", "private/b")
    with pytest.raises(Forbidden):
        await kv.set(narrow, "docs", "public/a", 2)
    with pytest.raises(Forbidden):
        await kv.list(narrow, "other")


async def test_each_change_is_journalled_in_its_transaction(
    kv: KvService, control: AsyncEngine, principal: Principal
) -> None:
    first = await kv.set(principal, "default", "k", 1, idempotency_key="step-1")
    second = await kv.set(principal, "default", "k", 2)
    with pytest.raises(Conflict):
        await kv.set(principal, "default", "k", 3, expected_version=0)
    await kv.delete(principal, "default", "k")
    rows, position = await journal.read(control, principal.tenant, None, 10)
    assert [(row["verb"], row["version"], row["prev_version"], row["step"]) for row in rows] == [
        ("write", first["version"], None, "step-1"),
        ("write", second["version"], first["version"], None),
        ("delete", None, second["version"], None),
    ]
    assert {row["uri"] for row in rows} == {"kv://default/k"}
    rest, _ = await journal.read(control, principal.tenant, position, 10)
    assert rest == []


async def test_a_namespace_with_a_slash_is_not_a_key_of_another(
    kv: KvService, principal: Principal
) -> None:
    await kv.set(principal, "a/b", "k", 1)
    narrow = Principal(principal.tenant, "n", frozenset({"read:kv://a/*"}))
    with pytest.raises(Forbidden):
        await kv.get(narrow, "a/b", "k")
    with pytest.raises(Forbidden):
        await kv.list(narrow, "a/b")
    wide = Principal(principal.tenant, "w", frozenset({"read:kv://a%2Fb/*"}))
    assert (await kv.get(wide, "a/b", "k"))["value"] == 1


async def test_a_key_that_looks_like_a_pattern_is_a_key(
    kv: KvService, principal: Principal
) -> None:
    for key in ("a*", "*"):
        await kv.set(principal, "docs", key, key)
        narrow = Principal(principal.tenant, "n", frozenset({"read:kv://docs/abc*"}))
        with pytest.raises(Forbidden):
            await kv.get(narrow, "docs", key)
