"""Choose the model that answers: open the configured upstreams and resolve model ids among them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Protocol
from urllib.parse import urlsplit

import anyio

from mcp_server.errors import AppError, ConfigurationError, NotFound, Unavailable
from mcp_server.llm import Model, ModelInfo, Upstream
from mcp_server.llm.discovery import discover

DEFAULT = "default"
"""The model id that always means the configured default."""

_LIST_SECONDS = 2.0  # how long one upstream may take to list its models
_FRESH_SECONDS = 5.0  # how long a list answers `models()`
_DEFAULT_FRESH_SECONDS = 30.0  # how long a list answers `default`
_RETRY_SECONDS = 1.0  # how soon an unknown id may cause another look
_NAMES_SHOWN = 5

_log = logging.getLogger("isthmus.llm")


class LLMSettings(Protocol):
    """What the router reads of the settings."""

    @property
    def llm_url(self) -> tuple[str, ...]: ...
    @property
    def llm_model(self) -> str | None: ...
    @property
    def llm_api_key(self) -> str | None: ...
    @property
    def port(self) -> int: ...


class Router:
    """Knows every upstream and which model ids each serves."""

    def __init__(
        self, upstreams: Sequence[Upstream], *, default_model: str | None, announcement: str
    ) -> None:
        self.announcement = announcement
        self._upstreams = tuple(upstreams)
        self._first = upstreams[0]
        self._default_model = default_model
        self._known: dict[str, list[ModelInfo]] = {}
        self._failures: dict[str, AppError] = {}
        self._listed_at = float("-inf")
        self._listing = anyio.Lock()

    def warm(self) -> None:
        """Begin to load an embedded model before the first request; returns at once."""
        for upstream in self._upstreams:
            upstream.warm()

    async def models(self) -> list[ModelInfo]:
        """List the models of all upstreams, at most 5 s old; those of a silent upstream are not healthy.

        One upstream that does not answer costs at most 2 s. If it never answered, its models are
        unknown and not listed.
        """
        await self._refresh(_FRESH_SECONDS)
        return self._catalogue()

    async def health(self) -> dict[str, tuple[bool, str]]:
        """Give for each upstream's name whether it answers, and what is wrong if not."""
        await self._refresh(_FRESH_SECONDS)
        return {
            upstream.name: (failure is None, "" if failure is None else failure.message)
            for upstream in self._upstreams
            for failure in [self._failures.get(upstream.name)]
        }

    async def resolve(self, model_id: str) -> tuple[Model, str]:
        """Give the model behind `model_id` and the id to send to it.

        `default` is LLM_MODEL if set, else the first chat model of the first upstream. A known id
        costs no I/O. Raises NotFound, naming what exists; Unavailable if an upstream that might
        know it does not answer.
        """
        if model_id == DEFAULT:
            return await self._resolve_default()
        found = self._find(model_id)
        if found is None:
            await self._refresh(_RETRY_SECONDS)
            found = self._find(model_id)
        if found is not None:
            return found, model_id
        if model_id == self._default_model:
            return self._first, model_id
        for name, failure in self._failures.items():
            raise Unavailable(
                f"model {model_id!r} is not known, but {name} cannot say now: {failure.message}",
                param="model",
            )
        raise NotFound(f"model {model_id!r} does not exist: {self._names()}", param="model")

    async def _resolve_default(self) -> tuple[Model, str]:
        if self._default_model is not None:
            if len(self._upstreams) > 1 and self._find(self._default_model) is None:
                await self._refresh(_DEFAULT_FRESH_SECONDS)
            return self._find(self._default_model) or self._first, self._default_model
        await self._refresh(_DEFAULT_FRESH_SECONDS)
        chosen = self._first_chat_model()
        if chosen is not None:
            return self._first, chosen
        failure = self._failures.get(self._first.name)
        if failure is not None:
            raise failure
        raise Unavailable(
            f"{self._first.name} serves no chat model: load one there or set ISTHMUS_LLM_MODEL.",
            param="model",
        )

    def _first_chat_model(self) -> str | None:
        infos = self._known.get(self._first.name, [])
        return next((info.id for info in infos if "chat" in info.capabilities), None)

    def _find(self, model_id: str) -> Upstream | None:
        for upstream in self._upstreams:
            if any(info.id == model_id for info in self._known.get(upstream.name, ())):
                return upstream
        return None

    def _catalogue(self) -> list[ModelInfo]:
        default = self._default_model or self._first_chat_model()
        seen: dict[str, ModelInfo] = {}
        for upstream in self._upstreams:
            healthy = upstream.name not in self._failures
            for info in self._known.get(upstream.name, ()):
                listed = replace(info, healthy=healthy and info.healthy, default=info.id == default)
                seen.setdefault(info.id, listed)
        if default is not None and default not in seen:
            healthy = self._first.name not in self._failures
            seen[default] = ModelInfo(default, self._first.name, ("chat",), healthy, default=True)
        return list(seen.values())

    def _names(self) -> str:
        ids = [info.id for info in self._catalogue()]
        more = f" and {len(ids) - _NAMES_SHOWN} more" if len(ids) > _NAMES_SHOWN else ""
        return f"known are {', '.join([DEFAULT, *ids[:_NAMES_SHOWN]])}{more}."

    async def _refresh(self, at_most: float) -> None:
        if time.monotonic() - self._listed_at < at_most:
            return
        async with self._listing:
            if time.monotonic() - self._listed_at < at_most:
                return
            async with anyio.create_task_group() as tasks:
                for upstream in self._upstreams:
                    tasks.start_soon(self._list, upstream)
            self._listed_at = time.monotonic()

    async def _list(self, upstream: Upstream) -> None:
        try:
            with anyio.fail_after(_LIST_SECONDS):
                self._known[upstream.name] = await upstream.models()
            self._failures.pop(upstream.name, None)
        except TimeoutError:
            self._failures[upstream.name] = Unavailable(
                f"{upstream.name} did not list its models within {_LIST_SECONDS:g} s."
            )
        except AppError as error:
            self._failures[upstream.name] = error


@asynccontextmanager
async def open_router(settings: LLMSettings) -> AsyncGenerator[Router]:
    """Open the upstreams of LLM_URL, or what answers on loopback, or the embedded model.

    Raises ConfigurationError that names ISTHMUS_LLM_URL if an entry is malformed.
    """
    async with AsyncExitStack() as stack:
        found = [] if settings.llm_url else await discover(frozenset({settings.port}))
        # A key is for the upstreams that the operator named, never for what happens to listen here.
        key = settings.llm_api_key if settings.llm_url else None
        entries = settings.llm_url or tuple(each.url for each in found) or ("gguf:",)
        upstreams = [await stack.enter_async_context(_open(entry, key)) for entry in entries]
        names = [f"{each.kind} at {each.url}" for each in found] or [
            each.description for each in upstreams
        ]
        announcement = _announce(names, settings)
        _log.info(announcement)
        yield Router(upstreams, default_model=settings.llm_model, announcement=announcement)


def _open(entry: str, api_key: str | None) -> AbstractAsyncContextManager[Upstream]:
    scheme, _, rest = entry.partition(":")
    if scheme == "scripted":
        from mcp_server.llm.scripted import open_scripted

        return nullcontext(open_scripted(rest))
    if scheme == "gguf":
        from mcp_server.llm.gguf import open_gguf

        return open_gguf(rest)
    if scheme in {"http", "https"}:
        from mcp_server.llm.openai_compatible import open_openai_compatible

        return open_openai_compatible(check_url(entry, "ISTHMUS_LLM_URL"), api_key)
    raise ConfigurationError(
        f"ISTHMUS_LLM_URL: {entry!r} is not http(s)://HOST/v1, scripted:, scripted:FILE or gguf:FILE."
    )


def check_url(url: str, setting: str) -> str:
    """Give the base `url` of an OpenAI-compatible API without a closing slash.

    Raises ConfigurationError that names `setting`, and never shows credentials.
    """
    mend = f"{setting}: write http(s)://HOST[:PORT]/v1"
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ConfigurationError(f"{mend}; this has no scheme, host or port that works.")
    except ValueError as error:
        raise ConfigurationError(f"{mend}; this is not a URL: {error}.") from error
    if parts.username or parts.password:
        raise ConfigurationError(f"{mend} without credentials; the key has a setting of its own.")
    if parts.query or parts.fragment or any(char.isspace() for char in url):
        raise ConfigurationError(f"{mend} without query, fragment or spaces.")
    return url.rstrip("/")


def _announce(names: Sequence[str], settings: LLMSettings) -> str:
    default = f", default model {settings.llm_model}" if settings.llm_model else ""
    change = "" if settings.llm_url else " (set ISTHMUS_LLM_URL to use another)"
    return f"Language model: {', '.join(names)}{default}{change}"
