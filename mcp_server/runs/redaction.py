"""Taking secrets out of what ended runs keep: the values of named fields, wherever they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

from mcp_server.runs.cleaning import MAX_DEPTH

REDACTED = "[redacted]"

_PLAIN = re.compile(r"[\w.-]+", re.ASCII)
_Json: TypeAlias = "Mapping[str, Any] | Sequence[Any]"


@dataclass(frozen=True)
class Redaction:
    """The names of fields, in lower case, whose values are not kept."""

    fields: frozenset[str] = frozenset()

    def apply(self, value: Any) -> Any:
        """Give a copy of a JSON value without those values.

        A text that is itself JSON, as a tool's arguments are, is looked into too; so is one that was
        cut and ends in the middle.
        """
        return self._copy(value, 0) if self.fields else value

    def filled(self, text: str, variables: Mapping[str, str]) -> str:
        """Give a text into which variables were filled without the values of those that have such a name."""
        secret = {
            value for name, value in variables.items() if value and name.lower() in self.fields
        }
        for value in sorted(secret, key=len, reverse=True):
            text = text.replace(value, REDACTED)
        return self.apply(text)

    @cached_property
    def pattern(self) -> str:
        """A regular expression, of Python and PostgreSQL, that JSON text with such a field matches."""
        if all(_PLAIN.fullmatch(name) for name in self.fields):
            return rf'"({self._names})\\*"\s*:'
        return '"'  # other letters may stand as themselves or escaped

    @cached_property
    def _names(self) -> str:
        return "|".join(re.escape(name) for name in sorted(self.fields))

    @cached_property
    def _field(self) -> re.Pattern[str]:
        # In a text that is cut somewhere, perhaps one within another with its quotes escaped: what
        # opens and does not close goes on to the end.
        head = rf'(?P<head>(?<!\\)(?P<quote>\\*")(?:{self._names})(?P=quote)\s*:\s*)'
        value = r'(?:(?P=quote).*?(?:(?<!\\)(?P=quote)|\Z)|[\[{].*|[^\s,}\]"\\]+)'
        return re.compile(head + value, re.IGNORECASE | re.DOTALL)

    def _copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, depth + 1)
        if depth > MAX_DEPTH:
            return value
        if isinstance(value, Mapping):
            items = cast("Mapping[str, Any]", value).items()
            return {
                name: REDACTED if name.lower() in self.fields else self._copy(item, depth + 1)
                for name, item in items
            }
        if isinstance(value, Sequence):
            return [self._copy(item, depth + 1) for item in cast("Sequence[Any]", value)]
        return value

    def _text(self, text: str, depth: int) -> str:
        if depth > MAX_DEPTH or '"' not in text or not re.search(self.pattern, text, re.IGNORECASE):
            return text
        try:
            inner = json.loads(text)
        except (ValueError, RecursionError):
            return self._field.sub(rf"\g<head>\g<quote>{REDACTED}\g<quote>", text)
        if isinstance(inner, Mapping | Sequence) and not isinstance(inner, str):
            return json.dumps(self._copy(cast("_Json", inner), depth), ensure_ascii=False)
        return text


NOTHING = Redaction()
