"""Heavy libraries load with the engine that needs them: who uses only key-value waits for none of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from tests.doors.fixtures import PLUGIN
from tests.e2e.processes import environment

HEAVY = {"opentelemetry.sdk", "numpy", "pymilvus", "minio", "redis", "xllamacpp", "openai"}


@asynccontextmanager
async def stdio(data_dir: Path, llm_url: str | None) -> AsyncIterator[Client]:
    settings = environment(data_dir, PLUGINS=str(PLUGIN))
    del settings["ISTHMUS_LLM_URL"]
    if llm_url is not None:
        settings["ISTHMUS_LLM_URL"] = llm_url
    target = StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server", "stdio"], env=settings
    )
    async with Client(stdio_client(target)) as client:
        yield client


async def heavy_modules(client: Client) -> set[str]:
    answer = await client.call_tool("modules", {})
    assert answer.structured_content is not None
    loaded = set(answer.structured_content["result"])
    assert {"mcp_server.services.kv", "asyncpg", "sqlalchemy"} <= loaded
    return HEAVY & loaded


async def call(client: Client, tool: str, **arguments: object) -> None:
    answer = await client.call_tool(tool, dict(arguments))
    assert not answer.is_error, answer.content


@pytest.mark.parametrize("llm_url", [None, "scripted:"], ids=["the default model", "scripted"])
async def test_key_value_over_stdio_loads_no_heavy_library(
    data_dir: Path, llm_url: str | None
) -> None:
    async with stdio(data_dir, llm_url) as client:
        await call(client, "kv_set", key="x", value=1)
        await call(client, "kv_get", key="x")
        assert await heavy_modules(client) == set()


async def test_the_encoder_loads_with_the_first_text(data_dir: Path) -> None:
    async with stdio(data_dir, "scripted:") as client:
        await call(
            client, "vector_add", store="s", document="d", text="An isthmus joins two lands."
        )
        assert await heavy_modules(client) == {"numpy"}
