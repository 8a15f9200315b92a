"""Open the language models that the settings name, or what is found on this machine, or the embedded one."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from mcp_server.errors import ConfigurationError
from mcp_server.llm import Upstream
from mcp_server.llm.discovery import discover
from mcp_server.llm.guarded import Guarded
from mcp_server.llm.router import Router
from mcp_server.llm.terms import Terms, terms_of
from mcp_server.tracing.spans import Spans

if TYPE_CHECKING:
    from mcp_server.settings_models import ModelSetting, UpstreamSetting

_URL_SETTING = "ISTHMUS_LLM_URL"
_PLAIN = Terms()

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
    def upstreams(self) -> Mapping[str, UpstreamSetting]: ...
    @property
    def models(self) -> Mapping[str, ModelSetting]: ...
    @property
    def port(self) -> int: ...


@asynccontextmanager
async def open_router(settings: LLMSettings, spans: Spans | None = None) -> AsyncGenerator[Router]:
    """Open the upstreams of LLM_URL and UPSTREAMS, or what answers on loopback, or the embedded model.

    What they answer is told as `spans`.

    Raises ConfigurationError that names the setting if an entry is malformed.
    """
    async with AsyncExitStack() as stack:
        named = bool(settings.llm_url or settings.upstreams)
        found = [] if named else await discover(frozenset({settings.port}))
        # A key is for the upstreams that the operator named, never for what happens to listen here.
        key = settings.llm_api_key if settings.llm_url else None
        entries = settings.llm_url or tuple(each.url for each in found)
        if not entries and not settings.upstreams:
            entries = ("gguf:",)
        opened = [
            Guarded(await stack.enter_async_context(_open(entry, key)), _PLAIN) for entry in entries
        ]
        for name, setting in settings.upstreams.items():
            terms = terms_of(setting)
            upstream = await stack.enter_async_context(_open_named(name, setting, terms))
            opened.append(Guarded(upstream, terms, name))
        names = [f"{each.kind} at {each.url}" for each in found] or [
            each.description for each in opened
        ]
        announcement = _announce(names, settings)
        _log.info(announcement)
        yield Router(
            opened,
            default_model=settings.llm_model,
            announcement=announcement,
            models=settings.models,
            spans=spans,
        )


def _open_named(
    name: str, setting: UpstreamSetting, terms: Terms
) -> AbstractAsyncContextManager[Upstream]:
    if setting.url.partition(":")[0] not in {"http", "https"}:
        return _open(setting.url, None, f"ISTHMUS_UPSTREAMS: {name}.url")
    from mcp_server.llm.openai_compatible import open_openai_compatible

    url = check_url(setting.url, f"ISTHMUS_UPSTREAMS: {name}.url")
    return open_openai_compatible(url, setting.api_key, name=name, terms=terms)


def _open(
    entry: str, api_key: str | None, setting: str = _URL_SETTING
) -> AbstractAsyncContextManager[Upstream]:
    scheme, _, rest = entry.partition(":")
    if scheme == "scripted":
        from mcp_server.llm.scripted import open_scripted

        return nullcontext(open_scripted(rest))
    if scheme == "gguf":
        from mcp_server.llm.gguf import open_gguf

        return open_gguf(rest)
    if scheme in {"http", "https"}:
        from mcp_server.llm.openai_compatible import open_openai_compatible

        return open_openai_compatible(check_url(entry, setting), api_key)
    raise ConfigurationError(
        f"{setting}: {entry!r} is not http(s)://HOST/v1, scripted:, scripted:FILE or gguf:FILE."
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
    change = (
        "" if settings.llm_url or settings.upstreams else " (set ISTHMUS_LLM_URL to use another)"
    )
    return f"Language model: {', '.join(names)}{default}{change}"
