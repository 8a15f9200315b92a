"""Tools that are a statement of the operator's, from the settings: parameters are bound, and nothing else varies."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import Field

from mcp_server.auth.principal import OWNER
from mcp_server.errors import AppError, ConfigurationError, Unavailable
from mcp_server.plugins import AsyncFunction, Call, ToolDeclaration
from mcp_server.services.sql import SqlService
from mcp_server.services.sql_call import SqlOutcome
from mcp_server.settings_sql_tools import JsonType, SqlParameter, SqlToolSetting

logger = logging.getLogger(__name__)

_SETTING = "ISTHMUS_SQL_TOOLS"
_TYPES: dict[JsonType, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}


def declare_sql_tools(
    settings: Mapping[str, SqlToolSetting], taken: Collection[str]
) -> list[ToolDeclaration]:
    """Return the tools; a caller needs `run` on each, and the verbs of what its statement touches.

    Raises:
        ConfigurationError: a name is `taken` by another tool, or parameters and statement differ.
    """
    if not settings:
        return []
    # The parser costs a tenth of a second to import, and most starts have no such tool.
    from mcp_server.storage.sql.statements.named import numbered

    tools: list[ToolDeclaration] = []
    for name, setting in settings.items():
        if name in taken:
            raise ConfigurationError(f"{_SETTING}: {name}: there is a tool of this name; rename it")
        try:
            sql = numbered(setting.sql, list(setting.parameters))
        except AppError as error:
            raise ConfigurationError(f"{_SETTING}: {name}: {error.message}") from None
        tools.append(
            ToolDeclaration(
                _function(name, setting, sql),
                name,
                verb="run",
                read_only=setting.read_only,
                destructive=not setting.read_only,
                egress=setting.database is not None,
                input_schema=None,
            )
        )
    return tools


async def check_sql_tools(settings: Mapping[str, SqlToolSetting], sql: SqlService) -> None:
    """Check each statement as if it were called; what its tables are is seen when it is.

    Raises:
        ConfigurationError: names the tool and the reason.
    """
    for name, setting in settings.items():
        from mcp_server.storage.sql.statements.named import numbered

        statement = numbered(setting.sql, list(setting.parameters))
        try:
            await sql.check(
                OWNER, statement, writable=not setting.read_only, database=setting.database
            )
        except Unavailable as error:
            logger.warning("the tool %s is not checked: %s", name, error.message)
        except AppError as error:
            raise ConfigurationError(f"{_SETTING}: {name}: {error.message}") from None


def _function(name: str, setting: SqlToolSetting, sql: str) -> AsyncFunction:
    async def run(isthmus_call: Call, **given: Any) -> SqlOutcome:
        call = isthmus_call
        params = [given[key] for key in setting.parameters]
        options: dict[str, Any] = {
            "max_rows": setting.max_rows,
            "database": setting.database,
            "deadline": call.deadline,
        }
        service = call.services.sql
        if setting.read_only:
            return SqlOutcome(**await service.query(call.principal, sql, params, **options))
        return await service.execute(call.principal, sql, params, key=call.key, **options)

    first = inspect.Parameter("isthmus_call", inspect.Parameter.KEYWORD_ONLY, annotation=Call)
    signature = inspect.Signature(
        [first, *(_parameter(key, item) for key, item in setting.parameters.items())],
        return_annotation=SqlOutcome,
    )
    run.__name__ = run.__qualname__ = name
    run.__doc__ = setting.description
    run.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]  what inspect reads
    run.__annotations__ = {
        **{key: item.annotation for key, item in signature.parameters.items()},
        "return": SqlOutcome,
    }
    return run


def _parameter(name: str, item: SqlParameter) -> inspect.Parameter:
    kind = _TYPES[item.type]
    if not item.required and item.default is None:
        kind = kind | None
    described = Annotated[kind, Field(description=item.description)] if item.description else kind
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=described,
        default=inspect.Parameter.empty if item.required else item.default,
    )
