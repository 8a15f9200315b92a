"""Tools that are a statement of the operator's: declared in the settings, bound, decided and journalled as any call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_server.auth.principal import OWNER, Principal
from mcp_server.errors import ConfigurationError
from mcp_server.runtime import Runtime, open_runtime
from mcp_server.settings import load_settings

TOOLS = """
llm_url = ["scripted:"]
databases = ["gone=postgresql://u:hunter2@127.0.0.1:1/db"]

[sql_tools.find_orders]
description = "Find orders by customer."
sql = '''
select id, total::text, ':customer' as note, -- :customer
       '{1,2,3}'::int[] as tags from orders
where customer = :customer and total >= :at_least and (:paid::bool is null or paid = :paid)
order by id
'''
max_rows = 2

[sql_tools.find_orders.parameters]
customer = {type = "string", description = "whose orders"}
at_least = {type = "number", default = 0}
paid = {type = "boolean", default = false}

[sql_tools.tag_order]
description = "Tag an order."
sql = "update orders set tags = :tags, extra = :extra where id = :id returning id, tags, extra"
read_only = false
parameters.id.type = "integer"
parameters.tags.type = "array"
parameters.extra = {type = "object", default = {}}

[sql_tools.elsewhere]
description = "Count, elsewhere."
sql = "select count(*) from t"
database = "gone"
"""


@pytest.fixture(scope="module")
async def runtime(anyio_backend: object, scratch: Path) -> AsyncIterator[Runtime]:
    config = scratch / "sql_tools.toml"
    config.write_text(TOOLS)
    settings = load_settings(config, data_dir=scratch / "sql-tools", auth="off")
    async with open_runtime(settings, concurrency=0) as runtime:
        for sql in (
            "create table orders (id int primary key, customer text, total numeric, paid bool,"
            " tags text[], extra jsonb)",
            "insert into orders select g, 'ann', g * 1.5, g % 2 = 0 from generate_series(1, 9) g",
        ):
            assert not (await runtime.bus.call(OWNER, "sql_execute", {"sql": sql})).is_error
        yield runtime


async def call(runtime: Runtime, who: Principal, tool: str, **arguments: Any) -> Any:
    result = await runtime.bus.call(who, tool, arguments)
    return result.text if result.is_error else result.structured


async def test_they_are_listed_with_their_schema(runtime: Runtime) -> None:
    tools = {tool.name: tool for tool in await runtime.bus.list_tools(OWNER)}
    found = tools["find_orders"]
    assert (found.description, found.read_only, found.egress) == (
        "Find orders by customer.",
        True,
        False,
    )
    assert found.input_schema["properties"] == {
        "customer": {"type": "string", "description": "whose orders"},
        "at_least": {"anyOf": [{"type": "integer"}, {"type": "number"}], "default": 0},
        "paid": {"type": "boolean", "default": False},
    }
    assert found.input_schema["required"] == ["customer"]
    assert found.input_schema["additionalProperties"] is False
    assert (tools["tag_order"].read_only, tools["elsewhere"].egress) == (False, True)


async def test_parameters_are_bound_and_never_text(runtime: Runtime) -> None:
    answer = await call(runtime, OWNER, "find_orders", customer="ann", at_least=3)
    assert answer["rows"] == [
        [3, "4.5", ":customer", [1, 2, 3]],
        [5, "7.5", ":customer", [1, 2, 3]],
    ]
    assert answer["truncated"]
    for hostile in ("' or true --", "'; drop table orders; --", "$1", ":customer", "\\"):
        assert (await call(runtime, OWNER, "find_orders", customer=hostile))["rows"] == []
    for arguments, text in (
        ({}, "invalid_input: customer: this argument is required"),
        ({"customer": "x", "sql": "select 1"}, "invalid_input: sql: find_orders has no such"),
        ({"customer": "x", "max_rows": 9}, "invalid_input: max_rows: find_orders has no such"),
        ({"customer": 5}, "invalid_input: customer: 5 does not fit"),
    ):
        assert (await call(runtime, OWNER, "find_orders", **arguments)).startswith(text)


async def test_one_that_writes_is_journalled_and_done_once_for_a_key(runtime: Runtime) -> None:
    arguments = {"id": 1, "tags": ["a", 'b"c'], "extra": {"k": [1, None]}}
    for _ in range(2):
        result = await runtime.bus.call(OWNER, "tag_order", arguments, key="once")
        assert result.structured is not None
        assert result.structured["rows"] == [[1, ["a", 'b"c'], {"k": [1, None]}]]
    changes = await call(
        runtime, OWNER, "changes", filter={"type": "eq", "key": "uri", "value": "sql://main/orders"}
    )
    verbs = [item["verb"] for item in changes["items"]]
    assert verbs[-2:] == ["intent", "write"]
    assert verbs.count("write") == 3  # made, filled, tagged


async def test_a_caller_needs_the_tool_and_what_it_touches(runtime: Runtime) -> None:
    for scopes, expected in (
        ({"read"}, "forbidden: this key may not run tool://find_orders"),
        ({"run:tool://find_orders"}, "forbidden: this key may not read sql://main/orders"),
        ({"run:tool://tag_order", "read:sql://main/*"}, "forbidden: this key may not run"),
        ({"run:tool://find_orders", "read:sql://main/orders"}, None),
    ):
        caller = Principal("default", "narrow", frozenset(scopes))
        answer = await call(runtime, caller, "find_orders", customer="ann")
        if expected is None:
            assert len(answer["rows"]) == 2
        else:
            assert answer.startswith(expected), answer
    assert (await call(runtime, OWNER, "elsewhere")).startswith("unavailable: database 'gone'")
    plain = Principal("default", "plain", frozenset({"read", "run"}))
    assert (await call(runtime, plain, "elsewhere")).startswith("not_found: database: 'gone'")


TOOL = """
[sql_tools.t]
description = "d"
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOOL, "t.sql: field required"),
        (TOOL + "sql = ''", "t.sql: "),
        ("[sql_tools.t]\nsql = 'select 1'", "t.description: field required"),
        (TOOL + "sql = 'select 1'\nreadonly = true", "t.readonly: there is no such key"),
        (TOOL + "sql = 'select 1'\nread_only = 'yes'", "t.read_only: "),
        (TOOL + "sql = 'select 1'\nmax_rows = 0", "t.max_rows: "),
        (TOOL + "sql = 'select :a'", "t: sql: :a is not among the parameters"),
        (TOOL + "sql = 'select $1'", "t: sql: it has a $n"),
        (TOOL + "sql = 'select 1'\nparameters.a = {}", "t: sql: the parameter 'a' is not used"),
        (TOOL + "sql = 'select :a'\nparameters.a.type = 'date'", "t.parameters.a.type: "),
        (
            TOOL + "sql = 'select :a'\nparameters.a.typ = 'string'",
            "t.parameters.a.typ: there is no",
        ),
        (
            TOOL + "sql = 'select :a'\nparameters.a = {type = 'integer', default = 'x'}",
            "t.parameters.a.default: it is no integer",
        ),
        (
            TOOL + "sql = 'select :a'\nparameters.a = {type = 'integer', default = true}",
            "t.parameters.a.default: it is no integer",
        ),
        (TOOL + "sql = 'select :a'\nparameters.A = {}", "t.parameters.A: this is not the name"),
        ("[sql_tools.T-1]\ndescription='d'\nsql='select 1'", "'T-1' is not the name of a tool"),
        ("[sql_tools.kv_get]\ndescription='d'\nsql='select 1'", "kv_get: there is a tool"),
        (TOOL + "sql = 'selec 1'", "t: sql: syntax error"),
        (TOOL + "sql = 'select 1; select 2'", "t: sql: 2 statements found"),
        (TOOL + "sql = 'delete from x'", "t: sql: sql_query only reads"),
        (TOOL + "sql = 'select pg_sleep(1)'", "t: sql: the function pg_sleep()"),
        (TOOL + "sql = 'drop role x'\nread_only = false", "t: sql: DROP ROLE"),
        (TOOL + "sql = 'select 1'\ndatabase = 'crm'", "t: database: 'crm' is not configured"),
        ("sql_tools = 5", "give a table [sql_tools.NAME]"),
    ],
)
async def test_what_does_not_fit_ends_the_start_with_its_name(
    scratch: Path, runtime: Runtime, tmp_path: Path, text: str, said: str
) -> None:
    config = tmp_path / "isthmus.toml"
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        await start(config, scratch / "sql-tools")
    assert str(caught.value).startswith("ISTHMUS_SQL_TOOLS: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def start(config: Path, data_dir: Path) -> None:
    settings = load_settings(config, data_dir=data_dir, auth="off", llm_url=("scripted:",))
    async with open_runtime(settings, concurrency=0):
        pass


async def test_the_environment_takes_json(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = '{"t": {"description": "d", "sql": "select :a", "parameters": {"a": {}}}}'
    monkeypatch.setenv("ISTHMUS_SQL_TOOLS", tool)
    assert list(load_settings().sql_tools) == ["t"]
    monkeypatch.setenv("ISTHMUS_SQL_TOOLS", "t=select 1")
    with pytest.raises(ConfigurationError, match="not JSON"):
        load_settings()
