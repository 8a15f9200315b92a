"""Pages of a bucket: order, folding, cursors and what the caller may see."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, InvalidInput
from mcp_server.services.objects import ObjectPage, ObjectService


def folded(keys: set[str], prefix: str, delimiter: str | None) -> list[str]:
    """What a listing shows, said in Python: keys, and common prefixes marked by a leading `>`."""
    shown: dict[str, None] = {}
    for key in sorted(keys, key=str.encode):
        if key.startswith(prefix):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            shown[f">{prefix}{head}{found}" if found else key] = None
    return list(shown)


def shown(page: ObjectPage) -> list[str]:
    return [f">{item['prefix']}" if "prefix" in item else item["key"] for item in page["items"]]


PART = st.text(
    st.sampled_from(["a", "b", "-", "é", "\ud7ff", "\U0010fffd"]), min_size=1, max_size=2
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    keys=st.sets(st.lists(PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8),
    prefix=st.sampled_from(["", "a", "a/", "b", "é", "a/b", "\ud7ff"]),
    delimiter=st.sampled_from([None, "/", "-", "a/"]),
    limit=st.integers(1, 4),
)
async def test_pages_hold_every_item_once_and_in_byte_order(
    objects: ObjectService,
    principal: Principal,
    keys: set[str],
    prefix: str,
    delimiter: str | None,
    limit: int,
) -> None:
    bucket = uuid.uuid4().hex
    for key in keys:
        await objects.put(principal, bucket, key, text="")
    found: list[str] = []
    cursor = None
    while True:
        page = await objects.list(
            principal, bucket, prefix=prefix, delimiter=delimiter, limit=limit, cursor=cursor
        )
        found += shown(page)
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["items"]) == limit
    assert found == folded(keys, prefix, delimiter)


async def test_a_page_shows_only_what_the_caller_may_see(
    objects: ObjectService, principal: Principal
) -> None:
    for key in ("a/1", "a/2", "b/1", "b/secret/1", "c"):
        await objects.put(principal, "b", key, text="x")
    await objects.put(principal, "other", "a/1", text="x")
    some = replace(
        principal, scopes=frozenset({"read:object://b/a/*", "read:object://b/b/secret/*"})
    )
    assert shown(await objects.list(some, "b")) == ["a/1", "a/2", "b/secret/1"]
    assert shown(await objects.list(some, "b", delimiter="/")) == [">a/", ">b/"]
    assert shown(await objects.list(some, "b", prefix="a/2")) == ["a/2"]
    assert shown(await objects.list(some, "b", prefix="b/", delimiter="/")) == [">b/secret/"]
    for bucket, prefix in (("b", "c"), ("b", "b/1"), ("other", None)):
        with pytest.raises(Forbidden):
            await objects.list(some, bucket, prefix=prefix)
    with pytest.raises(Forbidden):
        await objects.get(some, "b", "c")
    with pytest.raises(Forbidden):
        await objects.put(some, "b", "a/1", text="y")
    with pytest.raises(Forbidden):
        await objects.delete(some, "b", "a/1")


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0},
        {"limit": 1001},
        {"cursor": "%"},
        {"prefix": "a\0"},
        {"delimiter": "\n"},
        {"delimiter": "\U0010ffff"},
    ],
)
async def test_arguments_of_a_listing_that_do_not_fit_are_refused(
    objects: ObjectService, principal: Principal, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=next(iter(arguments))):
        await objects.list(principal, "b", **arguments)
