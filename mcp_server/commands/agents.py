"""`isthmus agents`: definitions of agents as YAML files, out and in."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import InvalidInput
from mcp_server.runtime import open_runtime
from mcp_server.services.agent_files import read_agents, write_agent
from mcp_server.services.agent_items import AgentItem
from mcp_server.services.agents import AgentService
from mcp_server.settings import Settings

_ENDINGS = (".yaml", ".yml")
_STDOUT = "-"


async def run(settings: Settings, options: argparse.Namespace) -> int:
    """Run one action, as the owner of a tenant, and print its result.

    What a definition may name - models, tools, stores - only the whole server knows: it is opened, but for
    its worker.
    """
    applied = options.action == "apply"
    definitions = _read(options.paths) if applied else {}
    async with open_runtime(settings, concurrency=0) as runtime:
        agents, owner = runtime.services.agents, replace(OWNER, tenant=options.tenant)
        if applied:
            return await _apply(agents, owner, definitions, options)
        return await _export(agents, owner, options.names, options.output)


async def _export(agents: AgentService, owner: Principal, names: Sequence[str], output: str) -> int:
    if names:
        found = [await agents.get(owner, name) for name in dict.fromkeys(names)]
    else:
        found = (await agents.list(owner))["items"]
    if output == _STDOUT:
        sys.stdout.write("".join(write_agent(agent) for agent in found))
        return 0
    _write(Path(output), found)
    return 0


def _write(folder: Path, found: Sequence[AgentItem]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for agent in found:
            path = folder / f"{agent['name']}{_ENDINGS[0]}"
            path.write_text(write_agent(agent), encoding="utf-8")
            print(path)
    except OSError as error:
        raise InvalidInput(f"--output {folder}: {error.strerror or error}") from error


async def _apply(
    agents: AgentService,
    owner: Principal,
    definitions: dict[str, dict[str, Any]],
    options: argparse.Namespace,
) -> int:
    applied = await agents.apply(owner, definitions, dry_run=options.dry_run)
    if options.json:
        print(json.dumps({"dry_run": options.dry_run, "agents": applied}))
        return 0
    for agent in applied:
        version = "" if agent["version"] is None else f"  version {agent['version']}"
        print(f"{agent['name']}  {agent['outcome']}{version}")
    if options.dry_run:
        print("Nothing was saved: this was a dry run.")
    return 0


def _read(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the definitions in some files, and in the YAML files of some folders.

    Raises:
        InvalidInput: there is none, or a file cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in [file for each in paths for file in _files(each)]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidInput(f"{path}: it cannot be read: {reason}") from error
        found |= read_agents(str(path), text)
    if not found:
        shown = ", ".join(str(path) for path in paths)
        raise InvalidInput(f"{shown}: there is no document with an agent in it")
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
