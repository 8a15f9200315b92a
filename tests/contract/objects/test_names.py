"""What a bucket and a key may be called."""

from __future__ import annotations

import pytest

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.services.objects import ObjectService
from mcp_server.storage.objects.file import FileStore
from tests.contract.objects.streams import stored

HOSTILE_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "../up",
    "a/../../b",
    "a/./b",
    "a//b",
    "a/",
    ".",
    "a\\b",
    "..\\up",
    "a\0b",
    "a\nb",
    "\u202etxt.exe",
    "\u061ctxt.exe",
    "\u2066a\u2069",
    "pay\u200bments",
    "\ufeffk",
    "a\u0085b",
    "x" * 4096,
    "half \ud800",
    "x" * 1025,
    "é" * 513,
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_a_hostile_key_is_refused_everywhere(
    objects: ObjectService, principal: Principal, blobs: FileStore, key: str
) -> None:
    for attempt in (
        objects.put(principal, "b", key, text="x"),
        objects.get(principal, "b", key),
        objects.open(principal, "b", key),
        objects.delete(principal, "b", key),
        objects.stat(principal, "b", key),
        objects.versions(principal, "b", key),
        objects.tag(principal, "b", key, tags={}),
        objects.copy(principal, "b", "k", "b", key),
        objects.copy(principal, "b", key, "b", "k"),
        objects.draft_write(principal, "b", key, text="x"),
    ):
        with pytest.raises(InvalidInput, match="key") as caught:
            await attempt
        assert caught.value.param == "key"
    assert await stored(blobs) == set()


@pytest.mark.parametrize("bucket", ["", "a/b", "..", "../x", "-", "é", "a b", "x" * 129, "a\0"])
async def test_a_hostile_bucket_is_refused_everywhere(
    objects: ObjectService, principal: Principal, bucket: str
) -> None:
    for attempt in (
        objects.put(principal, bucket, "k", text="x"),
        objects.get(principal, bucket, "k"),
        objects.delete(principal, bucket, "k"),
        objects.list(principal, bucket),
    ):
        with pytest.raises(InvalidInput, match="bucket") as caught:
            await attempt
        assert caught.value.param == "bucket"


@pytest.mark.parametrize("key", ["a b", "12:30", "%2e%2e", "你好/é", "a?b#c", "…", "*", "'; --"])
async def test_odd_but_harmless_keys_are_keys(
    objects: ObjectService, principal: Principal, key: str
) -> None:
    put = await objects.put(principal, "b", key, text="x")
    assert put["key"] == key
    assert await objects.list(principal, "b", prefix=key) == {"items": [put], "next_cursor": None}


async def test_keys_that_look_alike_are_one_key(
    objects: ObjectService, principal: Principal
) -> None:
    put = await objects.put(principal, "b", "cafe\u0301", text="x")
    assert put["key"] == "caf\u00e9"
    assert (await objects.get(principal, "b", "caf\u00e9"))["id"] == put["id"]
    assert (await objects.get(principal, "b", "cafe\u0301"))["id"] == put["id"]
