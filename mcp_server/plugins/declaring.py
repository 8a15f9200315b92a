"""What a plugin file declares: tools, resources, prompts and completions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, Literal, TypeVar

from mcp_server.errors import ConfigurationError
from mcp_server.policy import VERBS, Verb

AsyncFunction = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=AsyncFunction)
Unsure = Literal["fail", "retry"]


@dataclass(frozen=True, slots=True)
class Preview:
    """How to tell what a call of a tool would do, without an effect: the call of a tool that tells it.

    With `tool`, a read-only tool shows what is there now; it gets those of the call's arguments that are
    `same`. Without, the tool itself is called with all of them and those `given`, which keep it from
    taking effect. A call with an argument of `unless` is not previewed.
    """

    tool: str | None = None
    same: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolDeclaration:
    fn: AsyncFunction
    name: str
    verb: Verb
    read_only: bool
    destructive: bool
    egress: bool
    input_schema: dict[str, Any] | None
    long: bool = False
    idempotent: bool = True
    unsure: Unsure = "fail"
    starts_run: bool = False
    preview: Preview | None = None


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
    long: bool = False,
    idempotent: bool = True,
    unsure: Unsure = "fail",
    starts_run: bool = False,
    preview: Preview | None = None,
) -> Callable[[F], F]:
    """Declare an async function as a tool: its docstring and annotations are what a model reads.

    `verb` is what policy asks for; `egress` marks a tool that sends data out of this server;
    `input_schema` replaces the published schema.

    A `long` tool works in a durable run: it survives its process, and is then called again from its
    beginning with the same key. One that is not `idempotent` - it does not heed that key - is not
    called again once it began: its run ends as `unsure`, or is done again if `unsure` is `retry`.

    A tool that `starts_run` returns `{run, status, …}` of a run that goes on after it; a client of the
    Tasks extension gets that run as a task.

    `preview` tells how a person who is asked to approve a call can be shown what it would do.
    """

    if callable(name):
        raise ConfigurationError(f"{_name(name)}: write @tool() with parentheses")

    def declare(fn: F) -> F:
        own = name or _name(fn)
        return _declare(
            fn,
            ToolDeclaration(
                fn,
                own,
                _verb(fn, verb),
                read_only,
                destructive,
                egress,
                input_schema,
                long,
                idempotent,
                unsure,
                starts_run,
                preview,
            ),
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

    The function gets `(argument, context)` as the protocol has them, and a parameter annotated `Call` the
    caller's call; it returns a list of values.
    """

    def declare(fn: F) -> F:
        return _declare(fn, CompletionDeclaration(fn, ref))

    return declare


def declarations(module: ModuleType) -> Iterator[Declaration]:
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
