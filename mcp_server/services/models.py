"""The models that the router knows."""

from __future__ import annotations

from typing_extensions import TypedDict

from mcp_server import policy
from mcp_server.auth.principal import Principal
from mcp_server.errors import NotFound
from mcp_server.llm import ModelInfo
from mcp_server.llm.router import Router
from mcp_server.operation import Operations


class ModelItem(TypedDict):
    id: str
    capabilities: list[str]
    upstream: str
    healthy: bool


class ModelPage(TypedDict):
    items: list[ModelItem]


class ModelService:
    """Lists models; using one is an operation of the loop or the facade."""

    def __init__(self, operation: Operations, router: Router) -> None:
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


def _item(info: ModelInfo) -> ModelItem:
    return ModelItem(
        id=info.id,
        capabilities=list(info.capabilities),
        upstream=info.upstream,
        healthy=info.healthy,
    )
