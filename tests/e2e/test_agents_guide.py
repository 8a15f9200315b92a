"""`isthmus agents` and the guide docs/agents.md, whose YAML and tool calls are done as they stand."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_agent_definitions import WHOLE
from tests.doors import raw
from tests.e2e.processes import ISTHMUS, ServeProcess, environment, serve
from tests.unit.test_readme import ROOT, blocks

GUIDE = ROOT / "docs" / "agents.md"
KEY = "sk-isth-a-key-for-the-agents-guide"
PLAIN = "name: {}\ninstructions: Answer.\n"


@pytest.fixture(scope="module")
def data(scratch: Path) -> Path:
    return scratch / "agents-guide"


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[ServeProcess]:
    with serve(data, API_KEY=KEY) as process:
        yield process


@pytest.fixture
def folder(tmp_path: Path, server: ServeProcess) -> Path:
    """A place for files, while the server is up: so each command joins its database."""
    del server
    return tmp_path


def isthmus(
    data: Path, *arguments: str, code: int = 0, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ISTHMUS, *arguments],
        cwd=cwd,
        env=environment(data) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def applied(data: Path, *arguments: str) -> dict[str, str]:
    done = json.loads(isthmus(data, "agents", "apply", "--json", *arguments).stdout)
    return {agent["name"]: agent["outcome"] for agent in done["agents"]}


async def call(server: ServeProcess, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    async with raw.open_http() as http:
        return (await raw.call(http, server.url, KEY, tool, arguments)).result


async def definition(server: ServeProcess, name: str) -> dict[str, Any]:
    found = await call(server, "agent_get", {"name": name})
    assert not found["isError"], found
    return found["structuredContent"]


# --- the guide ---------------------------------------------------------------------------------


async def test_the_guides_yaml_and_calls_work_as_they_stand(
    server: ServeProcess, data: Path, folder: Path
) -> None:
    (text,) = blocks(GUIDE, "yaml")
    (folder / "agents.yaml").write_text(text, encoding="utf-8")
    (command,) = blocks(GUIDE, "sh")
    name, *arguments = shlex.split(command)
    assert name == "isthmus"
    isthmus(data, *arguments, cwd=folder)
    for block in blocks(GUIDE, "json"):
        said = json.loads(block)
        answer = await call(server, said["tool"], said["arguments"])
        assert not answer.get("isError"), (said, answer)
        if "run" in answer["structuredContent"]:
            assert answer["structuredContent"]["status"] == "completed", (said, answer)


def test_the_guide_names_every_field_of_a_definition() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [name for name in WHOLE if f"`{name}`" not in text] == []


# --- export and apply --------------------------------------------------------------------------


async def test_every_field_survives_the_way_out_and_in(
    server: ServeProcess, data: Path, folder: Path
) -> None:
    stored = {"store": "manuals", "document": "one", "text": "An isthmus joins two lands."}
    assert not (await call(server, "vector_add", stored))["isError"]
    assert not (await call(server, "agent_save", {"name": "sub", "instructions": "Help."}))[
        "isError"
    ]
    odd = "  {{reader}}: «no»\n\n\tand {{language}} # no comment \u2028\n- x:\u00a0y \U0001f600  \n"
    wanted = {**WHOLE, "name": "whole", "model": "default", "instructions": odd}
    wanted["fallbacks"] = ["default"]
    wanted["limits"] = {**WHOLE["limits"], "cost": None}  # no model here has a price
    saved = await call(server, "agent_save", wanted)
    assert not saved["isError"], saved
    exported = isthmus(data, "agents", "export", "whole", "--output", str(folder)).stdout
    assert exported == f"{folder / 'whole.yaml'}\n"
    assert applied(data, str(folder)) == {"whole": "unchanged"}
    await call(server, "agent_delete", {"name": "whole"})
    assert applied(data, str(folder)) == {"whole": "created"}
    found = await definition(server, "whole")
    assert {name: found[name] for name in wanted} == wanted


async def test_unchanged_definitions_make_no_new_version(
    server: ServeProcess, data: Path, folder: Path
) -> None:
    file = folder / "two.yaml"
    file.write_text(PLAIN.format("kept") + "---\n" + PLAIN.format("moved"), encoding="utf-8")
    assert applied(data, str(file), "--dry-run") == {"kept": "created", "moved": "created"}
    assert (await call(server, "agent_get", {"name": "kept"}))["isError"]
    assert applied(data, str(file)) == {"kept": "created", "moved": "created"}
    before = (await definition(server, "kept"))["version"]
    file.write_text(file.read_text().replace("moved\n", "moved\ndescription: new\n"))
    assert applied(data, str(file)) == {"kept": "unchanged", "moved": "changed"}
    assert (await definition(server, "kept"))["version"] == before
    assert (await definition(server, "moved"))["description"] == "new"
    shown = isthmus(data, "agents", "export", "kept", "moved").stdout
    assert shown == (
        "---\nname: kept\ninstructions: Answer.\n"
        "---\nname: moved\ndescription: new\ninstructions: Answer.\n"
    )


async def test_new_definitions_may_name_each_other_but_not_in_a_circle(
    server: ServeProcess, data: Path, folder: Path
) -> None:
    (folder / "a.yaml").write_text(
        PLAIN.format("above") + "tools: [agent_below]\n", encoding="utf-8"
    )
    error = isthmus(data, "agents", "apply", str(folder), code=2).stderr
    assert "a.yaml, document 1: tools: 'agent_below' does not exist" in error
    (folder / "b.yml").write_text(PLAIN.format("below") + "as_tool: true\n", encoding="utf-8")
    assert applied(data, str(folder)) == {"above": "created", "below": "created"}
    (folder / "a.yaml").write_text(PLAIN.format("above") + "agents: [below]\n", encoding="utf-8")
    (folder / "b.yml").write_text(PLAIN.format("below") + "agents: [above]\n", encoding="utf-8")
    error = isthmus(data, "agents", "apply", str(folder), code=2).stderr
    assert "the agent would run itself through its sub-agents" in error
    assert (await definition(server, "below"))["agents"] == []


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ("name: [", ", line 4, column 8: it is no YAML: "),
        ("instructions: x\n", "document 2: name: Field required"),
        (PLAIN.format("bad") + "tool: []\n", "document 2: tool: Extra inputs are not permitted"),
        (PLAIN.format("bad/name"), "document 2: name: 'bad/name' holds a slash"),
        (PLAIN.format("bad") + "busy: no\n", "document 2: busy: Input should be 'reject'"),
        (
            PLAIN.format("bad") + "tools: [kv_fetch]\n",
            "document 2: tools: 'kv_fetch' does not exist",
        ),
        (PLAIN.format("bad") + "stores: [none]\n", "document 2: stores: 'none' does not exist"),
        (PLAIN.format("list") + "as_tool: true\n", "document 2: as_tool: there is another tool"),
        (PLAIN.format("fine"), "document 2: name: 'fine' is defined at "),
    ],
)
async def test_one_bad_document_saves_none(
    server: ServeProcess, data: Path, folder: Path, second: str, error: str
) -> None:
    file = folder / "bad.yaml"
    file.write_text(PLAIN.format("fine") + "---\n" + second, encoding="utf-8")
    done = isthmus(data, "agents", "apply", str(file), code=2)
    assert done.stderr.startswith(f"isthmus: invalid_input: {file}"), done.stderr
    assert error in done.stderr
    assert done.stderr.count("\n") == 1
    assert (await call(server, "agent_get", {"name": "fine"}))["isError"]


def test_what_is_not_there_is_told(data: Path, folder: Path) -> None:
    missing = isthmus(data, "agents", "apply", str(folder / "none.yaml"), code=2).stderr
    assert "none.yaml: it cannot be read: No such file or directory" in missing
    empty = isthmus(data, "agents", "apply", str(folder), code=2).stderr
    assert "there is no document with an agent in it" in empty
    unknown = isthmus(data, "agents", "export", "nobody", code=1).stderr
    assert (
        unknown
        == "isthmus: not_found: agent 'nobody' does not exist; agent_list shows those that do\n"
    )
