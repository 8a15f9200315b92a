"""What a plugin file declares - tools, resources, prompts, completions - and how its folder is loaded."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from mcp.server.mcpserver import Context, MCPServer

from mcp_server.auth.principal import Principal
from mcp_server.errors import ConfigurationError
from mcp_server.policy import VERBS, Verb
from mcp_server.services import Services

KINDS = ("tools", "resources", "prompts")

AsyncFunction = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=AsyncFunction)


@dataclass(frozen=True, slots=True)
class Call:
    """What a tool or resource function gets beside its arguments, through a parameter annotated `Call`.

    `key` is the idempotency key of this call, if the caller has one; `deadline` is in the event
    loop's time.
    """

    principal: Principal
    services: Services
    key: str | None = None
    deadline: float | None = None
    context: Context | None = None

    async def progress(
        self, done: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell the client how far the call is; nothing happens if it did not ask."""
        if self.context is not None:
            await self.context.report_progress(done, total, message)
        # Without a client that asked nothing above waits: a busy loop would stop the whole server.
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Content:
    """What a resource shows when its media type depends on what is stored."""

    body: str | bytes
    mime_type: str


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    fn: AsyncFunction
    name: str
    verb: Verb
    read_only: bool
    destructive: bool
    egress: bool
    input_schema: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ResourceDeclaration:
    fn: AsyncFunction
    uri: str
    mime_type: str | None
    verb: Verb


@dataclass(frozen=True, slots=True)
class PromptDeclaration:
    fn: AsyncFunction


@dataclass(frozen=True, slots=True)
class CompletionDeclaration:
    fn: AsyncFunction
    ref: str


Declaration = ToolDeclaration | ResourceDeclaration | PromptDeclaration | CompletionDeclaration


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


# What the decorators saw: the functions stay as they are, so that a plugin can call and test them.
_declared: dict[AsyncFunction, list[Declaration]] = {}


def tool(
    name: str | None = None,
    *,
    verb: Verb = "run",
    read_only: bool = False,
    destructive: bool = True,
    egress: bool = False,
    input_schema: dict[str, Any] | None = None,
) -> Callable[[F], F]:
    """Declare an async function as a tool: its docstring and annotations are what a model reads.

    `verb` is what policy asks for; `egress` marks a tool that sends data out of this server;
    `input_schema` replaces the published schema.
    """

    if callable(name):
        raise ConfigurationError(f"{_name(name)}: write @tool() with parentheses")

    def declare(fn: F) -> F:
        own = name or _name(fn)
        return _declare(
            fn,
            ToolDeclaration(fn, own, _verb(fn, verb), read_only, destructive, egress, input_schema),
        )

    return declare


def resource(uri: str, mime_type: str | None = None, verb: Verb = "read") -> Callable[[F], F]:
    """Declare an async function as a resource; `{name}` in the URI becomes the argument `name`."""

    def declare(fn: F) -> F:
        return _declare(fn, ResourceDeclaration(fn, uri, mime_type, _verb(fn, verb)))

    return declare


def prompt() -> Callable[[F], F]:
    """Declare an async function as a prompt named like the function."""

    def declare(fn: F) -> F:
        return _declare(fn, PromptDeclaration(fn))

    return declare


def complete(ref: str) -> Callable[[F], F]:
    """Declare completions for a prompt's name or a resource template.

    The function gets `(argument, context)` as the protocol has them and returns a list of values.
    """

    def declare(fn: F) -> F:
        return _declare(fn, CompletionDeclaration(fn, ref))

    return declare


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
    package = Path(__file__).parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def _load_folder(plugins: Plugins, folder: Path, package: str) -> None:
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        module = _load_file(path, f"{package}.{path.stem}")
        for declaration in _declarations(module):
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


def _declarations(module: ModuleType) -> Iterator[Declaration]:
    for value in vars(module).values():
        # A function that a file imports from another one is declared there.
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            yield from _declared.get(value, ())


def _declare(fn: F, declaration: Declaration) -> F:
    _declared.setdefault(fn, []).append(declaration)
    return fn


def _name(fn: AsyncFunction) -> str:
    return getattr(fn, "__name__", "") or repr(fn)


def _verb(fn: AsyncFunction, verb: str) -> Verb:
    for known in VERBS:
        if verb == known:
            return known
    raise ConfigurationError(f"{_name(fn)}: verb {verb!r} is not one of {', '.join(VERBS)}")


def _refuse_duplicates(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{what} {name!r} is declared by two plugin files; rename one")
