"""`isthmus install CLIENT` adds one entry to a client's configuration and keeps the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_server.commands import install as module
from mcp_server.errors import ConfigurationError
from mcp_server.settings import default_data_dir
from tests.unit.test_readme import README, blocks

FILES = {"cursor": ".cursor/mcp.json", "claude-desktop": "Claude/claude_desktop_config.json"}
SECTIONS = {"cursor": "mcpServers", "claude-desktop": "mcpServers", "vscode": "servers"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a working directory of our own, and a PATH with nothing on it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(
        module.platformdirs, "user_config_dir", lambda *_, **__: tmp_path / "Claude"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(client: str, *, dry_run: bool) -> int:
    return module.install(client, default_data_dir(), dry_run=dry_run)


def file_of(client: str, home: Path) -> Path:
    return home / FILES.get(client, ".vscode/mcp.json")


def entry(client: str, settings: dict[str, Any]) -> dict[str, Any]:
    return settings[SECTIONS[client]]["isthmus"]


@pytest.mark.parametrize("client", SECTIONS)
def test_the_entry_starts_our_own_command_over_stdio(client: str, home: Path) -> None:
    assert install(client, dry_run=False) == 0
    added = entry(client, json.loads(file_of(client, home).read_text(encoding="utf-8")))
    assert added["args"] == ["stdio"]
    assert Path(added["command"]).is_absolute()
    shown = subprocess.run([added["command"], "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("isthmus ")


@pytest.mark.parametrize("client", SECTIONS)
def test_what_else_the_file_holds_stays(client: str, home: Path) -> None:
    path = file_of(client, home)
    path.parent.mkdir(parents=True)
    other = {"command": "other", "args": ["é"]}
    path.write_text(json.dumps({"theme": "dark", SECTIONS[client]: {"other": other}}))
    path.chmod(0o600)
    install(client, dry_run=False)
    install(client, dry_run=False)
    settings = json.loads(path.read_text(encoding="utf-8"))
    assert settings["theme"] == "dark"
    assert settings[SECTIONS[client]]["other"] == other
    assert list(settings[SECTIONS[client]]) == ["other", "isthmus"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("client", SECTIONS)
def test_a_dry_run_shows_the_file_and_writes_nothing(
    client: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(client, dry_run=True) == 0
    name, _, text = capsys.readouterr().out.partition(":\n")
    assert Path(name).name == file_of(client, home).name
    assert entry(client, json.loads(text))["args"] == ["stdio"]
    assert not file_of(client, home).exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{// comment", "cannot be read as JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"mcpServers": []}', "'mcpServers' is not an object"),
    ],
)
def test_a_file_that_is_not_ours_to_mend_is_left_alone(
    content: str, complaint: str, home: Path
) -> None:
    path = file_of("cursor", home)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=complaint):
        install("cursor", dry_run=False)
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_one_line(home: Path) -> None:
    (home / ".cursor").write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match="cannot be"):
        install("cursor", dry_run=False)


def test_claude_code_is_told_by_its_own_command(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert install("claude-code", dry_run=True) == 0
    shown = capfd.readouterr().out.split()
    claude = home / "bin" / "claude"
    claude.parent.mkdir()
    claude.write_text('#!/bin/sh\necho claude "$@"\nexit 7\n')
    claude.chmod(0o755)
    assert install("claude-code", dry_run=False) == 7
    assert capfd.readouterr().out.split() == shown
    assert shown[:5] == ["claude", "mcp", "add", "isthmus", "--"]
    assert shown[6:] == ["stdio"]


def test_without_claude_code_the_command_to_run_there_is_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"claude mcp add isthmus -- .*isthmus stdio"):
        install("claude-code", dry_run=False)


def test_without_our_command_the_mend_is_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(home / "python"))
    with pytest.raises(ConfigurationError, match="neither beside this Python nor on the PATH"):
        install("cursor", dry_run=False)
    program = home / "bin" / "isthmus"
    program.parent.mkdir()
    program.touch(0o755)
    assert install("cursor", dry_run=False) == 0
    written = json.loads(file_of("cursor", home).read_text(encoding="utf-8"))
    assert entry("cursor", written)["command"] == os.fspath(program)


def test_the_readme_shows_the_same_entry(capsys: pytest.CaptureFixture[str]) -> None:
    install("claude-desktop", dry_run=True)
    written = json.loads(capsys.readouterr().out.partition(":\n")[2])
    shown = json.loads(blocks(README, "json")[0])
    shown["mcpServers"]["isthmus"]["command"] = written["mcpServers"]["isthmus"]["command"]
    assert shown == written


def test_a_data_directory_of_ones_own_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.install("cursor", Path("my data"), dry_run=True)
    written = json.loads(capsys.readouterr().out.partition(":\n")[2])
    assert entry("cursor", written)["args"] == ["--data-dir", str(home / "my data"), "stdio"]
