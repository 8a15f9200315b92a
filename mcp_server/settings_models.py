"""How the upstreams and the models of the operator's making are read from the settings."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import NoDecode

Served = Literal["moderations", "transcriptions", "speech", "images"]

_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,126}")
_RESERVED = "default"  # LLM_MODEL says what it means
_AGENT = "agent/"

_Seconds = Annotated[float, Field(gt=0, le=86_400)]


class UpstreamSetting(BaseModel):
    """One upstream: where it is, what it may be asked and how long it may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    api_key: str | None = Field(default=None, repr=False)
    # What it serves, if it is not to be asked for a list.
    models: tuple[str, ...] = ()
    # What it can do beside chat and embeddings.
    serves: tuple[Served, ...] = ()
    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    queue: int = Field(default=100, ge=0, le=100_000)
    queue_seconds: _Seconds = 30.0
    connect_seconds: _Seconds = 5.0
    first_token_seconds: _Seconds = 600.0
    between_tokens_seconds: _Seconds = 600.0
    total_seconds: _Seconds | None = None
    # Only fields of OpenAI's own document are sent, and of these none of `refuse_fields`.
    strict: bool = False
    refuse_fields: tuple[str, ...] = ()


class TargetSetting(BaseModel):
    """One place that may answer: `upstream` is a name of `[upstreams]` or an address of LLM_URL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upstream: str
    model: str = Field(min_length=1)
    weight: float = Field(default=1.0, ge=0, le=1_000_000)


class ModelSetting(BaseModel):
    """One model of the operator's making: who answers for it, and who if they cannot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[TargetSetting, ...] = Field(min_length=1)
    fallbacks: tuple[str, ...] = ()
    context_fallbacks: tuple[str, ...] = ()
    retries: int = Field(default=1, ge=0, le=10)
    cache_seconds: float | None = Field(default=None, gt=0, le=31_536_000)
    # US dollars per million tokens; without both, nobody knows what an answer costs.
    input_price: float | None = Field(default=None, ge=0, le=1_000_000)
    output_price: float | None = Field(default=None, ge=0, le=1_000_000)
    cached_input_price: float | None = Field(default=None, ge=0, le=1_000_000)


_T = TypeVar("_T", bound=BaseModel)


def _tables(value: object, kind: type[_T], title: str, name_form: re.Pattern[str]) -> dict[str, _T]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(
                f"it is not JSON; give it as [{title}.NAME] in the TOML file"
            ) from None
    if not isinstance(value, dict):
        raise ValueError(f"give a table [{title}.NAME] for each")  # noqa: TRY004  pydantic's kind
    tables = cast("dict[str, Any]", value)
    return {name: _table(str(name), item, kind, name_form) for name, item in tables.items()}


def _table(name: str, item: object, kind: type[_T], name_form: re.Pattern[str]) -> _T:
    if not name_form.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not a name; use letters, digits and . _ -")
    try:
        return item if isinstance(item, kind) else kind.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join((name, *(str(part) for part in first["loc"])))
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such key" if unknown else first["msg"]
        raise ValueError(f"{where}: {reason[:1].lower()}{reason[1:]}") from None


def _upstreams(value: object) -> object:
    """Read `[upstreams.NAME]` tables, or a JSON object of the same shape from the environment."""
    return _tables(value, UpstreamSetting, "upstreams", _UPSTREAM_NAME)


def _models(value: object) -> object:
    """Read `[models.NAME]` tables, or a JSON object of the same shape from the environment."""
    found = _tables(value, ModelSetting, "models", _MODEL_NAME)
    for name in found:
        if name == _RESERVED:
            raise ValueError(f"{name!r} is what LLM_MODEL says; give it another name and set that")
        if name.startswith(_AGENT):
            raise ValueError(f"{name!r} would hide an agent; give it another name")
    _refuse_cycles(found)
    return found


def _refuse_cycles(models: dict[str, ModelSetting]) -> None:
    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            way = " -> ".join((*above[above.index(name) :], name))
            raise ValueError(f"{above[0]}: its fallbacks go in a circle: {way}")
        setting = models.get(name)
        for other in (*setting.fallbacks, *setting.context_fallbacks) if setting else ():
            visit(other, (*above, name))

    for name in models:
        visit(name, ())


Upstreams = Annotated[dict[str, UpstreamSetting], NoDecode, BeforeValidator(_upstreams)]
Models = Annotated[dict[str, ModelSetting], NoDecode, BeforeValidator(_models)]
