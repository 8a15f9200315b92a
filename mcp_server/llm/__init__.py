"""What a language model is to the rest of the server: OpenAI chat-completions bodies in and out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mcp_server.errors import AppError, Timeout

ChatRequest: TypeAlias = dict[str, Any]
"""The body of `POST /v1/chat/completions`: model, messages, tools, tool_choice, ...; fields unknown here pass on."""

Completion: TypeAlias = dict[str, Any]
"""A whole `chat.completion` object."""

Chunk: TypeAlias = dict[str, Any]
"""One `chat.completion.chunk` object."""


OPENAI = "openai"
"""The `provider` of a model that says none: whoever it is, it speaks OpenAI's protocol."""


class Model(Protocol):
    """Answers chat requests whose `model` field already holds the id that this model knows.

    An implementation must not change the request it is given, must raise only `AppError` for
    what can be anticipated (`UpstreamError` when the model itself refused), and must stop
    working within one token or one prefill batch when its caller is cancelled.
    """

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer in one `chat.completion` object; `stream` and `stream_options` must be ignored."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer in `chat.completion.chunk` objects, each as soon as it exists.

        It must raise before the first chunk if the model refuses, must end each choice with a
        `finish_reason` or raise, and must yield a last chunk with `choices: []` and `usage` if and
        only if `stream_options.include_usage` is set. `aclose()` must free what the answer held.
        """
        ...


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """One place that may answer for a model; `state` is its circuit: closed (well), open or half_open."""

    upstream: str
    model: str
    weight: float
    healthy: bool
    state: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be asked: `capabilities` is a part of chat, tools, json_schema, embeddings.

    A model of the operator's making has `targets`, and `fallbacks` in the order in which they are asked.
    """

    id: str
    upstream: str
    capabilities: tuple[str, ...]
    healthy: bool
    default: bool = False
    targets: tuple[TargetInfo, ...] = ()
    fallbacks: tuple[str, ...] = ()
    context_fallbacks: tuple[str, ...] = ()


class Upstream(Model, Protocol):
    """A place that serves one or more models; neither name nor description may hold a secret."""

    @property
    def name(self) -> str:
        """What tells it from the other upstreams."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what answers, or how to mend that nothing does."""
        ...

    async def models(self) -> list[ModelInfo]:
        """List what it serves, its default first; must raise `AppError` if that cannot be known."""
        ...

    def warm(self) -> None:
        """Begin to load what the first answer would wait for; must return at once."""
        ...


class TookTooLong(Timeout):
    """The answer came, but had no end within its time: that says nothing of who answered."""


class UpstreamError(AppError):
    """A model refused: `status` is the HTTP status and `body` OpenAI's error object of the refusal.

    `body` always holds the keys message, type, param and code, so that a door may pass it on as
    `{"error": body}`. `upstream` names who refused. `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        body: Mapping[str, Any],
        *,
        upstream: str,
        retry_after: float | None = None,
    ) -> None:
        full = {"message": "", "type": _type_of(status), "param": None, "code": None, **body}
        message = str(full["message"] or f"The model at {upstream} answered with status {status}.")
        param = full["param"]
        super().__init__(message, param=param if isinstance(param, str) else None)
        self.status = status
        self.code = _CODES.get(status, "unavailable" if status >= 500 else "invalid_input")
        self.retryable = status in {408, 409, 429} or status >= 500
        self.body: dict[str, Any] = {**full, "message": message}
        self.upstream = upstream
        self.retry_after = retry_after


# 401 and 403 speak of the credentials that the server holds, which no caller can mend.
_CODES = {
    401: "unavailable",
    402: "unavailable",
    403: "unavailable",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    429: "limit_exceeded",
    504: "timeout",
}


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
