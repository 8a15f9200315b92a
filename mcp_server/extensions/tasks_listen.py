"""Task notifications: a stream that names tasks hears of each change of them, whichever process makes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    Notification,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsListenRequestParams,
)

from mcp_server.auth.principal import Principal, current_principal
from mcp_server.errors import Forbidden, InvalidInput, LimitExceeded, NotFound
from mcp_server.extensions.tasks import require_tasks
from mcp_server.extensions.tasks_wire import Task, show_task
from mcp_server.limits import Share
from mcp_server.operation import Operations
from mcp_server.server import IsthmusServer
from mcp_server.services.run_results import RunItem
from mcp_server.services.runs import RunService

logger = logging.getLogger(__name__)

RequestContext: TypeAlias = ServerRequestContext[Any, Any]
MOST_TASKS = 1024
# In all streams of a key together, in one process.
MOST_TASKS_PER_KEY = 8192
# A run may tell its progress far more often than anybody wants to read it.
PROGRESS_SECONDS = 1.0
_METHOD = "subscriptions/listen"


class TaskNotification(Notification[dict[str, Any], Literal["notifications/tasks"]]):
    """A task as `tasks/get` would show it now."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


def serve_task_notifications(
    server: IsthmusServer, operation: Operations, runs: RunService
) -> None:
    """Serve `taskIds` in subscriptions/listen, beside what is served there already."""
    lowlevel = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  the SDK has no public door for it
    inner = lowlevel.get_request_handler(_METHOD)
    if inner is None:
        raise RuntimeError(f"{_METHOD} is not served yet")
    share = Share(MOST_TASKS_PER_KEY, f"watch {MOST_TASKS_PER_KEY} tasks")

    async def listen(
        ctx: RequestContext, params: SubscriptionsListenRequestParams
    ) -> HandlerResult:
        wanted = (params.notifications.model_extra or {}).get("taskIds")
        if wanted is None:
            return await inner.handler(ctx, params)
        principal = current_principal()
        await operation.meter(principal)
        require_tasks(ctx)
        watched = await _watchable(runs, principal, _task_ids(wanted))
        give_back = share.take(principal, len(watched))
        stream = _Stream(ctx, [run["run"] for run in watched])
        telling = [
            asyncio.create_task(_tell(runs, principal, run, stream), name=f"task {run['run']}")
            for run in watched
        ]
        try:
            return await inner.handler(replace(ctx, session=cast("Any", stream)), params)
        finally:
            give_back()
            for task in telling:
                task.cancel()
            await asyncio.gather(*telling, return_exceptions=True)

    lowlevel.add_request_handler(_METHOD, SubscriptionsListenRequestParams, listen)


def _task_ids(wanted: Any) -> list[str]:
    """Check what a client sent.

    Raises:
        InvalidInput: it is no list of texts. LimitExceeded: it has more than 1,024.
    """
    items = cast("list[Any]", wanted) if isinstance(wanted, list) else [wanted]
    if not isinstance(wanted, list) or not all(isinstance(item, str) for item in items):
        raise InvalidInput("taskIds: send a list of the ids of tasks", param="taskIds")
    if len(items) > MOST_TASKS:
        raise LimitExceeded(f"taskIds: one stream may watch {MOST_TASKS} tasks; open another")
    return list(dict.fromkeys(items))


async def _watchable(runs: RunService, principal: Principal, tasks: list[str]) -> list[RunItem]:
    """Return the tasks that there are for this caller; the others are not acknowledged."""
    found: list[RunItem] = []
    for task in tasks:
        try:
            found.append(await runs.get(principal, task))
        except (NotFound, Forbidden):
            continue
    return found


class _Stream:
    """The listen stream's session: adds the tasks to the acknowledgement, and sends their notifications."""

    def __init__(self, ctx: RequestContext, tasks: list[str]) -> None:
        self._session = ctx.session
        self._id = ctx.request_id
        self._tasks = tasks
        self.acknowledged = asyncio.Event()

    async def send_notification(
        self, notification: Any, related_request_id: str | int | None = None
    ) -> None:
        """Pass a notification of the SDK's handler on: it acknowledges before it sends anything else."""
        if isinstance(notification, SubscriptionsAcknowledgedNotification):
            honored = notification.params.notifications
            shown = honored.model_copy(update={"taskIds": self._tasks})
            params = notification.params.model_copy(update={"notifications": shown})
            notification = notification.model_copy(update={"params": params})
        await self._session.send_notification(notification, related_request_id=related_request_id)
        self.acknowledged.set()

    async def send_task(self, task: Task) -> None:
        params = {**task, "_meta": {SUBSCRIPTION_ID_META_KEY: self._id}}
        notification: Any = TaskNotification(params=params)
        await self._session.send_notification(notification, related_request_id=self._id)


async def _tell(runs: RunService, principal: Principal, run: RunItem, stream: _Stream) -> None:
    """Send the task as it is now, then each change of it, until it has ended or is gone."""
    await stream.acknowledged.wait()
    task = show_task(run)
    try:
        await stream.send_task(task)
        following = runs.follow(principal, run["run"], run["last_event"])
        async with aclosing(following) as events, aclosing(_changes(events)) as changes:
            async for _ in changes:
                now = show_task(await runs.get(principal, run["run"]))
                if _lasting(now) != _lasting(task):
                    task = now
                    await stream.send_task(task)
    except NotFound:  # its time to live is over
        return
    except Exception:  # the others on this stream are told all the same
        logger.exception("task %s: its changes could not be told", run["run"])


async def _changes(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[None, None]:
    """Yield when a task may look different: at once, or a while after the last time if it only got on."""
    clock = asyncio.get_running_loop().time
    told_at, held = clock(), False
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            left = max(told_at + PROGRESS_SECONDS - clock(), 0) if held else None
            await asyncio.wait({upcoming}, timeout=left)
            kind = None
            if upcoming.done():
                event = upcoming.result()
                if event is None:
                    return
                kind = event["type"]
                upcoming = asyncio.ensure_future(anext(events, None))
            held = held or kind == "progress"
            if kind in {"status", "input"} or (held and clock() >= told_at + PROGRESS_SECONDS):
                told_at, held = clock(), False
                yield
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)


def _lasting(task: Task) -> Task:
    """Return the task without the time, which changes when nothing else does."""
    return {name: value for name, value in task.items() if name != "lastUpdatedAt"}
