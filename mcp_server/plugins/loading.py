"""Loading plugin folders: their files in the order of their names, bundled ones first."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from mcp.server.mcpserver import MCPServer

from mcp_server.errors import ConfigurationError
from mcp_server.plugins.declaring import (
    CompletionDeclaration,
    PromptDeclaration,
    ResourceDeclaration,
    ToolDeclaration,
    declarations,
)

KINDS = ("tools", "resources", "prompts")


@dataclass(slots=True)
class Plugins:
    """Everything that the plugin folders declare, in the order of their names."""

    tools: list[ToolDeclaration] = field(default_factory=list[ToolDeclaration])
    resources: list[ResourceDeclaration] = field(default_factory=list[ResourceDeclaration])
    prompts: list[PromptDeclaration] = field(default_factory=list[PromptDeclaration])
    completions: list[CompletionDeclaration] = field(default_factory=list[CompletionDeclaration])
    setups: list[Callable[[MCPServer], Awaitable[None]]] = field(
        default_factory=list[Callable[[MCPServer], Awaitable[None]]]
    )


def load_plugins(folders: tuple[Path, ...] = ()) -> Plugins:
    """Load the bundled plugin files, then the operator's folders.

    Raises:
        ConfigurationError: a folder is missing, a file does not load, or a name is declared twice.
    """
    plugins = Plugins()
    for kind in KINDS:
        _load_folder(plugins, bundled(kind), f"mcp_server.{kind}")
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(f"--plugins {folder}: there is no such folder")
        # Two folders may hold files of the same name: the whole path tells them apart.
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        for kind in KINDS:
            _load_folder(plugins, folder / kind, f"isthmus_plugins_{digest}.{kind}")
    _refuse_duplicates("tool", [item.name for item in plugins.tools])
    _refuse_duplicates("resource", [item.uri for item in plugins.resources])
    return plugins


def bundled(kind: str) -> Path:
    """Return the folder of our own plugins: in the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def _load_folder(plugins: Plugins, folder: Path, package: str) -> None:
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        module = _load_file(path, f"{package}.{path.stem}")
        for declaration in declarations(module):
            match declaration:
                case ToolDeclaration():
                    plugins.tools.append(declaration)
                case ResourceDeclaration():
                    plugins.resources.append(declaration)
                case PromptDeclaration():
                    plugins.prompts.append(declaration)
                case CompletionDeclaration():
                    plugins.completions.append(declaration)
        setup = getattr(module, "setup", None)
        if setup is not None:
            if not inspect.iscoroutinefunction(setup):
                raise ConfigurationError(f"plugin {path}: setup is not an async function")
            plugins.setups.append(setup)


def _load_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"plugin {path}: it cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"plugin {path}: {_one_line(error)}") from error
    return module


async def set_up(plugins: Plugins, server: MCPServer) -> None:
    """Run each plugin file's `setup(server)`.

    Raises:
        ConfigurationError: one failed; names its file.
    """
    for setup in plugins.setups:
        try:
            await setup(server)
        except (Exception, SystemExit) as error:
            where = inspect.getsourcefile(setup)
            raise ConfigurationError(f"plugin {where}: setup: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _refuse_duplicates(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{what} {name!r} is declared by two plugin files; rename one")
