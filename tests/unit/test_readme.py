"""What README and docs/ say of tools, settings and files is what the code has."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_server import updates
from mcp_server.agents import asked, work
from mcp_server.cli import _parser
from mcp_server.commands.worker import MOST_SLOTS
from mcp_server.plugins import load_plugins
from mcp_server.runs import cleaning, context, leases
from mcp_server.runs.intervals import Timing
from mcp_server.runs.worker import CONCURRENCY
from mcp_server.services import run_answer_check, run_terms, run_watch, tool_work
from mcp_server.settings import Settings
from mcp_server.tool import DeclaredTool

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mcp_server"
MIGRATION = PACKAGE / "migrations" / "versions" / "0002_run_engine.py"
README = ROOT / "README.md"
RUNS = ROOT / "docs" / "runs.md"
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
        if target.startswith("https://"):
            continue
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


def test_the_documented_changes_of_a_run_are_those_that_the_database_allows() -> None:
    allowed = re.findall(r"\('(\w+)', '(\w+)'\)", MIGRATION.read_text(encoding="utf-8"))
    documented = [
        (code(row[0])[0], status) for row in table(RUNS, "from") for status in code(row[1])
    ]
    assert sorted(documented) == sorted(allowed)


def test_every_type_of_event_is_documented_and_no_other() -> None:
    sources = [*(PACKAGE / "runs").glob("*.py"), PACKAGE / "agents" / "work.py"]
    told = re.compile(r'\{"type": ?"(\w+)"')
    types = {name for path in sources for name in told.findall(path.read_text(encoding="utf-8"))}
    assert {code(row[0])[0] for row in table(RUNS, "type")} == types


@pytest.mark.parametrize(
    ("what", "bound"),
    [
        ("input of a run; of an agent", f"{cleaning.MAX_INPUT_BYTES // 10**6} MB of JSON"),
        ("input of a run; of an agent", f"{work.MOST_MESSAGES:,} messages, {work.MOST_CHARS:,} "),
        ("one event", f"{cleaning.MAX_EVENT_BYTES // 10**6} MB"),
        ("a step's result, an agent's output", f"{cleaning.MAX_RESULT_BYTES // 10**6} MB"),
        ("a long tool's result", f"{tool_work.MOST_RESULT_BYTES // 10**6} MB"),
        ("an answer; a question's schema", f"{run_answer_check.MOST_ANSWER_BYTES >> 10} KiB; "),
        ("an answer; a question's schema", f"; {asked.MOST_SCHEMA_BYTES >> 10} KiB"),
        ("a step's name", f"{context.MOST_NAME} printable"),
        ("runs of one tenant that wait, for a worker or an answer", f"{run_terms.MOST_WAITING:,}"),
        ("runs that start one another", f"{run_terms.MOST_NESTED} deep"),
        ("one page of events", f"{run_watch.MOST_EVENTS:,}, or {run_watch.MOST_BYTES >> 20} MiB"),
        ("one wait of `run_events`, of `agent_run`", f"{run_watch.MAX_POLL_SECONDS:g} s, "),
        ("one wait of `run_events`, of `agent_run`", f", {run_watch.MAX_WAIT_SECONDS:g} s"),
        ("runs at once in one process", f"1 to {MOST_SLOTS}, by default {CONCURRENCY}"),
        ("runs that one stream, and one key, may watch", f"{updates.MOST_URIS:,}, "),
        ("runs that one stream, and one key, may watch", f"{updates.MOST_RUNS_PER_KEY:,}"),
    ],
)
def test_the_documented_bounds_of_runs_are_the_real_ones(what: str, bound: str) -> None:
    assert bound in {row[0]: row[1] for row in table(RUNS, "what")}[what]


def test_the_documented_lease_is_the_real_one() -> None:
    lasts = f"{leases.LEASE_SECONDS:g} seconds long by the database's clock"
    text = RUNS.read_text(encoding="utf-8")
    assert f"{lasts}, renewed every {leases.HEARTBEAT_SECONDS:g}." in text
    assert (Timing().lease, Timing().heartbeat) == (leases.LEASE_SECONDS, leases.HEARTBEAT_SECONDS)


def test_every_module_of_the_run_engine_has_its_job_in_the_architecture() -> None:
    rows = table(ROOT / "docs" / "architecture.md", "in `mcp_server/runs/`")
    modules = {path.name for path in (PACKAGE / "runs").glob("*.py")} - {"__init__.py"}
    assert sorted(name for row in rows for name in code(row[0])) == sorted(modules)


def test_the_documented_slow_tests_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\S+\.py)`", text)
    assert len(named) > 5
    assert all((ROOT / name).exists() for name in named)


def test_ci_ends_with_the_test_command_of_the_readme() -> None:
    commands = [line.partition("#")[0].strip() for line in blocks(README, "sh")[0].splitlines()]
    assert commands[0] == "pip install uv && uv run isthmus serve"
    test = commands[1].removeprefix("pip install uv && ")
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").rstrip().splitlines()[-1] == test


def test_the_first_screen_says_what_it_is_and_how_to_begin() -> None:
    first_screen = README.read_text(encoding="utf-8").splitlines()[:24]
    assert any("uv run isthmus serve" in line for line in first_screen)
    assert sum(line.startswith("- ") for line in first_screen) == 5
