"""How the methods of vector stores reach a store: by its name or its id, and what a caller sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import filters, policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.policy import Verb
from mcp_server.services import names
from mcp_server.services.vectors import stores
from mcp_server.storage.vectors import Store, VectorEngine


class StoreAccess:
    """Finds stores for operations on `vector://STORE/DOCUMENT`."""

    def __init__(self, operation: Operations, control: AsyncEngine, engine: VectorEngine) -> None:
        self._operation = operation
        self._control = control
        self._engine = engine

    async def _name(self, principal: Principal, verb: Verb, store: str) -> str:
        """Return the name under which a store is decided about and journalled."""
        if "/" in store:  # `vector://a/b/c` would name two documents
            raise InvalidInput(f"store: {store[:80]!r} holds a /; leave it out", param="store")
        names.container(store, "store")
        if not store.startswith(stores.STORE_ID):
            return store
        async with self._operation(principal, verb, policy.Listing("vector://")):
            return (await self._find(principal, store)).name

    async def _find(
        self, principal: Principal, store: str, tx: AsyncConnection | None = None
    ) -> Store:
        if tx is None:
            async with self._control.connect() as own:
                return await self._find(principal, store, own)
        return await stores.require_store(tx, principal.tenant, store, self._engine.name)


def parsed_filter(raw: Mapping[str, Any] | None) -> filters.Filter | None:
    return None if raw is None else filters.parse(raw)


def visible(principal: Principal, verb: Verb, store: str) -> tuple[str, ...] | None:
    """Return the beginnings of the documents' names that a caller may see; None: all."""
    return policy.scope(principal, verb, "vector").within(f"vector://{store}/")
