"""One declared resource: how its URI is matched, read and listed."""

from __future__ import annotations

import inspect
import json
import typing
from dataclasses import dataclass
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.shared.uri_template import UriTemplate
from mcp_types import InputRequiredResult, Resource, ResourceTemplate

from mcp_server.plugins import AsyncFunction, Call, Content, ResourceDeclaration
from mcp_server.policy import Verb

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class DeclaredResource:
    """A resource of a plugin file; names with `..` or slashes are the service's to judge, not paths."""

    fn: AsyncFunction
    template: UriTemplate
    uri: str
    mime_type: str | None
    verb: Verb
    call_kwarg: str | None
    context_kwarg: str | None

    @classmethod
    def declare(cls, declaration: ResourceDeclaration) -> DeclaredResource:
        """Build the resource.

        Raises:
            TypeError: the URI's variables are not the function's parameters.
        """
        hints = typing.get_type_hints(declaration.fn)
        injected = {
            name: hint for name, hint in hints.items() if _is(hint, Call) or _is(hint, Context)
        }
        template = UriTemplate.parse(declaration.uri)
        parameters = set(inspect.signature(declaration.fn).parameters) - set(injected)
        if parameters != set(template.variable_names):
            raise TypeError(
                f"resource {declaration.uri!r}: its variables are not {sorted(parameters)}"
            )
        return cls(
            declaration.fn,
            template,
            declaration.uri,
            declaration.mime_type,
            declaration.verb,
            next((name for name, hint in injected.items() if _is(hint, Call)), None),
            next((name for name, hint in injected.items() if _is(hint, Context)), None),
        )

    @property
    def is_template(self) -> bool:
        return bool(self.template.variable_names)

    @property
    def name(self) -> str:
        return getattr(self.fn, "__name__", self.uri)

    def match(self, uri: str) -> dict[str, Any] | None:
        """Return the function's arguments if the URI is one of this resource's."""
        if not self.is_template:
            return {} if uri == self.uri else None
        return self.template.match(uri)

    async def read(
        self, arguments: dict[str, Any], call: Call
    ) -> list[ReadResourceContents] | InputRequiredResult:
        """Call the function and give its result a media type."""
        given = dict(arguments)
        if self.call_kwarg is not None:
            given[self.call_kwarg] = call
        if self.context_kwarg is not None:
            given[self.context_kwarg] = call.context
        result = await self.fn(**given)
        if isinstance(result, InputRequiredResult):
            return result
        if isinstance(result, Content):
            return [ReadResourceContents(content=result.body, mime_type=result.mime_type)]
        if isinstance(result, str | bytes):
            return [ReadResourceContents(content=result, mime_type=self.mime_type)]
        return [ReadResourceContents(content=json.dumps(result), mime_type=self.mime_type or JSON)]

    def as_template(self) -> ResourceTemplate:
        return ResourceTemplate(
            uri_template=self.uri,
            name=self.name,
            description=inspect.getdoc(self.fn),
            mime_type=self.mime_type,
        )

    def as_resource(self) -> Resource:
        return Resource(
            uri=self.uri,
            name=self.name,
            description=inspect.getdoc(self.fn),
            mime_type=self.mime_type,
        )


def _is(hint: Any, wanted: type) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, wanted)
