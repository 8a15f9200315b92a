"""What README and docs/ say of tools, settings and files is what the code has."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_server.cli import _parser
from mcp_server.plugins import load_plugins
from mcp_server.settings import Settings
from mcp_server.tool import DeclaredTool

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [
        text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language
    ]


def table(page: Path, first: str) -> list[list[str]]:
    """Return the rows, without the header, of the table whose first header cell is `first`."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"| {first} |") for line in lines), f"{page}: no table of {first}"
    next(lines)
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def tools() -> dict[str, DeclaredTool]:
    return {item.name: DeclaredTool.declare(item) for item in load_plugins().tools}


def default(schema: dict[str, Any]) -> str:
    return "–" if schema["default"] is None else str(schema["default"])


def test_the_readme_names_every_tool_and_resource_and_no_other() -> None:
    rows = table(README, "domain")
    assert sorted(name for row in rows for name in code(row[1])) == sorted(tools())
    resources = [item.uri for item in load_plugins().resources]
    assert sorted(uri for row in rows for uri in code(row[2])) == sorted(resources)


def test_every_tool_is_documented_with_its_verb_and_arguments() -> None:
    documented = {code(row[0])[0]: row for row in table(ROOT / "docs" / "tools.md", "tool")}
    assert set(documented) == set(tools())
    for name, tool in tools().items():
        properties, required = tool.parameters["properties"], tool.parameters.get("required", [])
        expected = ", ".join(
            f"`{argument}`" if argument in required else f"`{argument}` [{default(schema)}]"
            for argument, schema in properties.items()
        )
        assert documented[name][1:3] == [tool.verb, expected], name


@pytest.mark.parametrize("tool", tools().values(), ids=tools())
def test_the_documented_results_are_those_of_the_output_schema(tool: DeclaredTool) -> None:
    rows = table(ROOT / "docs" / "tools.md", "tool")
    cell = next(row[3] for row in rows if code(row[0]) == [tool.name])
    schema = tool.fn_metadata.output_schema
    assert schema is not None
    fields = set(schema["properties"])
    if "the same" in cell:
        assert set(code(cell)) <= fields
    elif ":" in cell:  # the fields of its items
        assert set(code(cell)[:1]) == fields
    elif "definition" not in cell:
        assert set(code(cell)) == fields


def test_every_resource_is_documented() -> None:
    rows = table(ROOT / "docs" / "tools.md", "URI")
    assert sorted(code(row[0])[0] for row in rows) == sorted(
        item.uri for item in load_plugins().resources
    )


def test_every_setting_is_documented_with_its_default_and_no_other_is() -> None:
    rows = {code(row[0])[0]: row for row in table(ROOT / "docs" / "settings.md", "setting")}
    assert {name.lower() for name in rows} == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        shown = rows[name.upper()][1]
        if field.default is None or field.default == ():
            assert shown.startswith(("unset", "empty")), name
        elif field.default_factory is None:
            value = field.default
            told = ",".join(value) if isinstance(value, tuple) else str(value)
            assert code(shown) == [told], name


def test_the_settings_of_the_readme_exist() -> None:
    named = {name for row in table(README, "setting") for name in code(row[0])}
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_setting_that_does_not_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"ISTHMUS_([A-Z_]+[A-Z])", text)) - {"X", "NAME"}
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w]+", "-", heading.lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_data_in_a_page_is_well_formed(page: Path) -> None:
    for text in blocks(page, "json"):
        json.loads(text)
    for text in blocks(page, "toml"):
        assert set(tomllib.loads(text)) <= set(Settings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_in_a_page_parse(page: Path) -> None:
    for text in blocks(page, "sh"):
        for line in text.splitlines():
            found = re.match(r"uv run isthmus (.+?)(?:\s+#.*)?$", line)
            if found is not None:
                _parser().parse_args(found[1].replace("'", "").split())


def test_the_plugins_of_the_docs_load(tmp_path: Path) -> None:
    for text in blocks(ROOT / "docs" / "plugins.md", "python"):
        named = re.match(r'"""DIR/(\S+)"""', text)
        assert named is not None
        path = tmp_path / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    bundled, own = load_plugins(), load_plugins((tmp_path,))
    assert {item.name for item in own.tools} - {item.name for item in bundled.tools} == {
        "record_reading",
        "import_readings",
    }
    assert len(own.resources) == len(bundled.resources) + 1
    assert len(own.prompts) == len(bundled.prompts) + 1


def test_ci_ends_with_the_test_command_of_the_readme() -> None:
    commands = [line.partition("#")[0].strip() for line in blocks(README, "sh")[0].splitlines()]
    assert commands[0] == "pip install uv && uv run isthmus serve"
    test = commands[1].removeprefix("pip install uv && ")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().splitlines()[-1] == test


def test_the_first_screen_says_what_it_is_and_how_to_begin() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:24]
    assert any("uv run isthmus serve" in line for line in first_screen)
    assert sum(line.startswith("- ") for line in first_screen) == 5
