"""Door x verb x role x tenant, generated from what is declared: every refusal is one of policy, and it changes nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from sqlalchemy import func, select
from starlette.responses import Response
from starlette.routing import Route

from mcp_server import policy
from mcp_server.audit import Audit
from mcp_server.auth.principal import OWNER_SCOPES, Principal
from mcp_server.doors import DeclaredRoute, Gate
from mcp_server.errors import ConfigurationError
from mcp_server.placement import Placements
from mcp_server.policy import Listing
from mcp_server.runtime import open_runtime
from mcp_server.settings import Settings
from mcp_server.sockets import DeclaredSocket
from mcp_server.storage.sql.run_tables import runs
from mcp_server.storage.sql.schema import journal, vector_stores
from tests.doors import raw
from tests.doors.fixtures import make_key
from tests.doors.grid import DOORS, NEEDS, ROLES, TENANTS, asking, open_caller
from tests.doors.live import Live, open_door, open_live, stdio_parameters
from tests.doors.rows import RESOURCES, TOOLS, Step

PROMPT = '''
from mcp_server.plugins import prompt


@prompt()
async def greet(name: str) -> str:
    """Greet someone."""
    return f"Hello, {name}"
'''


@dataclass(frozen=True)
class World:
    """A server on which both tenants hold the same things, and one key for each role in each of them."""

    live: Live
    http: aiohttp.ClientSession
    keys: dict[tuple[str, str], str]
    runs: dict[str, str]

    async def principal(self, role: str, tenant: str) -> Principal:
        return await self.live.runtime.services.keys.authenticate(self.keys[role, tenant])

    def filled(self, value: Any, tenant: str) -> Any:
        return json.loads(json.dumps(value).replace("$run", self.runs[tenant]))

    def inside(self, tool: str, tenant: str) -> list[tuple[policy.Verb, str]]:
        """What the row's call of a tool opens beside the tool itself."""
        return [
            (verb, uri if isinstance(uri, Listing) else uri.replace("$run", self.runs[tenant]))
            for verb, uri in NEEDS[tool]
        ]

    async def state(self, tenant: str) -> tuple[int | None, int | None]:
        """How many changes and runs a tenant has."""
        changes = select(func.count()).select_from(journal).where(journal.c.tenant == tenant)
        started = select(func.count()).select_from(runs).where(runs.c.tenant == tenant)
        async with self.live.runtime.engines.control.connect() as tx:
            return await tx.scalar(changes), await tx.scalar(started)


def owner_of(tenant: str) -> Principal:
    return Principal(tenant, "owner", OWNER_SCOPES)


async def do(live: Live, tenant: str, tool: str, arguments: dict[str, Any]) -> Any:
    done = await live.runtime.bus.call(owner_of(tenant), tool, arguments)
    assert not done.is_error, (tool, done.text)
    return done.structured


async def make_run(live: Live, tenant: str, agent: str) -> str:
    await do(
        live,
        tenant,
        "agent_save",
        {"name": agent, "instructions": "x", "tools": ["kv_list"]},
    )
    wanted = json.dumps({"tool": "kv_list", "arguments": {}})
    done = await do(live, tenant, "agent_run", {"agent": agent, "input": wanted})
    assert done["status"] == "completed", done
    return done["run"]


@pytest.fixture(scope="module")
async def world(anyio_backend: object, scratch: Path) -> AsyncIterator[World]:
    plugin = scratch / "matrix-plugin"
    (plugin / "prompts").mkdir(parents=True)
    (plugin / "prompts" / "greet.py").write_text(PROMPT, encoding="utf-8")
    async with open_live(scratch / "matrix", plugins=(plugin,)) as live, raw.open_http() as http:
        keys = {
            (role, tenant): (await make_key(live, *scopes, tenant=tenant))["key"]
            for role, scopes in ROLES.items()
            for tenant in TENANTS
        }
        steps: list[Step] = [
            step for row in (*TOOLS.values(), *RESOURCES.values()) for step in row.before
        ]
        for tenant in TENANTS:
            for tool, arguments in steps:
                await do(live, tenant, tool, arguments)
        run_ids = {tenant: await make_run(live, tenant, "door-run") for tenant in TENANTS}
        yield World(live, http, keys, run_ids)


# --- tools -------------------------------------------------------------------------------------


async def may_call(world: World, door: str, role: str, tenant: str, tool: str) -> bool:
    principal = await world.principal(role, tenant)
    asked: list[tuple[policy.Verb, str]] = [
        (world.live.runtime.server.declared_tools[tool].verb, f"tool://{tool}")
    ]
    asked += world.inside(tool, tenant)
    if door == "chat":
        asked.append(("run", "model://default"))
    return all(policy.allows(principal, verb, uri) for verb, uri in asked)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", DOORS)
async def test_a_tool_may_be_called_exactly_when_policy_allows_it(
    world: World, door: str, role: str
) -> None:
    tools = list(world.live.runtime.server.declared_tools)
    for tenant in TENANTS:
        async with open_caller(world.http, world.live, door, world.keys[role, tenant]) as caller:
            allowed = {tool for tool in tools if await may_call(world, door, role, tenant, tool)}
            before = await world.state(tenant)
            for tool in sorted(set(tools) - allowed):
                answer = await caller.call(tool, world.filled(TOOLS[tool].arguments, tenant))
                where = (door, role, tenant, tool, answer)
                assert answer.is_error, where
                assert answer.text.startswith("forbidden: "), where
            assert await world.state(tenant) == before, (door, role, tenant)
            for tool in sorted(allowed):
                arguments = world.filled(TOOLS[tool].arguments, tenant)
                async with asking(world.live, owner_of(tenant), arguments) as given:
                    answer = await caller.call(tool, given)
                    assert not answer.is_error, (door, role, tenant, tool, answer)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", [door for door in DOORS if door != "chat"])
async def test_a_door_lists_exactly_the_tools_that_may_be_called(
    world: World, door: str, role: str
) -> None:
    for tenant in TENANTS:
        principal = await world.principal(role, tenant)
        async with open_caller(world.http, world.live, door, world.keys[role, tenant]) as caller:
            assert await caller.tools() == sorted(
                name
                for name, tool in world.live.runtime.server.declared_tools.items()
                if policy.allows(principal, tool.verb, f"tool://{name}")
            )


async def test_stdio_lists_everything_to_its_owner(world: World) -> None:
    async with Client(stdio_client(stdio_parameters(world.live))) as client:
        listed = [tool.name for tool in (await client.list_tools()).tools]
    assert listed == sorted(world.live.runtime.server.declared_tools)


async def test_each_row_opens_inside_what_the_matrix_expects(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[type, str, str]] = []

    def record(_: Audit, principal: Principal, verb: str, uri: str, *__: Any) -> None:
        if principal.tenant == "foreign":
            opened.append((type(uri), verb, uri))

    monkeypatch.setattr(Audit, "record", record)
    assert set(NEEDS) == set(world.live.runtime.server.declared_tools)
    for tool, declared in world.live.runtime.server.declared_tools.items():
        assert declared.verb == NEEDS[tool][0][0], tool
        arguments = world.filled(TOOLS[tool].arguments, "foreign")
        async with asking(world.live, owner_of("foreign"), arguments) as given:
            opened.clear()
            await do(world.live, "foreign", tool, given)
            seen = set(opened)
        wanted = {
            (
                type(uri),
                verb,
                uri if isinstance(uri, Listing) else uri.replace("$asking", given.get("run", "")),
            )
            for verb, uri in world.inside(tool, "foreign")
        }
        wanted.add((str, declared.verb, f"tool://{tool}"))
        if tool == "agent_run":  # the agent's own call of its tool
            wanted |= {(str, "read", "tool://kv_get"), (str, "read", "kv://default/door")}
        if tool in {"schedule_save", "trigger_save"}:  # asked for at the save, opened by each fire
            wanted -= {need for need in wanted if need[1] == "run"}
        assert seen == wanted, tool


# --- resources and prompts ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", [door for door in DOORS if door != "chat"])
async def test_a_resource_may_be_read_exactly_when_policy_allows_it(
    world: World, door: str, role: str
) -> None:
    for tenant in TENANTS:
        principal = await world.principal(role, tenant)
        async with open_caller(world.http, world.live, door, world.keys[role, tenant]) as caller:
            for item in world.live.runtime.server.declared_resources:
                uri = world.filled(RESOURCES[item.uri].uri, tenant)
                answer = await caller.read(uri)
                where = (door, role, tenant, uri, answer)
                if policy.allows(principal, item.verb, uri):
                    assert not answer.is_error, where
                else:
                    assert answer.is_error, where
                    assert answer.text.startswith("forbidden: "), where


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("door", ["http", "handshake", "sse"])
async def test_a_prompt_may_be_got_exactly_when_policy_allows_it(
    world: World, door: str, role: str
) -> None:
    for tenant in TENANTS:
        principal = await world.principal(role, tenant)
        async with open_caller(world.http, world.live, door, world.keys[role, tenant]) as caller:
            answer = await caller.prompt("greet", {"name": "Ann"})
        if policy.allows(principal, "read", "prompt://greet"):
            assert answer.text == "Hello, Ann", (door, role, tenant, answer)
        else:
            assert answer.is_error, (door, role, tenant, answer)
            assert answer.text.startswith("forbidden: "), (door, role, tenant, answer)


# --- routes ------------------------------------------------------------------------------------

HELLO = {"tool": "kv_list", "arguments": {}}
# Of each route of the OpenAI door: what policy is asked about, and a request that it accepts.
ASKED: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "/v1/chat/completions": (
        "model://default",
        "/v1/chat/completions",
        {"model": "default", "messages": [{"role": "user", "content": json.dumps(HELLO)}]},
    ),
    "/v1/embeddings": (
        "model://default",
        "/v1/embeddings",
        {"model": "default", "input": "An isthmus."},
    ),
    "/v1/completions": (
        "model://default",
        "/v1/completions",
        {"model": "default", "prompt": json.dumps(HELLO)},
    ),
    "GET /v1/chat/completions": (Listing("chat://"), "/v1/chat/completions", None),
    **{
        f"/v1/chat/completions/{{chat}}{more}": (
            "chat://chatcmpl-none",
            f"/v1/chat/completions/chatcmpl-none{more}",
            {"metadata": {}},
        )
        for more in ("", "/messages")
    },
    "/v1/responses": (
        "model://default",
        "/v1/responses",
        {"model": "default", "input": json.dumps(HELLO), "store": False},
    ),
    "/v1/responses/compact": (
        "model://default",
        "/v1/responses/compact",
        {"model": "default", "input": "An isthmus."},
    ),
    "/v1/responses/input_tokens": (
        "model://default",
        "/v1/responses/input_tokens",
        {"model": "default", "input": "An isthmus."},
    ),
    **{
        f"/v1/responses/{{response_id}}{more}": (
            "response://resp_none",
            f"/v1/responses/resp_none{more}",
            None,
        )
        for more in ("", "/input_items", "/cancel")
    },
    "/v1/conversations": (
        "conversation://",
        "/v1/conversations",
        {"metadata": {}},
    ),
    **{
        f"/v1/conversations/{{conversation}}{more}": (
            "conversation://conv_none",
            f"/v1/conversations/conv_none{more.replace('{item}', 'msg_none')}",
            {"metadata": {}, "items": [{"role": "user", "content": "x"}]},
        )
        for more in ("", "/items", "/items/{item}")
    },
    "/v1/files": ("object://files/", "/v1/files", None),
    **{
        f"/v1/files/{{file_id}}{more}": (
            "object://files/file-none",
            f"/v1/files/file-none{more}",
            None,
        )
        for more in ("", "/content")
    },
    "/v1/uploads": (
        "object://files/",
        "/v1/uploads",
        {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"},
    ),
    **{
        f"/v1/uploads/{{upload_id}}/{end}": (
            "object://files/upload_none",
            f"/v1/uploads/upload_none/{end}",
            {"part_ids": []},
        )
        for end in ("parts", "complete", "cancel")
    },
    "GET /v1/batches": (Listing("batch://"), "/v1/batches", None),
    "/v1/batches": (
        "batch://batch_none",
        "/v1/batches",
        {"input_file_id": "file-none", "endpoint": "/v1/embeddings", "completion_window": "24h"},
    ),
    **{
        f"/v1/batches/{{batch_id}}{more}": (
            "batch://batch_none",
            f"/v1/batches/batch_none{more}",
            None,
        )
        for more in ("", "/cancel")
    },
    "GET /v1/vector_stores": (Listing("vector://"), "/v1/vector_stores", None),
    "/v1/vector_stores": ("vector://vs_none/", "/v1/vector_stores", {}),
    **{
        f"/v1/vector_stores/{{vector_store_id}}{more}": (
            Listing("vector://"),  # whoever may look for a store is told that there is none
            "/v1/vector_stores/vs_none"
            + more.replace("{file_id:path}", "file-none").replace("{batch_id}", "vsfb_none"),
            body,
        )
        for more, body in {
            "": {},
            "/search": {"query": "x"},
            "/files": {"file_id": "file-none"},
            "/files/{file_id:path}": {"attributes": {}},
            "/files/{file_id:path}/content": None,
            "/file_batches": {"file_ids": ["file-none"]},
            "/file_batches/{batch_id}": None,
            "/file_batches/{batch_id}/cancel": {},
            "/file_batches/{batch_id}/files": None,
        }.items()
    },
    "/v1/models": (Listing("model://"), "/v1/models", None),
    "/v1/models/{model:path}": ("model://default", "/v1/models/default", None),
    **{
        path: ("model://default", path, {"model": "default", "input": "x"})
        for path in (
            "/v1/moderations",
            "/v1/audio/transcriptions",
            "/v1/audio/speech",
            "/v1/images/generations",
            "/v1/images/edits",
        )
    },
}


# Of things with ids of their own: nobody has one yet, as whoever may ask is told.
ABSENT = (
    "{batch_id}",
    "{chat}",
    "{response_id}",
    "{conversation}",
    "{file_id}",
    "{upload_id}",
    "{vector_store_id}",
)
# What these make is a change, or more than the model here can say: asked only where policy refuses it.
MAKING = (
    "/v1/batches",
    "/v1/conversations",
    "/v1/files",
    "/v1/uploads",
    "/v1/vector_stores",
    "/v1/responses/compact",
)
# No upstream here takes these; test_passing.py has one that does.
UNSERVED = ("/v1/moderations", "/v1/audio/", "/v1/images/")


async def ask(world: World, method: str, path: str, key: str | None, body: Any = None) -> raw.Reply:
    """Send a request and read no more of the answer than its head if it is a stream."""
    async with world.http.request(
        method, world.live.url + path, headers=raw.bearer(key), json=body
    ) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        streams = headers.get("content-type", "").startswith("text/event-stream")
        return raw.Reply(answer.status, headers, "" if streams else await answer.text())


def served(world: World, *, public: bool) -> list[tuple[DeclaredRoute, str]]:
    return [
        (route, method)
        for route in world.live.http.gate.routes
        if route.public is public
        if not route.local  # test_metrics.py asks it
        if not isinstance(route, DeclaredSocket)  # test_openai_socket.py asks it
        for method in sorted(route.methods or {"GET", "POST", "DELETE"})
    ]


async def check_upload(
    world: World, role: str, tenant: str, route: DeclaredRoute, method: str
) -> None:
    """Hold a request to /uploads/ against policy, which decides on the object that it will be."""
    key = world.keys[role, tenant]
    headers = raw.bearer(key) | {
        "Tus-Resumable": "1.0.0",
        "Content-Type": "application/offset+octet-stream",
        "Upload-Length": "5",
        "Upload-Offset": "0",
        "Upload-Metadata": "key ZG9vci91cGxvYWQ=",  # door/upload
    }
    path = route.path.replace("{upload}", "none")
    async with world.http.request(method, world.live.url + path, headers=headers) as answer:
        status = answer.status
    if "{upload}" in route.path:  # nobody has it; test_uploads.py asks for others' uploads
        expected = 405 if method == "POST" else 404
    elif method == "OPTIONS":
        expected = 204
    else:
        principal = await world.principal(role, tenant)
        allowed = policy.allows(principal, route.verb, "object://default/door/upload")
        expected = 201 if allowed else 403
    assert status == expected, (role, tenant, method, route.path)


@pytest.mark.parametrize("role", ROLES)
async def test_a_route_may_be_used_exactly_when_policy_allows_its_verb(
    world: World, role: str
) -> None:
    for tenant in TENANTS:
        principal = await world.principal(role, tenant)
        before = await world.state(tenant)
        for route, method in served(world, public=False):
            if route.door == "mcp":  # each message is decided about, see above
                answer = await ask(world, method, route.path, world.keys[role, tenant])
                assert answer.status not in {401, 403}, (role, method, route.path, answer)
                continue
            if route.path.startswith("/uploads/"):
                await check_upload(world, role, tenant, route, method)
                continue
            asked = "GET" if method == "HEAD" else method
            uri, path, body = ASKED.get(f"{asked} {route.path}") or ASKED[route.path]
            allowed = policy.allows(principal, route.verb, uri)
            if allowed and route.path in MAKING:
                continue
            answer = await ask(world, method, path, world.keys[role, tenant], body)
            where = (role, tenant, method, path, answer)
            if allowed:
                unserved = route.path.startswith(UNSERVED)
                absent = any(name in route.path for name in ABSENT)
                expected = 404 if absent else 400 if unserved else 200
                assert answer.status == expected, where
                continue
            assert answer.status == 403, where
            if method != "HEAD":
                assert answer.error["code"] == "insufficient_permissions", where
                assert set(answer.error) == {"message", "type", "param", "code"}
        assert await world.state(tenant) == before


async def test_a_public_route_answers_the_same_with_and_without_a_key(world: World) -> None:
    for route, method in served(world, public=True):
        path = route.path.replace("{path:path}", "nothing/here").replace("{token}", "none")
        with_key = await ask(world, method, path, world.keys["nothing", "foreign"])
        without = await ask(world, method, path, None)
        assert with_key.status == without.status
        if route.ticket is not None:  # test_links.py asks it with tickets
            assert without.status == 404, (method, path)
            continue
        assert without.status == (404 if route.door == "openai" else 200), (method, path)
        assert (route.methods or set()) == (set() if route.door == "openai" else {"GET", "HEAD"})


# --- what declares no verb ---------------------------------------------------------------------


async def test_a_route_without_a_verb_is_refused_at_start(world: World) -> None:
    async def secret(_: Any) -> Response:
        return Response("secret")

    gate = Gate(world.live.runtime.services.keys, auth=True, max_body_bytes=1000)
    with pytest.raises(ConfigurationError, match=r"/secret.*declares no verb"):
        gate.bind([Route("/secret", secret)])
    assert gate.routes == []


UNDECLARED = {
    "tool": ("@server.tool()\n    async def sneak() -> str:", "tool 'sneak' declares no verb"),
    "resource": (
        "@server.resource('sneak://here')\n    async def sneak() -> str:",
        "resource 'sneak://here' declares no verb",
    ),
    "template": (
        "@server.resource('sneak://{what}')\n    async def sneak(what: str) -> str:",
        "resource 'sneak://{what}' declares no verb",
    ),
}


@pytest.mark.parametrize("kind", UNDECLARED)
async def test_what_a_plugin_adds_without_a_verb_is_refused_at_start(
    world: World, scratch: Path, kind: str
) -> None:
    head, message = UNDECLARED[kind]
    plugin = scratch / f"undeclared-{kind}"
    (plugin / "tools").mkdir(parents=True)
    source = f'async def setup(server):\n    {head}\n        return "in"\n'
    (plugin / "tools" / "sneak.py").write_text(source, encoding="utf-8")
    given = world.live.runtime.settings
    values: dict[str, Any] = {
        "data_dir": given.data_dir,
        "llm_url": given.llm_url,
        "plugins": (plugin,),
    }
    with pytest.raises(ConfigurationError) as refused:
        async with open_runtime(Settings(**values)):
            pass
    assert message in str(refused.value)


# --- the other tenant's ids --------------------------------------------------------------------

THERE, NOWHERE = "there", "nowhr"


@dataclass(frozen=True)
class Pair:
    """Names and ids that the other tenant has, and such that nobody has, of the same form."""

    theirs: dict[str, str]
    absent: dict[str, str]

    def filled(self, value: Any) -> tuple[Any, Any]:
        return _filled(value, self.theirs), _filled(value, self.absent)

    def plain(self, text: str) -> str:
        for name, own in self.theirs.items():
            text = text.replace(own, name).replace(self.absent[name], name)
        return text.replace(THERE, "$name").replace(NOWHERE, "$name")


def _filled(value: Any, names: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name, own in names.items():
        text = text.replace(name, own)
    return json.loads(text)


@pytest.fixture(scope="module")
async def pair(world: World) -> Pair:
    """Things that only the foreign tenant has."""

    async def have(tool: str, **arguments: Any) -> Any:
        return await do(world.live, "foreign", tool, arguments)

    await have("kv_set", key="k-there", value=1)
    await have("kv_set", namespace="ns-there", key="k", value=1)
    await have("object_put", bucket="b-there", key="o", text="x")
    file = await have("object_put", key="o-there", text="x")
    await have("vector_add", store="s-there", document="d", text="x")
    await have("sql_execute", sql="create table t_there (a int)")
    run = await make_run(world.live, "foreign", "a-there")
    query = select(vector_stores.c.id).where(vector_stores.c.name == "s-there")
    async with world.live.runtime.engines.control.connect() as tx:
        store = str(await tx.scalar(query))
    ids = {"$run": run, "$store": store, "$file": file["id"]}
    place = Placements("")
    absent = {name: own[: -len(tail)] + tail for name, own, tail in _tails(ids)}
    return Pair(
        {**ids, "$schema": place("foreign").schema, "$name": THERE},
        {**absent, "$schema": place("nobody").schema, "$name": NOWHERE},
    )


def _tails(ids: dict[str, str]) -> list[tuple[str, str, str]]:
    return [(name, own, secrets.token_hex(8)) for name, own in ids.items()]


PROBES: list[Step] = [
    ("kv_get", {"key": "k-$name"}),
    ("kv_get", {"namespace": "ns-$name", "key": "k"}),
    ("kv_set", {"key": "k-$name", "value": 2, "expected_version": 1}),
    ("kv_get_many", {"keys": ["k-$name"]}),
    ("kv_get_many", {"namespace": "ns-$name", "keys": ["k"]}),
    ("kv_release", {"key": "k-$name", "token": 1}),
    ("kv_delete", {"key": "k-$name"}),
    ("kv_delete", {"key": "k-$name", "expected_version": 1}),
    ("kv_list", {"prefix": "k-$name"}),
    ("kv_list", {"namespace": "ns-$name"}),
    ("object_get", {"key": "o-$name"}),
    ("object_get", {"bucket": "b-$name", "key": "o"}),
    ("object_get", {"bucket": "files", "key": "$file"}),
    ("object_list", {"prefix": "o-$name"}),
    ("object_list", {"bucket": "b-$name"}),
    ("object_stat", {"key": "o-$name"}),
    ("object_versions", {"key": "o-$name"}),
    ("object_copy", {"key": "o-$name", "to_key": "o-copy"}),
    ("object_copy", {"bucket": "b-$name", "key": "o", "version": 1, "to_key": "o-copy"}),
    ("object_tag", {"key": "o-$name", "tags": {"a": "b"}}),
    ("object_link", {"key": "o-$name"}),
    ("object_link_revoke", {"key": "o-$name"}),
    ("object_delete", {"key": "o-$name"}),
    ("object_delete", {"bucket": "b-$name", "key": "o"}),
    ("object_put", {"key": "o-$name", "text": "x", "if_match": '"1"'}),
    ("vector_add", {"store": "$store", "text": "x"}),
    ("vector_add", {"store": "door", "object": "default/o-$name"}),
    ("vector_add", {"store": "door", "object": "$file"}),
    ("vector_ingest", {"store": "$store", "sources": [{"text": "x", "document": "d"}]}),
    ("vector_ingest", {"store": "door", "sources": [{"object": "default/o-$name"}]}),
    ("vector_ingest", {"store": "door", "sources": [{"object": "$file", "document": "f"}]}),
    ("vector_search", {"store": "s-$name", "query": "x", "mode": "text"}),
    ("vector_search", {"store": "$store", "query": "x", "mode": "text"}),
    ("vector_list", {"store": "s-$name"}),
    ("vector_list", {"store": "$store"}),
    ("vector_delete", {"store": "s-$name", "document": "d"}),
    ("vector_delete", {"store": "$store", "document": "d"}),
    ("vector_update", {"store": "s-$name", "metadata": {"a": 1}, "document": "d"}),
    ("vector_update", {"store": "$store", "metadata": {"a": 1}, "document": "d"}),
    ("vector_store_delete", {"store": "$store"}),
    ("agent_run", {"agent": "a-$name", "input": "x"}),
    ("run_get", {"run": "$run"}),
    ("run_cancel", {"run": "$run"}),
    ("sql_query", {"sql": "select * from t_$name"}),
    ("sql_query", {"sql": "select * from $schema.t_there"}),
    ("sql_query", {"sql": "select to_regclass('$schema.t_there')::text"}),
    ("sql_query", {"sql": "select count(*) from pg_catalog.pg_class where relname = 't_$name'"}),
    (
        "sql_query",
        {"sql": "select count(*) from information_schema.tables where table_name = 't_$name'"},
    ),
    ("sql_execute", {"sql": "drop table t_$name"}),
    ("sql_execute", {"sql": "insert into $schema.t_there values (1)"}),
    ("sql_schema", {"pattern": "t_$name"}),
    ("changes", {"filter": {"type": "eq", "key": "uri", "value": "kv://default/k-$name"}}),
]
URIS = [
    "kv://default/k-$name",
    "kv://ns-$name/k",
    "object://default/o-$name",
    "object://b-$name/o",
    "object://files/$file",
    "vector://s-$name/d",
    "vector://$store/d",
    "agent://a-$name",
    "run://$run",
    "sql://main/t_$name",
    "sql://$schema/t_there",
]


def timeless(answer: Any) -> Any:
    """Cut the position in the journal, which the other tests of this file move."""
    return json.loads(answer.text) | {"next_after": ""} if "next_after" in answer.text else answer


@pytest.mark.parametrize("door", [*DOORS, "stdio"])
async def test_what_another_tenant_has_answers_as_what_nobody_has(
    world: World, pair: Pair, door: str
) -> None:
    before = await world.state("foreign")
    opened = (
        open_door(world.live, "stdio")
        if door == "stdio"
        else open_caller(world.http, world.live, door, world.keys["all", "default"])
    )
    async with opened as caller:
        for tool, arguments in PROBES:
            theirs, absent = [
                timeless(await caller.call(tool, given)) for given in pair.filled(arguments)
            ]
            assert pair.plain(str(theirs)) == pair.plain(str(absent)), (tool, arguments)
        for uri in [] if door == "chat" else URIS:
            theirs, absent = [await caller.read(given) for given in pair.filled(uri)]
            assert theirs.text.startswith("not_found: "), (uri, theirs)
            assert pair.plain(str(theirs)) == pair.plain(str(absent)), uri
    assert await world.state("foreign") == before


async def test_the_probes_find_what_their_own_tenant_has(world: World, pair: Pair) -> None:
    finds = {"kv_get", "object_get", "vector_search", "vector_list", "run_get"}
    for tool, arguments in PROBES:
        if tool in finds and arguments.get("bucket") != "files":
            await do(world.live, "foreign", tool, pair.filled(arguments)[0])
    for uri in URIS:
        if "files" in uri or "$schema" in uri:
            continue
        assert await world.live.runtime.bus.read(owner_of("foreign"), pair.filled(uri)[0]), uri


async def test_another_tenants_agent_is_no_model(world: World, pair: Pair) -> None:
    key = world.keys["all", "default"]
    for stream in (False, True):
        body = {
            "model": "agent/a-$name",
            "messages": [{"role": "user", "content": "x"}],
            "stream": stream,
        }
        theirs, absent = [
            await ask(world, "POST", "/v1/chat/completions", key, given)
            for given in pair.filled(body)
        ]
        assert theirs.status == absent.status == 404, theirs
        assert pair.plain(theirs.body) == pair.plain(absent.body)
    theirs, absent = [
        await ask(world, "GET", path, key) for path in pair.filled("/v1/models/agent/a-$name")
    ]
    assert theirs.status == absent.status == 404, theirs
    assert pair.plain(theirs.body) == pair.plain(absent.body)
    assert THERE not in (await ask(world, "GET", "/v1/models", key)).body
