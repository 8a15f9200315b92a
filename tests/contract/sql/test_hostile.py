"""The hostile corpus: no statement reaches another tenant, the catalog, a file, or a second statement."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Forbidden
from mcp_server.placement import Placements
from mcp_server.services.sql import SqlService
from mcp_server.storage.sql.connections import Role
from mcp_server.storage.sql.postgresql import PostgresqlEngine
from mcp_server.storage.sql.tenant_roles import TenantRoles
from tests.conftest import SECRET, make_tenant

CORPUS = Path(__file__).parent / "corpus"
CANARY = "canary-4711"
REFUSED = {"forbidden", "invalid_input"}


def lines(name: str) -> list[str]:
    content = (CORPUS / name).read_text(encoding="utf-8").splitlines()
    return [line for line in content if line.strip() and not line.startswith(("-- ", "# "))]


CALLS = lines("calls.txt")
POSITIONS = lines("positions.txt")
WRITING_POSITIONS = POSITIONS[POSITIONS.index("--------") + 1 :]
POSITIONS.remove("--------")


@dataclass(frozen=True)
class Scene:
    """Two tenants: the intruder with `victim` and `counter`, the other with `secret`."""

    intruder: Principal
    other: Principal
    names: dict[str, str]
    before: Any


@pytest.fixture(scope="module")
async def scene(
    sql: SqlService, engine: PostgresqlEngine, control: AsyncEngine, admin: AsyncEngine
) -> Scene:
    intruder, other = await make_tenant(control), await make_tenant(control)
    for statement in (
        "create table victim (a int primary key, b text)",
        "insert into victim select g, 'own' from generate_series(1, 8) g",
        "create sequence counter",
    ):
        await sql.execute(intruder, statement)
    await sql.execute(other, "create table secret (a serial primary key, b text)")
    await sql.execute(other, "insert into secret (b) values ($1)", [CANARY])
    place = Placements(engine.url)
    own, others = place(intruder.tenant).schema, place(other.tenant).schema
    async with admin.connect() as connection:
        oid = await connection.scalar(
            text(
                "select c.oid from pg_class c join pg_namespace n on n.oid = relnamespace "
                "where nspname = :schema and relname = 'secret'"
            ),
            {"schema": others},
        )
    roles = TenantRoles(SECRET, make_url(engine.url).database or "")
    role = roles.name(Role(own, writable=True))
    names = {"own": own, "other": others, "role": role, "oid": str(oid)}
    return Scene(intruder, other, names, await state(sql, intruder, other))


async def state(sql: SqlService, intruder: Principal, other: Principal) -> Any:
    """Everything that the corpus could have changed."""
    tables = [(await sql.schema(who, detail="full"))["tables"] for who in (intruder, other)]
    for table in [*tables[0], *tables[1]]:
        table.pop("row_estimate", None)  # the server counts behind the commits
    return (
        tables,
        (await sql.query(intruder, "select * from victim order by a"))["rows"],
        (await sql.query(intruder, "select last_value, is_called from counter"))["rows"],
        (await sql.query(other, "select * from secret"))["rows"],
        (await sql.query(other, "select last_value from secret_a_seq"))["rows"],
    )


@pytest.fixture(scope="module", autouse=True)
async def unchanged(sql: SqlService, scene: Scene) -> AsyncIterator[None]:
    """After the whole corpus both tenants have what they had before."""
    yield
    assert await state(sql, scene.intruder, scene.other) == scene.before


async def refused(
    sql: SqlService, scene: Scene, statement: str, *, writable: bool, everywhere: bool = True
) -> AppError:
    """Try a statement at each door that reads, or that writes; return what the first said."""
    doors: list[Any] = [sql.query, partial(sql.explain, analyze=True)]
    if writable:
        doors = [sql.execute, partial(sql.execute, preview=True), sql.explain]
    params = [scene.names["oid"]] if "$1" in statement else None
    first: AppError | None = None
    for door in doors if everywhere else doors[:1]:
        with pytest.raises(AppError) as caught:
            await door(scene.intruder, statement, params)
        assert caught.value.code in REFUSED, statement
        assert CANARY not in caught.value.message
        first = first or caught.value
    assert first is not None
    return first


def test_the_corpus_is_as_large_as_it_says() -> None:
    own = {*lines("refused.sql"), *lines("reading_refuses.sql"), *lines("slow.sql")}
    assert len(own) >= 500
    assert len(CALLS) >= 48
    assert len(POSITIONS) >= 99


@pytest.mark.parametrize("statement", lines("refused.sql"))
async def test_both_tools_refuse(sql: SqlService, scene: Scene, statement: str) -> None:
    hostile = statement.format(**scene.names)
    for writable in (False, True):
        await refused(sql, scene, hostile, writable=writable)


@pytest.mark.parametrize("position", POSITIONS)
async def test_a_call_is_refused_wherever_it_stands(
    sql: SqlService, scene: Scene, position: str
) -> None:
    for call in CALLS:
        statement = position.replace("{call}", call)
        first = call == CALLS[0]
        error = await refused(sql, scene, statement, writable=True, everywhere=first)
        # Refused for the call, not because the statement around it is broken.
        name = call.partition("(")[0]
        assert f"the function {name}()" in error.message or "pg_catalog." in statement, statement
        if position not in WRITING_POSITIONS:
            await refused(sql, scene, statement, writable=False, everywhere=first)


@pytest.mark.parametrize("statement", lines("reading_refuses.sql"))
async def test_what_writes_is_refused_by_the_tool_that_reads(
    sql: SqlService, scene: Scene, statement: str
) -> None:
    error = await refused(sql, scene, statement, writable=False)
    assert isinstance(error, Forbidden)


@pytest.mark.parametrize("argument", ["params", "pattern", "cursor", "database"])
async def test_no_other_argument_is_a_way_in(sql: SqlService, scene: Scene, argument: str) -> None:
    hostile = [line.format(**scene.names) for line in lines("refused.sql")]
    hostile += [
        "'; drop table victim; --",
        '"; drop table victim; --',
        "%'; select 1; --",
        "\\",
        "%",
    ]
    for value in hostile:
        if argument == "params":
            answer = await sql.query(scene.intruder, "select $1::text", [value])
            assert answer["rows"] == [[value]]
        elif argument == "pattern":
            shown = (await sql.schema(scene.intruder, value, "names"))["tables"]
            assert {item["name"] for item in shown} <= {"victim"}
        else:
            with pytest.raises(AppError) as caught:
                await sql.query(scene.intruder, "select 1", **cast("Any", {argument: value}))
            assert caught.value.code == ("not_found" if argument == "database" else "invalid_input")


async def test_another_tenants_table_looks_as_if_it_did_not_exist(
    sql: SqlService, scene: Scene
) -> None:
    messages = set[str]()
    for table in ("secret", "nothing"):
        with pytest.raises(AppError) as caught:
            await sql.query(scene.intruder, f"select * from {table}")
        messages.add(caught.value.message.replace(table, "TABLE"))
    for schema in (scene.names["other"], "tenant_00000000000000000000"):
        with pytest.raises(AppError) as caught:
            await sql.query(scene.intruder, f"select * from {schema}.secret")
        messages.add(caught.value.message.replace(schema, "SCHEMA"))
    assert len(messages) == 2
