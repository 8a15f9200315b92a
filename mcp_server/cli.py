"""The `isthmus` command: argument parsing only."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mcp_server import __version__
from mcp_server.errors import AppError, ConfigurationError

if TYPE_CHECKING:
    from mcp_server.settings import Settings

DONE, FAILED, WRONG_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage or configuration."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(_run(options))
    except ConfigurationError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE)
    except AppError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        sys.exit(WRONG_USAGE if error.status == 400 else FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(options: argparse.Namespace) -> int:
    from mcp_server.settings import load_settings

    settings = load_settings(
        options.config,
        **{name: getattr(options, name, None) for name in ("host", "port", "data_dir")},
        plugins=tuple(options.plugins) if getattr(options, "plugins", None) else None,
    )
    if options.command == "install":
        from mcp_server.commands.install import install

        return install(options.client, settings.data_dir, dry_run=options.dry_run)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_command(settings, options))


def _command(settings: Settings, options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Return the command's coroutine; each imports what it needs, for clients start `stdio` anew each time."""
    match options.command:
        case "serve":
            from mcp_server.commands.serve import serve

            return serve(settings, options.role)
        case "stdio":
            from mcp_server.commands.stdio import stdio

            return stdio(settings)
        case "worker":
            from mcp_server.commands.worker import worker

            return worker(settings, options.concurrency)
        case "demo":
            from mcp_server.commands.demo import demo

            return demo(settings, url=options.url, key=options.key)
        case _:
            return _upkeep(settings, options)


def _upkeep(settings: Settings, options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Return the coroutine of a command for operators: it ends by itself."""
    match options.command:
        case "keys":
            from mcp_server.commands import keys

            return keys.run(settings, options)
        case "migrate":
            from mcp_server.commands.migrate import migrate

            return migrate(settings)
        case "export" | "import":
            from mcp_server.commands import moves

            move = moves.export if options.command == "export" else moves.import_
            return move(settings, options.directory.resolve(), as_json=options.json)
        case "agents":
            from mcp_server.commands import agents

            return agents.run(settings, options)
        case "tenants":
            from mcp_server.commands import tenants

            return tenants.run(settings, options)
        case "doctor":
            from mcp_server.commands.doctor import doctor, prove_erasure

            if options.erasure is not None:
                return prove_erasure(settings, options.erasure, as_json=options.json)
            return doctor(settings, as_json=options.json)
        case _:
            from mcp_server.commands.policy import explain

            return explain(settings, options)


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="isthmus",
        description="One durable backend - SQL, key-value, objects, vectors, agents - for every MCP client and OpenAI SDK.",
    )
    parser.add_argument("--version", action="version", version=f"isthmus {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the embedded engines keep everything"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    stdio = commands.add_parser("stdio", help="serve MCP over stdin and stdout, as the local owner")
    _add_config(stdio)
    _add_plugins(stdio)
    _add_worker(commands)
    demo = commands.add_parser(
        "demo", help="a tour over real data, on a server of its own or a running one"
    )
    demo.add_argument("--url", help="a running server; without it the demo starts its own")
    demo.add_argument("--key", help="the key for --url")
    _add_keys(commands)
    _add_agents(commands)
    _add_tenants(commands)
    _add_moves(commands)
    commands.add_parser("migrate", help="bring the control database to this version")
    doctor = commands.add_parser("doctor", help="ask every engine whether it is well")
    doctor.add_argument(
        "--erasure", metavar="TENANT", help="prove that nothing of an erased tenant is left"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    _add_policy(commands)
    install = commands.add_parser(
        "install", help="add this server to an MCP client's configuration"
    )
    install.add_argument("client", choices=["claude-code", "claude-desktop", "cursor", "vscode"])
    install.add_argument(
        "--dry-run", action="store_true", help="print the change instead of making it"
    )
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="serve MCP and OpenAI over HTTP")
    serve.add_argument("--host", help="address to listen on [127.0.0.1]")
    serve.add_argument("--port", type=int, help="port to listen on, 0 for a free one [8321]")
    serve.add_argument(
        "--role",
        choices=["all", "mcp", "openai"],
        default="all",
        help="which doors to open; mcp executes no runs and leaves them to `isthmus worker` [all]",
    )
    _add_config(serve)
    _add_plugins(serve)


def _add_worker(commands: Any) -> None:
    worker = commands.add_parser(
        "worker",
        help="execute runs, and serve nothing",
        description="Execute runs - agents and long tools - of the same data as the servers beside it, until SIGTERM.",
    )
    worker.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="runs at once, 1-256 [ISTHMUS_RUN_CONCURRENCY, 8]",
    )
    _add_config(worker)
    _add_plugins(worker)


def _add_config(command: argparse.ArgumentParser) -> None:
    # Also accepted after the command: that is where people write it.
    command.add_argument(
        "--config", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=argparse.SUPPRESS
    )


def _add_plugins(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plugins",
        action="append",
        type=Path,
        metavar="DIR",
        help="folder with tools/, resources/ and prompts/ of your own; may be repeated",
    )


def _add_keys(commands: Any) -> None:
    keys = commands.add_parser("keys", help="create, list and revoke keys").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    create = keys.add_parser("create", help="make a key and show it once")
    create.add_argument("name")
    create.add_argument("--tenant", default="default", help="whose data the key opens [default]")
    create.add_argument("--user", help="who acts with it [the key's name]")
    create.add_argument(
        "--scope",
        action="append",
        default=[],
        metavar="S",
        help="VERB or VERB:URI-PREFIX*; may be repeated [read write run]",
    )
    create.add_argument("--expires", type=float, metavar="DAYS", help="days until it ends [never]")
    create.add_argument("--rate-limit", metavar="N/minute", help="requests per window [none]")
    listing = keys.add_parser("list", help="show the keys, without their secrets")
    revoke = keys.add_parser("revoke", help="end a key now")
    revoke.add_argument("id")
    usage = keys.add_parser("usage", help="show what each key asked of each model, by day")
    usage.add_argument("--days", type=int, default=30, help="so many days, today included [30]")
    usage.add_argument("--key", metavar="ID", help="of this key only")
    for command in (create, listing, revoke, usage):
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_agents(commands: Any) -> None:
    agents = commands.add_parser("agents", help="agents as YAML files").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    export = agents.add_parser("export", help="write definitions, one YAML document for each")
    export.add_argument("names", nargs="*", metavar="NAME", help="these only [all]")
    export.add_argument(
        "--output", default="-", metavar="DIR|-", help="a file NAME.yaml for each there [stdout]"
    )
    apply = agents.add_parser("apply", help="save the definitions of files, all or none")
    apply.add_argument(
        "paths", nargs="+", type=Path, metavar="FILE_OR_DIR", help="of a folder, *.yaml and *.yml"
    )
    apply.add_argument(
        "--dry-run", action="store_true", help="check and tell what would change; save nothing"
    )
    apply.add_argument("--json", action="store_true", help="print JSON")
    for command in (export, apply):
        command.add_argument("--tenant", default="default", help="whose agents [default]")
        _add_config(command)
        _add_plugins(command)


def _add_tenants(commands: Any) -> None:
    tenants = commands.add_parser("tenants", help="list and erase tenants").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    listing = tenants.add_parser("list", help="show the tenants")
    delete = tenants.add_parser("delete", help="erase a tenant with all its data, for ever")
    delete.add_argument("name")
    delete.add_argument("--yes", action="store_true", help="really do it")
    for command in (listing, delete):
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_moves(commands: Any) -> None:
    for name, what in (
        ("export", "write everything, at one moment, into a directory; begun again, it goes on"),
        ("import", "read an export into a fresh deployment; begun again, it goes on"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("directory", type=Path, metavar="DIR")
        command.add_argument("--json", action="store_true", help="print JSON")
        _add_config(command)


def _add_policy(commands: Any) -> None:
    policy = commands.add_parser("policy", help="explain decisions").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    explain = policy.add_parser("explain", help="say whether a key may do something, and why")
    explain.add_argument("key_id")
    explain.add_argument("verb", choices=["read", "write", "run", "admin"])
    explain.add_argument("uri")
    explain.add_argument("--json", action="store_true", help="print JSON")


if __name__ == "__main__":
    main()
