"""What every upstream serves: asked for now and then, and kept when one of them falls silent."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import anyio

from mcp_server.errors import AppError, Unavailable
from mcp_server.llm import ModelInfo, Upstream

LIST_SECONDS = 2.0  # how long one upstream may take to list its models


class Catalogue:
    """The lists of all upstreams, and whose could not be had."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = tuple(upstreams)
        self._known: dict[str, dict[str, ModelInfo]] = {}
        self._servers: dict[str, list[Upstream]] = {}
        self.failures: dict[str, AppError] = {}
        self._listed_at = float("-inf")
        self._listing = anyio.Lock()

    @property
    def known(self) -> Mapping[str, Mapping[str, ModelInfo]]:
        """What each upstream listed last, by its name and the model's id."""
        return self._known

    def find(self, model_id: str) -> Upstream | None:
        """Give the first upstream that serves `model_id`; one that does not answer only if all are so."""
        servers = self._servers.get(model_id)
        if not servers:
            return None
        if len(servers) == 1:
            return servers[0]
        return next((each for each in servers if self.is_well(each)), servers[0])

    def all_with(self, model_id: str) -> Sequence[Upstream]:
        """Give every upstream that serves `model_id`."""
        return self._servers.get(model_id, ())

    def is_well(self, upstream: Upstream) -> bool:
        """Tell whether an upstream listed its models last time, and its circuit is not open."""
        return upstream.name not in self.failures and getattr(upstream, "state", "") != "open"

    async def refresh(self, at_most: float) -> None:
        """Ask all upstreams at once unless the lists are at most so many seconds old."""
        if time.monotonic() - self._listed_at < at_most:
            return
        async with self._listing:
            if time.monotonic() - self._listed_at < at_most:
                return
            async with anyio.create_task_group() as tasks:
                for upstream in self._upstreams:
                    tasks.start_soon(self._list, upstream)
            self._servers = {}
            for upstream in self._upstreams:
                for model_id in self._known.get(upstream.name, ()):
                    self._servers.setdefault(model_id, []).append(upstream)
            self._listed_at = time.monotonic()

    async def _list(self, upstream: Upstream) -> None:
        try:
            with anyio.fail_after(LIST_SECONDS):
                listed = await upstream.models()
            self._known[upstream.name] = {info.id: info for info in listed}
            self.failures.pop(upstream.name, None)
        except TimeoutError:
            self.failures[upstream.name] = Unavailable(
                f"{upstream.name} did not list its models within {LIST_SECONDS:g} s."
            )
        except AppError as error:
            self.failures[upstream.name] = error
