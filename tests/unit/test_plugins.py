"""Plugin folders: what is loaded, what a tool refuses, what fails at start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent
from typing_extensions import TypedDict

from mcp_server.auth.principal import OWNER
from mcp_server.errors import ConfigurationError, InvalidInput
from mcp_server.plugins import Call, ToolDeclaration, load_plugins
from mcp_server.resource import DeclaredResource
from mcp_server.tool import DeclaredTool

GOOD = '''
from mcp.server.mcpserver import Context
from mcp_server.plugins import Call, complete, prompt, resource, tool

@tool(verb="read", read_only=True)
async def shout(text: str, times: int = 1) -> str:
    """Shout."""
    return text.upper() * times

async def undecorated() -> str:
    return ""

@resource("note://{name}", mime_type="text/plain")
async def note(call: Call, name: str) -> str:
    """A note."""
    return f"{call.principal.tenant}:{name}"

@prompt()
async def ask(topic: str) -> str:
    """Ask."""
    return topic

@complete("ask")
async def complete_ask(argument, context):
    return ["tea"]

async def setup(server):
    server.was_set_up = True
'''


def call() -> Call:
    return Call(OWNER, None)  # pyright: ignore[reportArgumentType]


def folder(tmp_path: Path, text: str, kind: str = "tools", name: str = "mine.py") -> Path:
    (tmp_path / kind).mkdir(parents=True, exist_ok=True)
    (tmp_path / kind / name).write_text(text)
    return tmp_path


def test_a_folder_adds_its_declarations_to_the_bundled_ones(tmp_path: Path) -> None:
    bundled = load_plugins()
    plugins = load_plugins((folder(tmp_path, GOOD),))
    added = {tool.name for tool in plugins.tools} - {tool.name for tool in bundled.tools}
    assert added == {"shout"}
    uris = {item.uri for item in plugins.resources} - {item.uri for item in bundled.resources}
    assert uris == {"note://{name}"}
    completed = {item.ref for item in plugins.completions} - {
        item.ref for item in bundled.completions
    }
    assert completed == {"ask"}
    assert (len(plugins.prompts), len(plugins.setups)) == (1, 1)


def test_two_folders_may_hold_files_of_the_same_name(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", GOOD)
    two = folder(tmp_path / "two", GOOD.replace("shout", "yell").replace("note", "memo"))
    names = {tool.name for tool in load_plugins((one, two)).tools}
    assert {"shout", "yell"} <= names


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('broken')", "ValueError: broken"),
        ("def f(:", "SyntaxError"),
        (
            GOOD.replace('verb="read"', 'verb="fly"'),
            "verb 'fly' is not one of read, write, run, admin",
        ),
        (GOOD.replace("def shout", "def kv_get"), "tool 'kv_get' is declared by two plugin files"),
    ],
)
def test_a_broken_plugin_stops_the_start_with_its_name(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        load_plugins((folder(tmp_path, text),))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        load_plugins((tmp_path / "absent",))


class Shown(TypedDict):
    text: str
    value: Any


async def sample(
    call: Call, key: str, value: Any = None, count: int = 1, names: list[str] | None = None
) -> Shown:
    """Show what came in."""
    return Shown(text=f"{call.principal.subject} {key} {count} {names}", value=value)


def declared(**changes: Any) -> DeclaredTool:
    given: dict[str, Any] = {
        "fn": sample, "name": "sample", "verb": "read", "read_only": True,
        "destructive": False, "egress": False, "input_schema": None,
    }  # fmt: skip
    return DeclaredTool.declare(ToolDeclaration(**given | changes))


def test_a_schema_has_the_arguments_and_nothing_else() -> None:
    schema = declared().parameters
    assert list(schema["properties"]) == ["key", "value", "count", "names"]
    assert schema["required"] == ["key"]
    assert schema["additionalProperties"] is False
    assert "title" not in json.dumps(schema)


@pytest.mark.parametrize(
    "value", ['{"a": 1}', "[1]", "12", "null", "", {"a": [1.5, None]}, 2**70, "\ud800"]
)
async def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    result = await declared().execute({"key": "k", "value": value}, call())
    assert isinstance(result, CallToolResult)
    assert result.structured_content == {"text": "owner k 1 None", "value": value}
    assert isinstance(result.content[0], TextContent)
    assert json.loads(result.content[0].text) == result.structured_content


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "key: this argument is required"),
        (
            {"key": "k", "kye": 1},
            "kye: sample has no such argument; it takes key, value, count, names",
        ),
        ({"key": 5}, "key: 5 does not fit"),
        ({"key": "k", "count": "many"}, "count: 'many' does not fit"),
        ({"key": "k", "names": "a"}, "names: 'a' does not fit"),
        ({"key": "x" * 500, "count": {"deep": "y" * 500}}, "count: .{57}... does not fit"),
    ],
)
async def test_an_argument_that_does_not_fit_is_named(
    arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        await declared().execute(arguments, call())


def test_a_published_schema_may_be_the_authors_own() -> None:
    own = {"type": "object", "properties": {"key": {"type": "string"}}, "x-mine": True}
    assert declared(input_schema=own).parameters == own


def test_a_sync_tool_is_refused() -> None:
    def blocking(key: str) -> str:
        return key

    with pytest.raises(TypeError, match="not an async function"):
        declared(fn=blocking)


def test_a_resource_whose_variables_do_not_match_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("note://{name}", "note://{title}")
    plugins = load_plugins((folder(tmp_path, text),))
    wrong = next(item for item in plugins.resources if item.uri == "note://{title}")
    with pytest.raises(TypeError, match=r"its variables are not \['name'\]"):
        DeclaredResource.declare(wrong)
