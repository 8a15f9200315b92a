"""The engine that runs a GGUF model, the embedded one by default, in a child process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

from mcp_server.errors import Unavailable
from mcp_server.llm import ChatRequest, Chunk, Completion, ModelInfo, Upstream, UpstreamError
from mcp_server.llm.api_client import ApiClient, NotAnswered
from mcp_server.llm.choices import several
from mcp_server.llm.collect import collect
from mcp_server.llm.custom_tools import as_custom, as_functions
from mcp_server.llm.gguf_messages import render
from mcp_server.llm.gguf_process import Load, ModelProcess, open_process, usable_threads
from mcp_server.llm.gguf_schema import fitted
from mcp_server.llm.gguf_tools import ToolCaller, schema_format
from mcp_server.llm.gguf_weights import Weights, bundled_weights, weights_of
from mcp_server.llm.openai_compatible import OpenAICompatible
from mcp_server.llm.tool_choice import read_tool_choice
from mcp_server.llm.wire import Frame, object_of, sum_usage, wants_usage

# What the adapter does itself, or what llama.cpp must not see.
_OWN_FIELDS = frozenset(
    {"messages", "model", "tools", "tool_choice", "parallel_tool_calls", "stream_options"}
    | {"max_completion_tokens", "response_format", "stream", "n"}
)
# The model card of SmolLM2-Instruct asks for these.
_SMALL_SAMPLING = {"temperature": 0.2, "top_p": 0.9}
# In place of the system message that its template would put in. Measured: of 14 answers from a
# function's result 12 hold the fact instead of 9, of 28 on general knowledge 18 instead of 17.
_SMALL_SYSTEM = {"role": "system", "content": "Answer briefly and to the point."}
# It has little to say beyond this, and can otherwise repeat itself until the context is full.
_SMALL_MAX_TOKENS = 512


class GgufModel:
    """Adds tool calls, JSON schemas and OpenAI's message roles to llama.cpp's chat."""

    provider = "llama.cpp"

    def __init__(self, weights: Weights, process: ModelProcess) -> None:
        self.name = f"gguf:{weights.path.name}"
        self.description = f"{weights.path.name}, run here on the CPU"
        self._weights = weights
        self._process = process

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer in one piece. It streams inside, since only a stream can be cancelled."""
        streamed = {**request, "stream_options": {"include_usage": True}}
        async with aclosing(self.stream(streamed)) as chunks:
            return await collect(chunks)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Answer token by token; a tool call comes whole, since it is checked first.

        The first answer waits until the model is loaded. `max_tokens` limits words, not the JSON of
        a tool call, which has a limit of its own. Raises UpstreamError, with code
        context_length_exceeded if the conversation is too long; Unavailable if the child process
        cannot be started or dies.
        """
        if request.get("web_search_options") is not None:
            body = {"message": f"{self.name} cannot search the web.", "param": "web_search_options"}
            raise UpstreamError(400, {**body, "code": "unsupported_parameter"}, upstream=self.name)
        async with aclosing(several(self._stream, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        request, custom = as_functions(request)
        choice = read_tool_choice(request)
        frame = Frame(self._weights.model_id, wants_usage(request))
        spent: list[Mapping[str, Any]] = []
        if choice.functions:
            caller = ToolCaller(self._ask, self.name, small=self._weights.small, usages=spent)
            call = await caller.decide(request, choice)
            if call is not None:
                yield frame.chunk({"role": "assistant", "content": None})
                made = as_custom(call, custom)
                kind, text = ("custom", "input") if "custom" in made else ("function", "arguments")
                for chunk in frame.call_chunks(0, made, [made[kind][text]]):
                    yield chunk
                yield frame.chunk({}, "tool_calls")
                if frame.include_usage:
                    yield frame.usage(sum_usage(spent))
                return
        async with aclosing(self._words(request, frame, spent)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def models(self) -> list[ModelInfo]:
        """List the one model; it is healthy until it fails to load."""
        healthy = self._process.failure is None
        can = ("chat", "tools", "json_schema")
        return [ModelInfo(self._weights.model_id, self.name, can, healthy)]

    def warm(self) -> None:
        """Begin to load the model."""
        self._process.start()

    async def _words(
        self, request: ChatRequest, frame: Frame, spent: list[Mapping[str, Any]]
    ) -> AsyncGenerator[Chunk, None]:
        last: UpstreamError | None = None
        for body in self._bodies(request):
            try:
                async with aclosing(self._chunks(body)) as chunks:
                    async for chunk in chunks:
                        chunk |= {"id": frame.id, "created": frame.created, "model": frame.model}
                        chunk.pop("timings", None)
                        if chunk.get("usage"):
                            chunk["usage"] = sum_usage([*spent, chunk["usage"]])
                        elif frame.include_usage:
                            chunk["usage"] = None
                        yield chunk
                return
            except UpstreamError as error:
                if error.status != 400 or error.body["code"] == "context_length_exceeded":
                    raise
                last = error
        if last is not None:
            raise last

    def _bodies(self, request: ChatRequest) -> list[dict[str, Any]]:
        """Give the bodies to try: with a JSON schema, in ever simpler forms of it."""
        kept = {key: value for key, value in request.items() if key not in _OWN_FIELDS}
        body: dict[str, Any] = {**(_SMALL_SAMPLING if self._weights.small else {}), **kept}
        limit = request.get("max_completion_tokens")
        body["max_tokens"] = request.get("max_tokens") if limit is None else limit
        if body["max_tokens"] is None:
            del body["max_tokens"]
            if self._weights.small:
                body["max_tokens"] = _SMALL_MAX_TOKENS
        messages = render(request, self.name)
        if self._weights.small and messages[0]["role"] != "system":
            messages.insert(0, _SMALL_SYSTEM)
        body["messages"] = messages
        if wants_usage(request):
            body["stream_options"] = {"include_usage": True}
        wanted = object_of(request.get("response_format"))
        if wanted.get("type") == "json_schema":
            schema = object_of(wanted.get("json_schema")).get("schema", {})
            return [{**body, "response_format": schema_format(each)} for each in fitted(schema)]
        return [{**body, "response_format": wanted}] if wanted else [body]

    async def _ask(self, body: dict[str, Any]) -> Completion:
        async with aclosing(
            self._chunks({**body, "stream_options": {"include_usage": True}})
        ) as chunks:
            return await collect(chunks)

    async def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        # Progress on the prompt is one write for each batch of it: that is how llama.cpp notices,
        # before the first token, that nobody waits any more.
        asked = {**body, "model": self._weights.model_id, "return_progress": True}
        lost: ApiClient | None = None
        while True:
            client = await self._process.client(but_not=lost)
            try:
                async with aclosing(OpenAICompatible(client).stream(asked)) as chunks:
                    async for chunk in chunks:
                        if "prompt_progress" not in chunk:
                            yield chunk
                return
            except NotAnswered:
                if lost is not None:
                    raise
                lost = client  # the child has just died and will be back


class MissingModel:
    """Stands where no model can be: the server works, and whoever asks for a model is told the mend."""

    def __init__(self, reason: Unavailable) -> None:
        self.name = "gguf:"
        self.description = reason.message
        self._reason = reason

    async def complete(self, request: ChatRequest) -> Completion:
        """Raise Unavailable with the mend."""
        del request
        self._refuse()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Raise Unavailable with the mend."""
        del request
        self._refuse()
        yield {}

    async def models(self) -> list[ModelInfo]:
        """Raise Unavailable with the mend."""
        self._refuse()

    def warm(self) -> None:
        """Nothing to load."""

    def _refuse(self) -> NoReturn:
        raise Unavailable(self._reason.message)


@asynccontextmanager
async def open_gguf(file: str) -> AsyncGenerator[Upstream]:
    """Open the model of `gguf:FILE`, the embedded one if `file` is empty; it loads when first asked.

    Raises ConfigurationError if FILE is no GGUF file.
    """
    try:
        weights = weights_of(file) if file else bundled_weights()
    except Unavailable as reason:
        yield MissingModel(reason)
        return
    load = Load(str(weights.path), usable_threads())
    async with open_process(load) as process:
        yield GgufModel(weights, process)
