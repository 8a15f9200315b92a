"""OpenAI's agents SDK runs an agent on responses: hosted tools, a search, an approval, and a second half elsewhere."""

from __future__ import annotations

import json
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    FileSearchTool,
    HostedMCPTool,
    MCPToolApprovalFunctionResult,
    MCPToolApprovalRequest,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from agents.models.openai_responses import OpenAIResponsesModel
from openai import AsyncOpenAI

from tests.doors.live import KEY, BusDoor, open_live, serving
from tests.doors.odd_model import OddModel
from tests.e2e.processes import serve


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def steps(say: str, *made: tuple[str, dict[str, Any]]) -> str:
    listed = [{"tool": tool, "arguments": arguments} for tool, arguments in made]
    return json.dumps({"steps": listed, "say": say})


def agent(client: AsyncOpenAI, asked: list[str]) -> Agent[Any]:
    def approve(request: MCPToolApprovalRequest) -> MCPToolApprovalFunctionResult:
        asked.append(request.data.name)
        return {"approve": True}

    hosted: Any = {
        "type": "mcp",
        "server_label": "isthmus",
        "require_approval": {"never": {"read_only": True}},
    }
    return Agent(
        name="clerk",
        instructions="Keep the books.",
        model=OpenAIResponsesModel(model="odd", openai_client=client),
        tools=[
            HostedMCPTool(tool_config=hosted, on_approval_request=approve),
            FileSearchTool(vector_store_ids=["notes"], include_search_results=True),
            add,
        ],
    )


async def run(runner: Agent[Any], given: str, **more: Any) -> tuple[Any, list[str]]:
    """Run the agent as a stream; gives the result and the types of the items that it streamed."""
    result = Runner.run_streamed(runner, given, **more)
    made = [
        event.item.type
        async for event in result.stream_events()
        if event.type == "run_item_stream_event"
    ]
    return result, made


async def test_an_agent_goes_through_all_kinds_of_tools_and_on_elsewhere(scratch: Path) -> None:
    set_tracing_disabled(True)
    data_dir = scratch / f"agents-sdk-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        upstream = f"{await stack.enter_async_context(serving(OddModel().app))}/v1"
        live = await stack.enter_async_context(open_live(data_dir, llm_url=(upstream,)))
        note = {"store": "notes", "document": "file-1", "text": "Lunch is at noon."}
        assert not (await BusDoor(live).call("vector_add", note)).is_error
        asked: list[str] = []
        here = await stack.enter_async_context(connect(live.url))
        first, made = await run(
            agent(here, asked),
            steps(
                "Noted 【1】.",
                ("kv_set", {"key": "lunch", "value": "noon"}),
                ("file_search", {"query": "lunch"}),
                ("add", {"a": 2, "b": 3}),
            ),
        )

        assert first.final_output == "Noted 【1】."
        assert asked == ["kv_set"]
        assert made.count("tool_call_item") == 3, made
        assert {
            "mcp_list_tools_item",
            "mcp_approval_request_item",
            "mcp_approval_response_item",
        } <= set(made)
        message = first.raw_responses[-1].output[-1]
        assert message.content[0].annotations[0].file_id == "file-1"

        other = stack.enter_context(serve(data_dir, API_KEY=KEY, LLM_URL=upstream))
        there = await stack.enter_async_context(connect(other.url))
        second, made = await run(
            agent(there, asked),
            steps("At noon.", ("kv_get", {"key": "lunch"})),
            previous_response_id=first.last_response_id,
        )
        assert second.final_output == "At noon."
        (called,) = [
            item for each in second.raw_responses for item in each.output if item.type == "mcp_call"
        ]
        assert json.loads(called.output)["value"] == "noon"
        assert "mcp_list_tools_item" not in made  # listed once in a chain
        assert asked == ["kv_set"]


def connect(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
