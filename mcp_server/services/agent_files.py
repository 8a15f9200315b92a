"""Definitions of agents as YAML: one document for each, without the fields that are as by default."""

# PyYAML's nodes hold what its types do not tell.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import yaml

from mcp_server.agents.definitions import AgentDefinition
from mcp_server.errors import InvalidInput
from mcp_server.services.agent_items import AgentItem

_FIRST = ("name", "description", "instructions")
_WIDTH = 100
# YAML ends lines at these, too: they read back only if they are escaped.
_BREAKS = "\x85\u2028\u2029"


def write_agent(agent: AgentItem) -> str:
    """Return an agent's definition as one YAML document, which `read_agents` reads back."""
    fields = AgentDefinition.model_fields
    own = {name: value for name, value in agent.items() if name in fields}
    definition = AgentDefinition.model_validate(own)
    said = definition.model_dump(mode="json", exclude_defaults=True)
    ordered = {name: said.pop(name) for name in _FIRST if name in said} | said
    return yaml.dump(
        ordered,
        Dumper=_Dumper,
        allow_unicode=True,
        sort_keys=False,
        explicit_start=True,
        width=_WIDTH,
    )


def read_agents(source: str, text: str) -> dict[str, dict[str, Any]]:
    """Return the fields of each document of a file, by the place of the document in `source`.

    Raises:
        InvalidInput: it is no YAML, or a document is no mapping of names to JSON values; the place is told.
    """
    found: dict[str, dict[str, Any]] = {}
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise InvalidInput(f"{source}{_fault(error)}") from error
    except RecursionError as error:
        raise InvalidInput(f"{source}: it is nested too deep") from error
    for number, document in enumerate(documents, 1):
        place = f"{source}, document {number}"
        if document is None:  # nothing stands between two separators
            continue
        if not isinstance(document, dict):
            raise InvalidInput(f"{place}: write a mapping with name and instructions")
        found[place] = _checked(place, cast("dict[Any, Any]", document))
    return found


def _fault(error: yaml.YAMLError) -> str:
    """Say where something is no YAML, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f", line {mark.line + 1}, column {mark.column + 1}: it is no YAML: {error.problem}"
    return f": it is no YAML: {' '.join(str(error).split())}"


def _checked(place: str, document: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields, all of which JSON has.

    Raises:
        InvalidInput: one is a date, for example, or holds itself.
    """
    for name, value in document.items():
        if not isinstance(name, str):
            raise InvalidInput(f"{place}: {name!r:.80} is no name of a field; quote it")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(
                f"{place}: {name}: JSON cannot hold it ({error}); quote what shall be a text",
                param=name,
            ) from error
    return dict(document)


class _Loader(yaml.SafeLoader):
    """Reads plain values only, and refuses a key that stands twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands here twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else None)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such, and no value as a reference to another one."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if any(mark in text for mark in _BREAKS):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
