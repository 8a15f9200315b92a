"""What the model of a response reads: its own input, and what it goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput, NotFound
from mcp_server.sealing import Sealer
from mcp_server.services.responses import ResponseService, StoredResponse
from openai_facade.translate.response_items import kept_items
from openai_facade.translate.response_object import ENDED, Item, Response
from openai_facade.wire.faults import InvalidRequest, invalid, missing
from openai_facade.wire.responses import conversation_id

COMPACTION = "compaction"


class Memory(Protocol):
    """Conversations, as far as a response needs them."""

    async def history(self, principal: Principal, conversation: str, /) -> list[Item]:
        """Return all items, oldest first.

        Raises:
            NotFound: there is no such conversation in this tenant.
        """
        ...

    async def remember(
        self,
        principal: Principal,
        conversation: str,
        items: Sequence[Item],
        /,
        *,
        key: str | None = None,
    ) -> None:
        """Add the items of a response: those of its input, then those of its output.

        `key` is of the run's step that does so, if a run does: who lost the run adds nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """`earlier` are the items of the chain or conversation, `own` those of this request; oldest first.

    `summaries` are the texts of its compactions, by their ids.
    """

    earlier: list[Item]
    own: list[Item]
    instructions: list[Item]
    summaries: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def items(self) -> list[Item]:
        return [*self.earlier, *self.own]

    def readable(self, items: Iterable[Item]) -> list[Item]:
        """Give items as a model reads them: with the summary in place of each compaction."""
        return [
            _summary(self.summaries[item["id"]]) if item["type"] == COMPACTION else item
            for item in items
        ]


@dataclass(frozen=True, slots=True)
class Begun:
    """What an earlier attempt at a response told: the folded `response`, and the next event's number.

    `hidden` are the fields of its items, by id, that are shown only to who asks for them.
    """

    response: Response
    sequence: int
    hidden: Mapping[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


async def load_context(
    responses: ResponseService,
    memory: Memory | None,
    principal: Principal,
    body: Mapping[str, Any],
    sealer: Sealer,
    recent: StoredResponse | None = None,
) -> Context:
    """Read what a checked body goes on from; `recent` is a response that may be stored nowhere.

    Raises:
        InvalidRequest: a response, conversation or item that it names is not there.
    """
    earlier = _once(await _earlier(responses, memory, principal, body, recent))
    own = kept_items(body.get("input"))
    if not own and not earlier:
        raise missing("input")
    known = {item["id"]: item for item in earlier}
    resolved: list[Item] = []
    for index, item in enumerate(own):
        if item["type"] == "item_reference":
            if item["id"] in known:
                continue  # the model reads it anyway
            item = await _referred(responses, principal, index, item["id"])  # noqa: PLW2901
        elif item["id"] in known:
            continue  # clients that keep the history themselves send it again
        resolved.append(item)
    told = body.get("instructions")
    given = [{"role": "system", "content": told}] if isinstance(told, str) else told
    instructions = kept_items(given)
    summaries = _opened(sealer, principal.tenant, [*earlier, *resolved, *instructions])
    return Context(earlier, resolved, instructions, summaries)


def _opened(sealer: Sealer, tenant: str, items: Sequence[Item]) -> dict[str, str]:
    sealed = {item["id"]: item["encrypted_content"] for item in items if item["type"] == COMPACTION}
    try:
        return {name: sealer.open(tenant, content) for name, content in sealed.items()}
    except InvalidInput as error:
        raise invalid("input", f"encrypted_content: {error.message}.") from error


def _summary(text: str) -> Item:
    told = f"What was said before, summed up:\n\n{text}"
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": told}]}


async def _earlier(
    responses: ResponseService,
    memory: Memory | None,
    principal: Principal,
    body: Mapping[str, Any],
    recent: StoredResponse | None,
) -> list[Item]:
    previous = body.get("previous_response_id")
    if recent is not None and previous == recent.id:
        return recent.items
    if previous is not None:
        return await _chain(responses, principal, previous)
    conversation = conversation_id(dict(body))
    if conversation is None:
        return []
    if memory is None:
        raise invalid("conversation", "there are no conversations here.")
    return await memory.history(principal, conversation)


async def _chain(responses: ResponseService, principal: Principal, previous: str) -> list[Item]:
    try:
        chain = await responses.chain(principal, previous)
    except NotFound as error:
        raise InvalidRequest(
            f"Previous response with id '{previous[:80]}' not found.",
            param="previous_response_id",
            wire_code="previous_response_not_found",
        ) from error
    if chain[-1].response["status"] not in ENDED:
        raise invalid("previous_response_id", "this response has not ended yet; wait for it.")
    return [item for stored in chain for item in stored.items]


async def _referred(
    responses: ResponseService, principal: Principal, index: int, item: str
) -> Item:
    try:
        return await responses.item(principal, item)
    except NotFound as error:
        raise InvalidRequest(error.message, param=f"input[{index}].id", wire_code=None) from error


def _once(items: Sequence[Item]) -> list[Item]:
    return list({item["id"]: item for item in items}.values())
