"""Who may see and change what: tenants apart, scopes pushed into every query."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden, NotFound
from mcp_server.services.vectors import Mode, VectorService
from mcp_server.storage.sql.schema import documents
from tests.contract.vectors.reading import MODES, found


@pytest.mark.parametrize("mode", MODES)
async def test_another_tenant_sees_nothing(
    vectors: VectorService,
    principal: Principal,
    stranger: Principal,
    control: AsyncEngine,
    mode: Mode,
) -> None:
    await vectors.add(principal, "s", "the secret plan", document="plan", metadata={"a": 1})
    async with control.connect() as connection:
        query = select(documents.c.store).where(documents.c.tenant == principal.tenant)
        store_id = await connection.scalar(query) or ""
    for store in ("s", store_id):
        with pytest.raises(NotFound):
            await vectors.search(stranger, store, "secret plan", mode=mode)
        with pytest.raises(NotFound):
            await vectors.get(stranger, store, "plan")
        with pytest.raises(NotFound):
            await vectors.delete(stranger, store, document="plan")
    await vectors.add(stranger, "s", "my own plan", document="mine")
    assert found(await vectors.search(stranger, "s", "secret plan", mode=mode, k=100)) == ["mine"]
    everything = {"type": "ne", "key": "nothing", "value": 0}
    assert await vectors.delete(stranger, "s", filter=everything) == {"deleted": 1}
    assert found(await vectors.search(principal, "s", "plan", mode=mode)) == ["plan"]


async def test_a_key_sees_and_changes_only_what_its_scopes_name(
    vectors: VectorService, principal: Principal
) -> None:
    for name in ("pub/1", "pub/2", "priv/1"):
        await vectors.add(principal, "s", f"text of {name}", document=name)
    await vectors.add(principal, "other", "text", document="pub/9")
    scopes = frozenset({"read:vector://s/pub/*", "write:vector://s/pub/2*"})
    limited = replace(principal, scopes=scopes)
    for mode in MODES:
        answer = await vectors.search(limited, "s", "text of priv", k=100, mode=mode)
        assert sorted(found(answer)) == ["pub/1", "pub/2"]
    page = await vectors.list(limited, "s")
    assert [item["document"] for item in page["items"]] == ["pub/1", "pub/2"]
    assert (await vectors.get(limited, "s", "pub/1"))["text"] == "text of pub/1"
    with pytest.raises(Forbidden):
        await vectors.get(limited, "s", "priv/1")
    with pytest.raises(Forbidden):
        await vectors.search(limited, "other", "text")
    with pytest.raises(Forbidden):
        await vectors.add(limited, "s", "new", document="pub/1")
    with pytest.raises(Forbidden):
        await vectors.delete(limited, "s", document="pub/1")
    everything = {"type": "ne", "key": "nothing", "value": 0}
    assert await vectors.delete(limited, "s", filter=everything) == {"deleted": 1}
    left = (await vectors.list(principal, "s"))["items"]
    assert [item["document"] for item in left] == ["priv/1", "pub/1"]
