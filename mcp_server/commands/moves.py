"""`isthmus export` and `isthmus import`: a run that this process executes, and its progress."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcp_server import journal
from mcp_server.auth.principal import OWNER
from mcp_server.engines import Engines, open_engines
from mcp_server.errors import AppError, Conflict, InvalidInput, Unavailable
from mcp_server.runs.context import Work
from mcp_server.runs.following import Following, open_following
from mcp_server.runs.record import Run, new_run_id
from mcp_server.runs.stores import Stores
from mcp_server.runs.worker import open_worker
from mcp_server.secret import derive, server_secret
from mcp_server.services.moves import exporting, importing
from mcp_server.services.run_engine import run_stores
from mcp_server.settings import Settings
from mcp_server.storage.sql.owner import Owner

_BAR = 24
# What a work raises comes back from its run as a code.
_ERRORS: dict[str, type[AppError]] = {
    kind.code: kind for kind in (Conflict, InvalidInput, Unavailable)
}


@dataclass(frozen=True, slots=True)
class _Open:
    engines: Engines
    owner: Owner
    stores: Stores
    following: Following


async def export(settings: Settings, directory: Path, *, as_json: bool) -> int:
    """Write everything at one position of the journal into a directory; print what it holds."""

    def work(opened: _Open) -> Work:
        engines = opened.engines
        return exporting.Exporting(
            *(engines.control, opened.owner, engines.sql.url, engines.blobs, engines.vectors),
            settings.sql_timeout_seconds,
        )

    return await _move(settings, directory, "export", work, as_json=as_json)


async def import_(settings: Settings, directory: Path, *, as_json: bool) -> int:
    """Read an export into a fresh deployment; print what was in it."""

    def work(opened: _Open) -> Work:
        engines = opened.engines
        return importing.Importing(
            *(engines.control, opened.owner, engines.sql.url, engines.blobs, engines.vectors)
        )

    return await _move(settings, directory, "import", work, as_json=as_json)


async def _move(
    settings: Settings,
    directory: Path,
    kind: Literal["export", "import"],
    work: Callable[[_Open], Work],
    *,
    as_json: bool,
) -> int:
    bar = _Bar(kind)
    async with _opened(settings) as opened:
        run = await _run_of(opened, kind, directory)
        works = {kind: work(opened)}
        wake = opened.engines.wake
        async with open_worker(opened.stores, works, wake, concurrency=1):
            async for event in opened.following.follow(run.id):
                bar.tell(event)
        ended = await opened.stores.queue.load(run.tenant, run.id)
    bar.close()
    assert ended is not None, "it was followed to its end"  # noqa: S101
    if ended.status != "completed":
        raise _error(ended)
    if as_json:
        print(json.dumps({"run": run.id, **ended.output}))
    else:
        print(f"{kind}ed: " + ", ".join(f"{value} {name}" for name, value in ended.output.items()))
    return 0


async def _run_of(opened: _Open, kind: str, directory: Path) -> Run:
    """Return the run that an interrupted command left, or a new one."""
    run, _ = await opened.stores.queue.create(
        Run(
            id=new_run_id(),
            tenant=OWNER.tenant,
            subject=OWNER.subject,
            key_id=None,
            grant=OWNER.scopes,
            kind=kind,
            input={"directory": str(directory)},
            dedupe_key=f"{kind} {directory}",
        )
    )
    return run


def _error(ended: Run) -> AppError:
    """Return why a run did not complete, as the error that it was."""
    error = ended.error or {}
    return _ERRORS.get(error.get("code", ""), AppError)(
        f"{ended.kind} {ended.status}: {error.get('message', 'no reason is stored')}"
    )


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[_Open]:
    async with AsyncExitStack() as stack:
        secret = derive(server_secret(settings), "sql roles")
        engines = await stack.enter_async_context(open_engines(settings, secret))
        await stack.enter_async_context(
            journal.keeping_partitions(engines.control, settings.journal_days)
        )
        owner = Owner(engines.sql.url, secret)
        stack.push_async_callback(owner.aclose)
        stores = run_stores(engines.runs, engines.heartbeat)
        following = await stack.enter_async_context(open_following(stores.events, engines.wake))
        yield _Open(engines, owner, stores, following)


class _Bar:
    """Progress on a terminal as a bar, elsewhere a line for each part."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._live = sys.stderr.isatty()
        self._last = ""

    def tell(self, event: dict[str, Any]) -> None:
        if event["type"] != "progress":
            return
        message = str(event["message"])
        if self._live:
            print(
                f"\r\x1b[K{self._kind} {_drawn(event)} {message}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif message != self._last:
            print(f"{self._kind}: {message}", file=sys.stderr, flush=True)
        self._last = message

    def close(self) -> None:
        if self._live and self._last:
            print(file=sys.stderr)


def _drawn(event: dict[str, Any]) -> str:
    done, total = event["done"], event["total"]
    if not total:
        return "[" + " " * _BAR + "]"
    part = min(1.0, done / total)
    return f"[{'#' * round(part * _BAR):{_BAR}}] {part:4.0%}"
