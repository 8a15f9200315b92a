"""The conversation of one response: held while it is made, its items added at the end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from mcp_server.auth.principal import Principal
from mcp_server.services.conversations import ConversationLocked, ConversationService
from openai_facade.facade import Facade
from openai_facade.responses.context import Memory
from openai_facade.translate.response_object import Item
from openai_facade.wire.conversations import locked
from openai_facade.wire.responses import conversation_id


class _Held:
    def __init__(self, service: ConversationService, holder: str) -> None:
        self._service = service
        self._holder = holder

    async def history(self, principal: Principal, conversation: str, /) -> list[Item]:
        return await self._service.history(principal, conversation)

    async def remember(
        self,
        principal: Principal,
        conversation: str,
        items: Sequence[Item],
        /,
        *,
        key: str | None = None,
    ) -> None:
        await self._service.remember(principal, conversation, items, holder=self._holder, key=key)


@asynccontextmanager
async def remembering(
    facade: Facade, principal: Principal, body: dict[str, Any], holder: str | None = None
) -> AsyncGenerator[Memory]:
    """Hold the conversation that a checked body names, if it names one.

    Of two responses that are made from one conversation at once the second is refused: what it
    answered would stand behind words that it never read. The same `holder` may hold it again.

    Raises:
        InvalidRequest: another response holds it (409, conversation_locked).
        NotFound: there is no such conversation in this tenant.
    """
    service, name = facade.services.conversations, conversation_id(body)
    holder = holder or uuid4().hex
    memory = _Held(service, holder)
    if name is None:
        yield memory
        return
    try:
        async with service.holding(principal, name, holder):
            yield memory
    except ConversationLocked as error:
        raise locked(error.message) from error
