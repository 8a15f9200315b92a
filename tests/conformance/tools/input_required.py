"""Tools that ask for more input by result, over several rounds of one call (SEP-2322)."""

from __future__ import annotations

from mcp.server.mcpserver import Context
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)

from mcp_server.plugins import tool


def _ask(message: str, field: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(prompt: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def _answered(context: Context, key: str, field: str) -> str | None:
    """The value that the user gave for `field` of request `key`, None without a usable answer."""
    answer = (context.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or not answer.content:
        return None
    value = answer.content.get(field)
    return None if value is None else str(value)


@tool()
async def test_input_required_result_elicitation(context: Context) -> str | InputRequiredResult:
    """Ask for a name, then greet."""
    name = _answered(context, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": _ask("What is your name?", "name")})
    return f"Hello, {name}!"


@tool()
async def test_streaming_elicitation(context: Context) -> str | InputRequiredResult:
    """Report progress, then ask: the stream must hold no request of the server's own."""
    await context.report_progress(1, 2, "about to ask")
    name = _answered(context, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": _ask("What is your name?", "name")})
    return f"Hello, {name}!"


@tool()
async def test_input_required_result_sampling(context: Context) -> str | InputRequiredResult:
    """Ask the client's model, then pass its answer on."""
    answer = (context.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return f"The model said: {answer.content.text}"
    question = _sample("What is the capital of France?", 100)
    return InputRequiredResult(input_requests={"capital_question": question})


@tool()
async def test_input_required_result_list_roots(context: Context) -> str | InputRequiredResult:
    """Ask for the client's roots, then name them."""
    answer = (context.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return "Roots: " + ", ".join(str(root.uri) for root in answer.roots)
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


@tool()
async def test_input_required_result_request_state(context: Context) -> str | InputRequiredResult:
    """Ask for a confirmation and check that the state comes back with it."""
    if context.request_state == "confirming" and _answered(context, "confirm", "ok") == "True":
        return "state-ok"
    return InputRequiredResult(
        input_requests={"confirm": _ask("Please confirm", "ok", "boolean")},
        request_state="confirming",
    )


@tool()
async def test_input_required_result_tampered_state(context: Context) -> str | InputRequiredResult:
    """Hand out a state; a changed one must be refused before this function sees it."""
    if context.request_state is not None:
        return f"state-ok: {context.request_state}"
    return InputRequiredResult(
        input_requests={"confirm": _ask("Please confirm", "ok", "boolean")},
        request_state="untouched",
    )


@tool()
async def test_input_required_result_multiple_inputs(
    context: Context,
) -> str | InputRequiredResult:
    """Ask the user, the model and for the roots in one round."""
    requests: InputRequests = {
        "user_name": _ask("What is your name?", "name"),
        "greeting": _sample("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    if (
        context.request_state == "asked"
        and requests.keys() <= (context.input_responses or {}).keys()
    ):
        return "All three answers came back."
    return InputRequiredResult(input_requests=requests, request_state="asked")


@tool()
async def test_input_required_result_multi_round(context: Context) -> str | InputRequiredResult:
    """Ask for a name, then for a color; the state carries the name."""
    step, _, known = (context.request_state or "").partition(":")
    if step == "color" and (color := _answered(context, "step2", "color")):
        return f"{known} likes {color}."
    if step == "name" and (name := _answered(context, "step1", "name")):
        return InputRequiredResult(
            input_requests={"step2": _ask("Step 2: What is your favorite color?", "color")},
            request_state=f"color:{name}",
        )
    return InputRequiredResult(
        input_requests={"step1": _ask("Step 1: What is your name?", "name")}, request_state="name:"
    )


@tool()
async def test_input_required_result_capabilities(context: Context) -> InputRequiredResult:
    """Ask only in the ways that the client declared."""
    declared = context.client_capabilities
    requests: InputRequests = {}
    if declared is not None and declared.sampling is not None:
        requests["sample"] = _sample("Say hello", 50)
    if declared is not None and declared.elicitation is not None:
        requests["ask"] = _ask("What is your name?", "name")
    return InputRequiredResult(input_requests=requests, request_state="asked")
