"""`isthmus install CLIENT`: add this server to an MCP client's configuration."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import platformdirs

from mcp_server.errors import ConfigurationError
from mcp_server.settings import default_data_dir

NAME = "isthmus"


def install(client: str, data_dir: Path, *, dry_run: bool) -> int:
    """Add `isthmus stdio` over `data_dir` to the client; other entries of its file stay as they are.

    Raises:
        ConfigurationError: the client's program or file is not usable.
    """
    # Clients start it without our environment, so a directory of the user's choice is named.
    where = [] if data_dir == default_data_dir() else ["--data-dir", str(data_dir.absolute())]
    entry = {"command": _program(), "args": [*where, "stdio"]}
    if client == "claude-code":
        return _claude_code(entry, dry_run=dry_run)
    path, section = _file(client)
    settings = _read(path)
    servers = settings.setdefault(section, {})
    if not isinstance(servers, dict):
        raise ConfigurationError(f"{path}: {section!r} is not an object; mend the file first")
    servers[NAME] = {"type": "stdio", **entry} if client == "vscode" else entry
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    if dry_run:
        print(f"{path}:\n{text}", end="")
        return 0
    _write(path, text)
    print(f"{NAME} is in {path}; restart {client} to use it")
    return 0


def _program() -> str:
    """Return the absolute path of our command: clients have a PATH of their own."""
    beside = Path(sys.executable).with_name("isthmus")
    found = str(beside) if beside.exists() else shutil.which("isthmus")
    if found is None:
        raise ConfigurationError(
            "the isthmus command is neither beside this Python nor on the PATH; "
            "run `uv run isthmus install …` in the clone"
        )
    return found


def _claude_code(entry: dict[str, Any], *, dry_run: bool) -> int:
    command = ["claude", "mcp", "add", NAME, "--", entry["command"], *entry["args"]]
    if dry_run:
        print(shlex.join(command))
        return 0
    if shutil.which("claude") is None:
        raise ConfigurationError(f"claude is not on the PATH; run there: {shlex.join(command)}")
    return subprocess.run(command, check=False).returncode  # noqa: S603  our own words only


def _file(client: str) -> tuple[Path, str]:
    home = Path.home()
    match client:
        case "cursor":
            return home / ".cursor" / "mcp.json", "mcpServers"
        case "vscode":
            return Path(".vscode") / "mcp.json", "servers"
        case _:
            folder = Path(platformdirs.user_config_dir("Claude", appauthor=False, roaming=True))
            return folder / "claude_desktop_config.json", "mcpServers"


def _read(path: Path) -> dict[str, Any]:
    try:
        settings: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as JSON ({error}); mend it first"
        ) from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path} does not hold a JSON object; mend it first")
    return cast("dict[str, Any]", settings)


def _write(path: Path, text: str) -> None:
    """Replace the file in one step: a crash leaves the old one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}.new")
        aside.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, aside)
        aside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror})") from error
