"""Choose the model that answers: resolve model ids among upstreams and what the operator made of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcp_server.errors import ConfigurationError, NotFound, Unavailable
from mcp_server.llm import Model, ModelInfo, Upstream
from mcp_server.llm.alias import Alias
from mcp_server.llm.catalogue import Catalogue
from mcp_server.llm.guarded import Guarded
from mcp_server.llm.kept import Answers, Kept
from mcp_server.llm.metered import Metered, Observer
from mcp_server.llm.plan import Target, in_turn
from mcp_server.llm.price import Price
from mcp_server.llm.spanned import Spanned
from mcp_server.llm.trail import begin_trail
from mcp_server.tracing.spans import Spans

if TYPE_CHECKING:
    from mcp_server.settings_models import ModelSetting

DEFAULT = "default"
"""The model id that always means the configured default."""

_FRESH_SECONDS = 5.0  # how long a list answers `models()`
_DEFAULT_FRESH_SECONDS = 30.0  # how long a list answers `default`
_RETRY_SECONDS = 1.0  # how soon an unknown id may cause another look
_NAMES_SHOWN = 5


class Router:
    """Knows every upstream, which model ids each serves, and the models that the operator made of them."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        *,
        default_model: str | None,
        announcement: str,
        models: Mapping[str, ModelSetting] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.announcement = announcement
        self._spans = spans
        self.upstreams = tuple(upstreams)
        self._first = upstreams[0]
        self._default_model = default_model
        self._catalogue = Catalogue(upstreams)
        settings = models or {}
        self._aliases = {name: self._alias(name, settings[name]) for name in settings}
        self._kept = {
            name: setting.cache_seconds
            for name, setting in settings.items()
            if setting.cache_seconds is not None
        }
        self._prices = {name: price for name in settings if (price := _price(settings[name]))}
        self._observe: Observer | None = None
        self._answers: Answers | None = None

    def bind(self, observe: Observer, answers: Answers) -> None:
        """Tell `observe` of each request from now on, and keep answers in `answers` where a model says so."""
        self._observe, self._answers = observe, answers

    def warm(self) -> None:
        """Begin to load an embedded model before the first request; returns at once."""
        self._first.warm()

    async def models(self) -> list[ModelInfo]:
        """List the models of all upstreams, at most 5 s old; those of a silent upstream are not healthy.

        One upstream that does not answer costs at most 2 s. If it never answered, its models are
        unknown and not listed.
        """
        await self._catalogue.refresh(_FRESH_SECONDS)
        return self._infos()

    async def health(self) -> dict[str, tuple[bool, str]]:
        """Give for each upstream's name whether it answers, and what is wrong if not."""
        await self._catalogue.refresh(_FRESH_SECONDS)
        return {
            upstream.name: (failure is None, "" if failure is None else failure.message)
            for upstream in self.upstreams
            for failure in [self._catalogue.failures.get(upstream.name)]
        }

    async def resolve(self, model_id: str) -> tuple[Metered | Model, str]:
        """Give the model behind `model_id` and the id to send to it.

        `default` is LLM_MODEL if set, else the first chat model of the first upstream. A known id
        costs no I/O. Raises NotFound, naming what exists; Unavailable if an upstream that might
        know it does not answer.
        """
        model, known_as = await self._resolve(model_id)
        seconds = self._kept.get(known_as) if self._kept else None
        trail = begin_trail() if isinstance(model, Alias) else None
        if self._spans is not None:
            model = Spanned(model, known_as, self._spans)
        if self._observe is None:
            return model, known_as
        metered = Metered(model, known_as, self._observe)
        if seconds is None or self._answers is None or trail is None:
            return metered, known_as
        return Kept(metered, known_as, seconds, self._answers, self._observe, trail), known_as

    def cost_of(self, model_id: str, usage: Mapping[str, Any]) -> float | None:
        """Give what an answer cost in US dollars; None if the model has no price."""
        name = (self._default_model or "") if model_id == DEFAULT else model_id
        price = self._prices.get(name)
        return None if price is None else price.of(usage)

    async def resolve_embedding(self, model_id: str) -> tuple[Metered, str]:
        """Give what embeds under `model_id`; raises as `resolve` does, and NotFound when asked if it cannot."""
        model, known_as = await self._resolve(model_id)
        if isinstance(model, Alias):
            begin_trail()
        return Metered(model, known_as, self._observe or _nobody), known_as

    async def passing(self, served: str, model_id: str | None) -> tuple[Guarded, str | None] | None:
        """Give the upstream that `serves` requests of a kind, and the id to send to it; None if none does.

        A model that is made of targets goes to one of those; else the upstream that lists the model,
        else the first.
        """
        able = [
            each for each in self.upstreams if isinstance(each, Guarded) and served in each.serves
        ]
        if not able:
            return None
        alias = self._aliases.get(model_id or "")
        if alias is not None:
            fit = [target for target in alias.targets if target.upstream in able]
            chosen = in_turn(fit, random.Random())[0] if fit else None  # noqa: S311  a choice by weight
            return (chosen.upstream, chosen.model) if chosen else None
        if model_id is not None and len(able) > 1:
            await self._catalogue.refresh(_DEFAULT_FRESH_SECONDS)
            servers = self._catalogue.all_with(model_id)
            able.sort(key=lambda each: (each not in servers, not self._catalogue.is_well(each)))
        return able[0], model_id

    async def _resolve(self, model_id: str) -> tuple[Model, str]:
        if model_id == DEFAULT:
            return await self._resolve_default()
        found = self._aliases.get(model_id) or self._catalogue.find(model_id)
        if found is None:
            await self._catalogue.refresh(_RETRY_SECONDS)
            found = self._catalogue.find(model_id)
        if found is not None:
            return found, model_id
        if model_id == self._default_model:
            return self._first, model_id
        for name, failure in self._catalogue.failures.items():
            raise Unavailable(
                f"model {model_id!r} is not known, but {name} cannot say now: {failure.message}",
                param="model",
            )
        raise NotFound(f"model {model_id!r} does not exist: {self._names()}", param="model")

    async def _resolve_default(self) -> tuple[Model, str]:
        if self._default_model is not None:
            made = self._aliases.get(self._default_model)
            if made is not None:
                return made, self._default_model
            if len(self.upstreams) > 1 and self._catalogue.find(self._default_model) is None:
                await self._catalogue.refresh(_DEFAULT_FRESH_SECONDS)
            found = self._catalogue.find(self._default_model)
            return found or self._first, self._default_model
        await self._catalogue.refresh(_DEFAULT_FRESH_SECONDS)
        chosen = self._first_chat_model()
        if chosen is not None:
            return self._first, chosen
        failure = self._catalogue.failures.get(self._first.name)
        if failure is not None:
            raise failure
        raise Unavailable(
            f"{self._first.name} serves no chat model: load one there or set ISTHMUS_LLM_MODEL.",
            param="model",
        )

    def _alias(self, name: str, setting: ModelSetting) -> Alias:
        named = {each.name: each for each in self.upstreams if isinstance(each, Guarded)}
        targets: list[Target] = []
        for at, target in enumerate(setting.targets):
            upstream = named.get(target.upstream.rstrip("/"))
            if upstream is None:
                raise ConfigurationError(
                    f"ISTHMUS_MODELS: {name}.targets.{at}.upstream: there is no upstream "
                    f"{target.upstream!r}; known are {', '.join(sorted(named))}."
                )
            targets.append(Target(upstream, target.model, target.weight))
        return Alias(
            name,
            targets,
            self._resolve,
            fallbacks=setting.fallbacks,
            context_fallbacks=setting.context_fallbacks,
            retries=setting.retries,
        )

    def _first_chat_model(self) -> str | None:
        infos = self._catalogue.known.get(self._first.name, {}).values()
        return next((info.id for info in infos if "chat" in info.capabilities), None)

    def _infos(self) -> list[ModelInfo]:
        default = self._default_model or self._first_chat_model()
        known = self._catalogue.known
        seen = {name: alias.info(known) for name, alias in self._aliases.items()}
        for upstream in self.upstreams:
            healthy = self._catalogue.is_well(upstream)
            for info in known.get(upstream.name, {}).values():
                seen.setdefault(info.id, replace(info, healthy=healthy and info.healthy))
        if default is not None and default not in seen:
            seen[default] = ModelInfo(
                default, self._first.name, ("chat",), self._catalogue.is_well(self._first)
            )
        return [replace(each, default=each.id == default) for each in seen.values()]

    def _names(self) -> str:
        ids = [info.id for info in self._infos()]
        more = f" and {len(ids) - _NAMES_SHOWN} more" if len(ids) > _NAMES_SHOWN else ""
        return f"known are {', '.join([DEFAULT, *ids[:_NAMES_SHOWN]])}{more}."


def _price(setting: ModelSetting) -> Price | None:
    if setting.input_price is None or setting.output_price is None:
        return None
    return Price(setting.input_price, setting.output_price, setting.cached_input_price)


def _nobody(spent: object) -> None:
    """Count nothing."""
    del spent
