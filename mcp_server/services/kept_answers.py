"""Where answers of models are kept for repeated requests: in the cache, apart for each tenant."""

from __future__ import annotations

import logging

from mcp_server.auth.principal import current_principal
from mcp_server.errors import AppError
from mcp_server.storage.cache import Cache, Conditions, Place

logger = logging.getLogger(__name__)

# No name of a namespace begins so: no tool reads or writes these.
NAMESPACE = "_answers"


class KeptAnswers:
    """The caller's tenant's answers; the cache may lose them, and without it every answer is made anew."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get(self, key: str) -> str | None:
        """Give what was put under `key`, if it is still there."""
        try:
            found = await self._cache.read(current_principal().tenant, NAMESPACE, [key])
        except AppError as error:
            logger.warning("kept answers cannot be read: %s", error)
            return None
        return found[0].value if found else None

    async def put(self, key: str, answer: str, seconds: float) -> None:
        """Keep a JSON text for so long."""
        try:
            place = Place(current_principal().tenant, NAMESPACE, key)
            await self._cache.write(place, answer, Conditions(ttl=seconds))
        except AppError as error:
            logger.warning("an answer cannot be kept: %s", error)
