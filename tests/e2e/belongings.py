"""A tenant's belongings: something of every kind, written over HTTP, and the proof that it is all there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.doors import raw
from tests.e2e.processes import ServeProcess, environment

DOCUMENT = "The isthmus of Corinth joins the Peloponnese to the mainland. " * 40


def isthmus(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mcp_server", *arguments],
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def make_key(data_dir: Path, tenant: str, **settings: str) -> str:
    arguments = ("keys", "create", f"key-{tenant}", "--tenant", tenant, "--json")
    scopes = ("--scope", "read", "--scope", "write", "--scope", "run")
    made = isthmus(data_dir, *arguments, *scopes, **settings)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["key"]


async def call(
    http: aiohttp.ClientSession, server: ServeProcess, bearer: str, tool: str, **given: Any
) -> Any:
    answer = await raw.call(http, server.url, bearer, tool, given)
    assert not answer.result.get("isError"), (tool, answer.result)
    return answer.result["structuredContent"]


async def fill(http: aiohttp.ClientSession, server: ServeProcess, bearer: str) -> None:
    """Leave something of every kind, also what was replaced and what was deleted."""

    async def do(tool: str, **given: Any) -> Any:
        return await call(http, server, bearer, tool, **given)

    await do("sql_execute", sql="create table t (id bigint primary key, name text)")
    await do("sql_execute", sql="insert into t select g, 'row ' || g from generate_series(1, 50) g")
    for number in range(3):
        await do("kv_set", key="counted", value=number)
        await do("object_put", bucket="b", key="text", text=f"body {number}" * 100)
        await do("vector_add", store="notes", document="corinth", text=DOCUMENT + str(number))
    await do("kv_delete", key="counted")
    await do("kv_set", key="kept", value="here")
    await do("object_put", bucket="b", key="gone", text="gone")
    await do("object_delete", bucket="b", key="gone")
    await do("agent_save", name="helper", instructions="Answer.")
    await do("agent_run", agent="helper", input="Hello.", wait_seconds=30)
    await store_chat(http, server, bearer)


async def holds_everything(http: aiohttp.ClientSession, server: ServeProcess, bearer: str) -> None:
    async def get(tool: str, **given: Any) -> Any:
        return await call(http, server, bearer, tool, **given)

    assert (await get("sql_query", sql="select count(*) from t"))["rows"] == [[50]]
    assert (await get("kv_get", key="kept"))["value"] == "here"
    assert (await get("object_get", bucket="b", key="text"))["text"] == "body 2" * 100
    assert (await get("vector_search", store="notes", query="Corinth"))["results"]
    assert [item["name"] for item in (await get("agent_list"))["items"]] == ["helper"]


async def store_chat(http: aiohttp.ClientSession, server: ServeProcess, bearer: str) -> None:
    """Let a chat be kept, as a client of the OpenAI face does."""
    body = {"model": "default", "messages": [{"role": "user", "content": "Keep."}], "store": True}
    headers = {"Authorization": f"Bearer {bearer}"}
    url = f"{server.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
