"""Rewrites what a person asks into what a search finds best, by the default model."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError
from mcp_server.llm.router import DEFAULT
from mcp_server.llm.wire import list_of, object_of
from openai_facade.facade import Facade

_TASK = (
    "Rewrite the user's question as one short search query: its key terms, names and numbers, in the "
    "language of the question. Answer with the query alone."
)
_MOST_TOKENS = 100
_LONGEST = 1000


async def rewritten(facade: Facade, principal: Principal, queries: Sequence[str]) -> list[str]:
    """Give each query as the model rewrote it; as it was where no model answers.

    Raises:
        Forbidden: the caller may not run the default model.
    """
    async with facade.operations(principal, "run", f"model://{DEFAULT}"):
        return [await _rewritten(facade, query) for query in queries]


async def _rewritten(facade: Facade, query: str) -> str:
    messages = [{"role": "system", "content": _TASK}, {"role": "user", "content": query}]
    try:
        model, known_as = await facade.router.resolve(DEFAULT)
        asked = {"model": known_as, "messages": messages, "max_tokens": _MOST_TOKENS}
        answer = await model.complete(asked)
    except AppError:  # the search is worth more than its wording
        return query
    choices = list_of(answer.get("choices"))
    content = object_of(object_of(choices[0]).get("message")).get("content") if choices else None
    text = " ".join(content.split()) if isinstance(content, str) else ""
    return text[:_LONGEST] or query
