"""How the trace of a run is shown."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from mcp_server.services.run_results import RunCall, RunError


class TraceStep(TypedDict):
    """One thing that a run did, or that became of it; times are ISO 8601, `seconds` between them.

    `kind` says which further fields there are, and what is not over has no `ended_at`:

    - `attempt`: `worker` had the run until its status became `ended_as`; `queue_seconds` before it.
    - `turn`: the model was asked with `messages` messages; `usage` is what it reports, `cost` in USD.
      `first_seconds` went by until its first words.
    - `compaction`: before turn `turn`, `messages` messages became the summary `result`.
    - `call`: the tool `name` was called. `ended_in` is the attempt that got its result, if another one.
    - `question`, `approval`: the run asked `message`, of an approval about `about`; `by` answered.

    `interrupted` is there if it broke off: its attempt, or the run, ended in the middle of it.
    Fields named in the server's RUN_REDACT are redacted, and long texts cut.
    """

    kind: Literal["attempt", "turn", "compaction", "call", "question", "approval"]
    event: int
    attempt: int
    started_at: str
    ended_at: str | None
    seconds: float | None
    interrupted: NotRequired[bool]
    worker: NotRequired[str | None]
    queue_seconds: NotRequired[float]
    ended_as: NotRequired[str]
    error: NotRequired[RunError]
    turn: NotRequired[int]
    messages: NotRequired[int]
    first_seconds: NotRequired[float]
    finish_reason: NotRequired[str]
    usage: NotRequired[dict[str, Any]]
    cost: NotRequired[float | None]
    call: NotRequired[str]
    name: NotRequired[str]
    arguments: NotRequired[str]
    result: NotRequired[str]
    is_error: NotRequired[bool]
    ended_in: NotRequired[int]
    request: NotRequired[str]
    message: NotRequired[str]
    about: NotRequired[RunCall]
    answer: NotRequired[Any]
    by: NotRequired[str | None]


class TraceMessage(TypedDict):
    role: str
    content: str


class TracePrompt(TypedDict):
    """What an agent was asked: its instructions, and the newest of `total` messages of its input."""

    instructions: str
    messages: list[TraceMessage]
    total: int


class TraceChild(TypedDict):
    """A run that the run began."""

    run: str
    kind: str
    agent: str | None
    status: str
    created_at: str
    ended_at: str | None
    usage: dict[str, Any] | None


class RunTrace(TypedDict):
    """What a run did, step by step, in the order in which the steps began.

    `seconds` is from its creation to its end, `queue_seconds` until its first attempt. `parent` is the
    run that began it; `origin` the schedule or trigger. `prompt` is there for agents, `arguments` for
    tools. `children` are the first hundred; `children_left_out` tells that there are more.
    `trace_id` is its trace in OpenTelemetry.
    """

    run: str
    trace_id: str
    status: str
    kind: str
    agent: str | None
    agent_version: int | None
    tool: str | None
    parent: str | None
    origin: str | None
    attempts: int
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    seconds: float | None
    queue_seconds: float | None
    error: RunError | None
    usage: dict[str, Any] | None
    prompt: TracePrompt | None
    arguments: str | None
    children: list[TraceChild]
    children_left_out: bool
    steps: list[TraceStep]
    next_cursor: str | None
