"""A key that may write some tables finds no way through them to others, whatever it makes there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcp_server.auth.principal import Principal
from mcp_server.errors import Forbidden
from mcp_server.services.sql import SqlService

MAKE = (
    "create table pay (id int primary key, sum int)",
    "insert into pay values (1, 100)",
    "create table mine_a (id int primary key, sum int)",
    "create table dues (pay int references mine_a (id))",
)


@pytest.fixture
async def clerk(sql: SqlService, principal: Principal) -> Principal:
    """May read everything, and write what begins with `mine_`."""
    for statement in MAKE:
        await sql.execute(principal, statement)
    return replace(principal, scopes=frozenset({"read", "write:sql://main/mine_*"}))


@pytest.mark.parametrize(
    "statement",
    [
        "create view mine_v as select * from pay",
        "create or replace view mine_v as select id, sum + 1 as more from only main.pay p where id > 0",
        "create table mine_child () inherits (pay)",
        "create table mine_child (id int, sum int) inherits (main.pay)",
        "alter table mine_a inherit pay",
        "alter table mine_a no inherit pay",
        "create table mine_part partition of pay default",
        "truncate mine_a cascade",
        "drop table mine_a cascade",
        "alter table mine_a drop column id cascade",
    ],
)
async def test_what_would_open_another_table_needs_the_right_to_it(
    sql: SqlService, clerk: Principal, principal: Principal, statement: str
) -> None:
    for preview in (False, True):
        with pytest.raises(Forbidden, match="may not write sql://main/"):
            await sql.execute(clerk, statement, preview=preview)
    rows = await sql.query(principal, "select id, sum from pay")
    assert rows["rows"] == [[1, 100]]


async def test_a_partition_is_attached_by_who_may_write_it(
    sql: SqlService, clerk: Principal, principal: Principal
) -> None:
    await sql.execute(clerk, "create table mine_whole (id int, sum int) partition by list (id)")
    with pytest.raises(Forbidden, match="sql://main/pay"):
        await sql.execute(clerk, "alter table mine_whole attach partition pay default")
    await sql.execute(clerk, "create table mine_part (id int, sum int)")
    await sql.execute(clerk, "alter table mine_whole attach partition mine_part default")
    await sql.execute(principal, "alter table mine_whole detach partition mine_part")


async def test_views_that_only_show_need_the_right_to_read(
    sql: SqlService, clerk: Principal, principal: Principal
) -> None:
    for number, query in enumerate(
        (
            "select * from pay offset 0",
            "select sum(sum) from pay group by id",
            "select distinct id from pay",
            "with p as (select * from pay) select * from p",
            "select p.id from pay p join mine_a m on p.id = m.id",
            "select * from mine_a",
            "select * from (select * from pay) as p",
            "select id from pay union select id from mine_a",
        )
    ):
        await sql.execute(clerk, f"create view mine_v{number} as {query}")
        if number != 5:  # the one that may be written
            with pytest.raises(Exception, match=r"cannot (insert|update|delete)"):
                await sql.execute(clerk, f"delete from mine_v{number}")
    await sql.execute(clerk, "drop view mine_v0")
    await sql.execute(principal, "create view all_pay as select * from pay")
    await sql.execute(principal, "drop table pay cascade")
