"""A run as a task of the MCP Tasks extension: pure functions from what a run shows to the wire's shapes."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from mcp_server.elicitation.forms import elicitation, questions
from mcp_server.long_tools import tool_result
from mcp_server.services.run_results import RESPONSE_KIND, RunItem, RunProgress, RunResult

# https://github.com/modelcontextprotocol/ext-tasks, specification/draft/tasks.md (SEP-2663)
EXTENSION = "io.modelcontextprotocol/tasks"

TaskStatus: TypeAlias = Literal["working", "input_required", "completed", "failed", "cancelled"]
Task: TypeAlias = dict[str, Any]

INTERNAL_ERROR = -32603  # JSON-RPC 2.0
POLL_INTERVAL_MS = 1000

# Kinds of run whose output is what a model said.
_ANSWERING = frozenset({"agent", RESPONSE_KIND})

_STATUS: dict[str, TaskStatus] = {
    "queued": "working",
    "running": "working",
    "input_required": "input_required",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "failed",
}


def show_task(run: RunItem) -> Task:
    """Return the task with what its status carries: `inputRequests`, `result` or `error`."""
    task = _plain_task(run)
    match task["status"]:
        case "input_required":
            asked = [] if run["request"] is None else questions(run["request"])
            task["inputRequests"] = {item.key: elicitation(item) for item in asked}
        case "completed":
            task["result"] = _call_result(run)
        case "failed":
            task["error"] = _error(run)
        case _:
            pass
    return task


def show_created(run: RunItem) -> Task:
    """Return the answer to a call that became a task: its seed, marked as one."""
    return {"resultType": "task", **_plain_task(run)}


def _plain_task(run: RunItem) -> Task:
    task: Task = {
        "taskId": run["run"],
        "status": _status(run),
        "createdAt": run["created_at"],
        "lastUpdatedAt": run["updated_at"] or run["created_at"],
        "ttlMs": _ttl_ms(run),
        "pollIntervalMs": POLL_INTERVAL_MS,
    }
    message = _status_message(run)
    return task if message is None else task | {"statusMessage": message}


def _status(run: RunItem) -> TaskStatus:
    """Map the status; a model that failed has an answer all the same: the result of its call says so."""
    if run["status"] == "failed" and run["kind"] in _ANSWERING:
        return "completed"
    return _STATUS[run["status"]]


def _ttl_ms(run: RunItem) -> int | None:
    """Return how long after its creation the run may be gone; None while no end is set.

    A live run is never deleted; how long an ended one is kept is known only at its end.
    """
    gone_at = run["expires_at"] if run["ended_at"] is None else run["kept_until"]
    if gone_at is None or run["created_at"] is None:
        return None
    lifetime = datetime.fromisoformat(gone_at) - datetime.fromisoformat(run["created_at"])
    return max(math.ceil(lifetime / timedelta(milliseconds=1)), 1)


def _status_message(run: RunItem) -> str | None:
    if run["request"] is not None:
        return run["request"]["message"]
    if run["error"] is not None:
        return run["error"]["message"]
    if run["status"] == "running" and run["progress"] is not None:
        return _progress_message(run["progress"])
    return None


def _progress_message(progress: RunProgress) -> str:
    done, total, said = progress["done"], progress["total"], progress["message"]
    figures = f"{done:g}" if total is None else f"{done:g} of {total:g}"
    return figures if said is None else f"{figures}: {said}"


def _error(run: RunItem) -> dict[str, Any]:
    if run["error"] is None:
        code, message = run["status"], f"the run {run['status']} before it could answer"
    else:
        code, message = run["error"]["code"], run["error"]["message"]
    return {"code": INTERNAL_ERROR, "message": f"{code}: {message}", "data": {"code": code}}


def _call_result(run: RunItem) -> dict[str, Any]:
    """Return what the call would have answered if it had waited for the run's end."""
    if run["kind"] in _ANSWERING:
        shown = RunResult(
            run=run["run"], status=run["status"], output=run["output"], error=run["error"]
        )
        text = json.dumps(shown, ensure_ascii=False)
        return {
            "resultType": "complete",
            "content": [{"type": "text", "text": text}],
            "structuredContent": shown,
            "isError": False,
        }
    return tool_result(run).model_dump(by_alias=True, mode="json", exclude_none=True)
