"""One declared tool: its schemas, how its arguments are checked and how its result is shown."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, cast

import orjson
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata, func_metadata
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ConfigDict, ValidationError
from typing_extensions import is_typeddict

from mcp_server.errors import AppError, InvalidInput
from mcp_server.plugins import Call, Preview, ToolDeclaration
from mcp_server.policy import Verb

Result = CallToolResult | InputRequiredResult


class DeclaredTool(Tool):
    """A tool of a plugin file, registered on the SDK's server but run by our rules.

    The SDK drops unknown arguments and parses strings that look like JSON; here an unknown argument
    is refused by name and a string stays the string that the client sent.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    verb: Verb
    egress: bool
    long: bool
    idempotent: bool
    retry_unsure: bool
    starts_run: bool
    preview: Preview | None
    call_kwarg: str | None
    shows_dict: bool

    @classmethod
    def declare(cls, declaration: ToolDeclaration) -> DeclaredTool:
        """Build the tool: its schema from the annotations, its description from the docstring."""
        fn = declaration.fn
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"tool {declaration.name!r} is not an async function")
        hints = typing.get_type_hints(fn, include_extras=True)
        context_kwarg, call_kwarg = _parameter(hints, Context), _parameter(hints, Call)
        metadata = func_metadata(
            fn, skip_names=[name for name in (context_kwarg, call_kwarg) if name]
        )
        schema = declaration.input_schema or (
            _plain(metadata.arg_model.model_json_schema()) | {"additionalProperties": False}
        )
        return cls(
            fn=fn,
            name=declaration.name,
            title=None,
            description=inspect.getdoc(fn) or "",
            parameters=schema,
            fn_metadata=_published(metadata),
            is_async=True,
            context_kwarg=context_kwarg,
            call_kwarg=call_kwarg,
            shows_dict=_is_shown_as_dict(hints.get("return")),
            verb=declaration.verb,
            egress=declaration.egress,
            long=declaration.long,
            idempotent=declaration.idempotent,
            retry_unsure=declaration.unsure == "retry",
            starts_run=declaration.starts_run,
            preview=declaration.preview,
            annotations=ToolAnnotations(
                read_only_hint=declaration.read_only,
                destructive_hint=declaration.destructive and not declaration.read_only,
                open_world_hint=declaration.egress,
            ),
        )

    async def execute(self, arguments: dict[str, Any], call: Call) -> Result:
        """Check the arguments, run the function and convert its result.

        Raises:
            InvalidInput: an argument is unknown, missing or of the wrong type.
            AppError, MCPError, ToolError: raised by the function.
            UnexpectedToolError: the function failed in a way that it did not announce.
        """
        given = self.check(arguments)
        if self.call_kwarg is not None:
            given[self.call_kwarg] = call
        if self.context_kwarg is not None:
            given[self.context_kwarg] = call.context
        try:
            result: object = await self.fn(**given)
            if self.shows_dict and not isinstance(result, InputRequiredResult):
                item = _typed_dict(result)
                return CallToolResult(
                    content=[TextContent(type="text", text=_json(item))], structured_content=item
                )
            return self.fn_metadata.convert_result(result)
        except (AppError, MCPError, ToolError):
            raise
        except Exception as error:
            raise UnexpectedToolError(self.name) from error

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as the function takes them.

        Raises:
            InvalidInput: an argument is unknown, missing or of the wrong type.
        """
        known = self.parameters.get("properties", {})
        for name in arguments:
            if name not in known and self.parameters.get("additionalProperties") is not True:
                raise InvalidInput(
                    f"{name}: {self.name} has no such argument; it takes {', '.join(known) or 'none'}",
                    param=name,
                )
        try:
            return self.fn_metadata.arg_model.model_validate(arguments).model_dump_one_level()
        except ValidationError as error:
            raise InvalidInput(_explain(error), param=_where(error)) from error


def _parameter(hints: dict[str, Any], wanted: type) -> str | None:
    for name, hint in hints.items():
        inner = typing.get_origin(hint) or hint
        if name != "return" and isinstance(inner, type) and issubclass(inner, wanted):
            return name
    return None


def _is_shown_as_dict(hint: Any) -> bool:
    """Tell whether a function returns a TypedDict, or else asks for input."""
    arms = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    data = [arm for arm in arms if arm is not InputRequiredResult]
    return len(data) == 1 and is_typeddict(data[0])


def _published(metadata: FuncMetadata) -> FuncMetadata:
    if metadata.output_schema is not None:
        metadata.output_schema = _plain(metadata.output_schema)
    return metadata


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop pydantic's generated titles: they repeat the names, and a model pays for every word."""
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"properties", "$defs"}:
            plain[key] = {name: _plain(item) for name, item in value.items()}
        elif isinstance(value, dict):
            plain[key] = _plain(cast("dict[str, Any]", value))
        elif isinstance(value, list):
            plain[key] = [_plain_item(item) for item in cast("list[Any]", value)]
        elif key != "title":
            plain[key] = value
    return plain


def _plain_item(item: Any) -> Any:
    return _plain(cast("dict[str, Any]", item)) if isinstance(item, dict) else item


def _typed_dict(result: object) -> dict[str, Any]:
    if not isinstance(result, dict):
        raise TypeError(f"it returned {type(result).__name__}, not its TypedDict")
    return cast("dict[str, Any]", result)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits, lone surrogates: the slow encoder knows them
        import json

        return json.dumps(value)


def _where(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.errors()[0]["loc"][:1])


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where}: this argument is required"
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    message = first["msg"]
    return f"{where}: {shown} does not fit: {message[:1].lower()}{message[1:]}"
