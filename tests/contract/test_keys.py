"""Keys: shown once, hashed, expiring, revocable, and the tenants that come with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.keys import KeyService
from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import InvalidInput, NotFound, Unauthenticated
from mcp_server.storage.sql.control import open_control
from mcp_server.storage.sql.embedded import open_cluster


@pytest.fixture
def keys(control: AsyncEngine) -> KeyService:
    return KeyService(control)


async def test_a_key_opens_as_its_principal_and_its_secret_is_not_stored(
    keys: KeyService, control: AsyncEngine
) -> None:
    new = await keys.create("ci", tenant="acme", user="bot", scopes=["read:kv://a/*"])
    assert new["key"].startswith("sk-isth-")
    assert await keys.authenticate(new["key"]) == Principal(
        "acme", "bot", frozenset({"read:kv://a/*"}), new["id"]
    )
    async with control.connect() as tx:
        dump = await tx.scalar(text("select string_agg(k::text, '') from api_keys k"))
    assert new["key"] not in str(dump)
    assert new["key"].removeprefix("sk-isth-") not in str(dump)
    listed = {info["id"]: info for info in await keys.list()}[new["id"]]
    assert (listed["name"], listed["tenant"], listed["user"]) == ("ci", "acme", "bot")
    assert "key" not in listed


async def test_without_scopes_a_key_may_use_its_tenant_but_not_administer_it(
    keys: KeyService,
) -> None:
    assert (await keys.create("plain"))["scopes"] == ["read", "run", "write"]


async def test_a_revoked_key_is_dead_everywhere(keys: KeyService, control: AsyncEngine) -> None:
    new = await keys.create("soon gone")
    elsewhere = KeyService(control)  # another process, with a cache of its own
    principal = await elsewhere.authenticate(new["key"])
    assert (await keys.revoke(new["id"]))["revoked_at"] is not None
    with pytest.raises(Unauthenticated):
        await keys.authenticate(new["key"])
    with anyio.fail_after(30):
        while True:
            try:
                await elsewhere.authenticate(new["key"])
            except Unauthenticated:
                break
            await anyio.sleep(0.02)
    assert await elsewhere.dead({new["id"], "key_absent"}) == {new["id"], "key_absent"}
    assert await elsewhere.scopes_now(principal) is None
    again = await keys.revoke(new["id"])
    assert again["revoked_at"] is not None
    with pytest.raises(NotFound, match="keys list"):
        await keys.revoke("key_absent")


async def test_an_expired_key_is_dead(keys: KeyService, control: AsyncEngine) -> None:
    new = await keys.create("short", expires_days=1)
    async with control.begin() as tx:
        await tx.execute(
            text("update api_keys set expires_at = now() - interval '1 s' where id = :id"),
            {"id": new["id"]},
        )
    with pytest.raises(Unauthenticated, match="unknown, expired or revoked"):
        await keys.authenticate(new["key"])


@pytest.mark.parametrize(
    "secret", ["", "sk-isth-", "sk-isth-" + "A" * 43, "x" * 10_000, "\udcff", "\0"]
)
async def test_what_is_no_key_is_refused_alike(keys: KeyService, secret: str) -> None:
    with pytest.raises(Unauthenticated, match="unknown, expired or revoked"):
        await keys.authenticate(secret)


async def test_the_operators_own_key_is_the_owner_while_it_is_set(control: AsyncEngine) -> None:
    secret = "an operator's own key, long".replace(" ", "_")
    assert await KeyService(control, secret).authenticate(secret) == OWNER
    with pytest.raises(Unauthenticated):
        await KeyService(control).authenticate(secret)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a", "tenant": "x" * 200}, "tenant"),
        ({"name": "a", "scopes": ["fly"]}, "scope"),
        ({"name": "a", "rate_limit": "often"}, "rate_limit"),
        ({"name": "a", "expires_days": -1}, "expires"),
    ],
)
async def test_what_does_not_fit_is_named(
    keys: KeyService, arguments: dict[str, str], param: str
) -> None:
    with pytest.raises(InvalidInput, match=param) as refused:
        await keys.create(**arguments)  # pyright: ignore[reportArgumentType]
    assert refused.value.param == param


@pytest.fixture
async def empty(data_dir: Path) -> AsyncIterator[AsyncEngine]:
    async with open_cluster(data_dir) as cluster, open_control(cluster.control_url) as control:
        yield control


async def test_processes_that_start_together_make_one_first_key(empty: AsyncEngine) -> None:
    made: list[object] = []

    async def start() -> None:
        made.append(await KeyService(empty).create_first())

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(start)
    (first,) = [new for new in made if new is not None]
    assert isinstance(first, dict)
    assert (await KeyService(empty).authenticate(first["key"])).scopes == OWNER.scopes
    assert len(await KeyService(empty).list()) == 1
