"""How the tools that are a statement of the operator's are read from the settings."""

from __future__ import annotations

import json
import keyword
import re
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import NoDecode

JsonType = Literal["string", "integer", "number", "boolean", "array", "object"]
# What Python has for each, to check a default by; a boolean is no number.
_PYTHON: dict[JsonType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class SqlParameter(BaseModel):
    """One parameter, `:NAME` in the statement; it must be given unless it has a `default`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: JsonType = "string"
    description: str = ""
    default: Any = None

    @property
    def required(self) -> bool:
        return "default" not in self.model_fields_set


class SqlToolSetting(BaseModel):
    """One tool: what the operator's statement is, and what is told of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sql: str = Field(min_length=1)
    description: str = Field(min_length=1)
    parameters: dict[str, SqlParameter] = Field(default_factory=dict[str, SqlParameter])
    read_only: bool = True
    database: str | None = None
    max_rows: int = Field(default=1000, ge=1, le=10_000)


def _sql_tools(value: object) -> object:
    """Read `[sql_tools.NAME]` tables, or a JSON object of the same shape from the environment."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(
                "it is not JSON; give it as [sql_tools.NAME] in the TOML file"
            ) from None
    if not isinstance(value, dict):
        raise ValueError("give a table [sql_tools.NAME] for each tool")  # noqa: TRY004  pydantic's kind
    return {name: _tool(str(name), item) for name, item in cast("dict[str, Any]", value).items()}


def _tool(name: str, item: object) -> SqlToolSetting:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a tool; use a-z, 0-9 and _")
    try:
        tool = item if isinstance(item, SqlToolSetting) else SqlToolSetting.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join((name, *(str(part) for part in first["loc"])))
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such key" if unknown else first["msg"]
        raise ValueError(f"{where}: {reason[:1].lower()}{reason[1:]}") from None
    for key, parameter in tool.parameters.items():
        _check_parameter(f"{name}.parameters.{key}", key, parameter)
    return tool


def _check_parameter(where: str, name: str, parameter: SqlParameter) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ValueError(f"{where}: this is not the name of a parameter; use a-z, 0-9 and _")
    value = parameter.default
    fits = isinstance(value, _PYTHON[parameter.type])
    if isinstance(value, bool) and parameter.type != "boolean":
        fits = False
    if value is not None and not fits:
        raise ValueError(f"{where}.default: it is no {parameter.type}")


SqlTools = Annotated[dict[str, SqlToolSetting], NoDecode, BeforeValidator(_sql_tools)]
