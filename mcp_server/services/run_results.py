"""How a run is shown: the same shape at every door."""

from __future__ import annotations

from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

from mcp_server.runs.record import Run
from mcp_server.timestamps import iso_or_none

TOOL_KIND = "tool/"
RESPONSE_KIND = "response"
INGESTION_KIND = "ingestion"
BATCH_KIND = "batch"


class RunError(TypedDict):
    """Why a run failed: one of the contract's error codes (or `internal`, `unsure`), and the reason."""

    code: str
    message: str


class RunPart(TypedDict):
    """One of several things that a run asks at once."""

    message: str
    schema: dict[str, Any] | None
    answered: bool


class RunCall(TypedDict):
    """The call of a tool that an approval is about; `arguments` is the JSON text that the model wrote."""

    name: str
    arguments: str


class RunPreview(TypedDict):
    """What a call that waits for approval would do, as far as the run may see it.

    `shows` is `change`: `result` is what the tool itself says it would do; or `current`: `result` is what
    is there now, None if nothing is. If it is `cut`, `result` is the beginning of its JSON. `unavailable`
    says instead why there is no preview this time.
    """

    shows: NotRequired[str]
    result: NotRequired[Any]
    cut: NotRequired[bool]
    unavailable: NotRequired[str]


class RunChild(TypedDict):
    """A question that the run of a sub-agent asks, and that may be answered there as well."""

    run: str
    request: str


class RunRequest(TypedDict):
    """What a run waits for: an answer to `message` that fits `schema` (JSON Schema 2020-12).

    `kind` is `question` or `approval`; an approval is answered by `{"approved": bool, "reason"?: str}`.
    `parts` are there if several things are asked at once; the answer is an object with one value for each.
    `call` is there if the approval is about a call of a tool, and `preview` if its tool can tell what
    it would do. `child` is there if it is a sub-agent's run that asks.
    """

    id: str
    kind: str
    message: str
    schema: dict[str, Any] | None
    parts: NotRequired[dict[str, RunPart]]
    call: NotRequired[RunCall]
    preview: NotRequired[RunPreview]
    child: NotRequired[RunChild]


class RunProgress(TypedDict):
    """How far a run is, in units of its own choice."""

    done: float
    total: float | None
    message: str | None


class RunSummary(TypedDict):
    """One run without its output; times are ISO 8601 in UTC.

    `kind` is `agent` or `tool`, and `agent` or `tool` its name; or `response`,
    `batch`, or `ingestion` of files into a vector store. `parent` is the run that began it, and
    `conversation` the id of the one that it goes on with. `attempt` counts the workers that took it,
    `retries` how often it failed and was tried again; `dead_letter` marks one that used them up.
    `last_event` is the number of its newest event, and `updated_at` its time, which lists leave out.
    A live run expires at `expires_at`, an ended one is deleted after `kept_until`.
    """

    run: str
    status: str
    error: RunError | None
    kind: str
    agent: str | None
    tool: str | None
    parent: str | None
    conversation: str | None
    attempt: int
    retries: int
    dead_letter: bool
    request: RunRequest | None
    progress: RunProgress | None
    created_at: str | None
    started_at: str | None
    updated_at: str | None
    ended_at: str | None
    expires_at: str | None
    kept_until: str | None
    usage: dict[str, Any] | None
    last_event: int


class RunItem(RunSummary):
    """One run. `output` of an agent is its text, also what there is of it after a failure.

    Of a tool it is the tool's result: `{text, structured, is_error}`.
    """

    agent_version: int | None
    output: Any


class RunResult(TypedDict):
    """What became of an agent's run."""

    run: str
    status: str
    output: str | None
    error: RunError | None


class RunPage(TypedDict):
    items: list[RunSummary]
    next_cursor: str | None


class RunEvents(TypedDict):
    """Events, each with its number `seq`; ask again with `after = next_after`.

    `status` is the run's own: once it is an end and no event comes, none ever will.
    """

    items: list[dict[str, Any]]
    next_after: int
    status: str


class RunRecord(RunItem):
    """A run with its newest events; the first of them has the number `first_event`."""

    events: list[dict[str, Any]]
    first_event: int


def run_summary(run: Run) -> RunSummary:
    """Show one row without its output."""
    error, request, progress = run.error, run.request, run.progress
    kind, _, tool = run.kind.partition("/")
    return RunSummary(
        run=run.id,
        status=run.status,
        error=None if error is None else RunError(code=error["code"], message=error["message"]),
        kind=kind,
        agent=run.agent,
        tool=tool or None,
        parent=_parent(run),
        conversation=run.conversation,
        attempt=run.attempt,
        retries=run.retries,
        dead_letter=run.dead_letter,
        request=None if request is None else _request(request),
        progress=None if progress is None else _progress(progress),
        created_at=iso_or_none(run.created_at),
        started_at=iso_or_none(run.started_at),
        updated_at=iso_or_none(run.ended_at or run.updated_at),
        ended_at=iso_or_none(run.ended_at),
        expires_at=iso_or_none(run.expires_at),
        kept_until=iso_or_none(run.purge_at),
        usage=run.usage,
        last_event=run.last_seq,
    )


def run_item(run: Run) -> RunItem:
    """Show one row."""
    definition: dict[str, Any] = run.definition or {}
    return RunItem(**run_summary(run), agent_version=definition.get("version"), output=run.output)


def _parent(run: Run) -> str | None:
    begun_by = run.origin or ""
    return begun_by.removeprefix("run://") if begun_by.startswith("run://") else None


def _request(request: dict[str, Any]) -> RunRequest:
    shown = RunRequest(
        id=request["id"],
        kind=request["kind"],
        message=request["message"],
        schema=request.get("schema"),
    )
    call = request.get("call")
    if call is not None:
        shown["call"] = RunCall(name=call["name"], arguments=call["arguments"])
    if "preview" in request:
        shown["preview"] = cast("RunPreview", request["preview"])
    child = request.get("child")
    if child is not None:
        shown["child"] = RunChild(run=child["run"], request=child["request"])
    answers: dict[str, Any] = request.get("answers", {})
    parts: dict[str, Any] = request.get("parts", {})
    if parts:
        shown["parts"] = {
            name: RunPart(message=part["message"], schema=part["schema"], answered=name in answers)
            for name, part in parts.items()
        }
    return shown


def _progress(progress: dict[str, Any]) -> RunProgress:
    return RunProgress(
        done=progress["done"], total=progress.get("total"), message=progress.get("message")
    )
