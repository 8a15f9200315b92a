"""The models that the router knows, and what they were asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.llm import ModelInfo
from mcp_server.llm.router import Router
from mcp_server.operation import Operations
from mcp_server.services.kept_answers import KeptAnswers
from mcp_server.services.model_usage import ModelUsage
from mcp_server.storage.cache import Cache


class TargetItem(TypedDict):
    """One upstream that may answer for a model; `circuit` is closed, open or half_open."""

    upstream: str
    model: str
    weight: float
    healthy: bool
    circuit: str


class ModelItem(TypedDict):
    """One model; the last three are empty unless the operator made it of others."""

    id: str
    capabilities: list[str]
    upstream: str
    healthy: bool
    default: bool
    targets: list[TargetItem]
    fallbacks: list[str]
    context_fallbacks: list[str]


class ModelPage(TypedDict):
    items: list[ModelItem]


class ModelService:
    """Lists models; using one is an operation of the loop or the facade. `usage` counts that."""

    def __init__(
        self, operation: Operations, router: Router, usage: ModelUsage | None = None
    ) -> None:
        self.usage = usage or ModelUsage()
        self._operation = operation
        self._router = router

    async def list(self, principal: Principal) -> ModelPage:
        """Return every model that the caller may see, with its upstream's health."""
        seen = policy.scope(principal, "read", "model")
        async with self._operation(principal, "read", policy.Listing("model://")):
            models = await self._router.models()
        return ModelPage(
            items=[_item(info) for info in models if seen.admits(f"model://{info.id}")]
        )

    async def get(self, principal: Principal, model: str) -> ModelItem:
        """Return one model.

        Raises:
            NotFound: no upstream has it.
        """
        async with self._operation(principal, "read", f"model://{model}"):
            for info in await self._router.models():
                if info.id == model:
                    return _item(info)
        raise NotFound(f"model {model!r} does not exist; model_list shows those that do")


@asynccontextmanager
async def open_models(
    operation: Operations, control: AsyncEngine, router: Router, cache: Cache
) -> AsyncGenerator[ModelService]:
    """Count what the router's models are asked from now on, and keep answers where a model says so."""
    usage = ModelUsage()
    async with usage.writing(control):
        router.bind(usage.note, KeptAnswers(cache))
        yield ModelService(operation, router, usage)


def _item(info: ModelInfo) -> ModelItem:
    return ModelItem(
        id=info.id,
        capabilities=list(info.capabilities),
        upstream=info.upstream,
        healthy=info.healthy,
        default=info.default,
        targets=[
            TargetItem(
                upstream=each.upstream,
                model=each.model,
                weight=each.weight,
                healthy=each.healthy,
                circuit=each.state,
            )
            for each in info.targets
        ],
        fallbacks=list(info.fallbacks),
        context_fallbacks=list(info.context_fallbacks),
    )
