"""A table and its model: whatever is run, previewed, planned or refused, in any order, both say the same."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_server.auth.principal import Principal
from mcp_server.errors import AppError, Conflict, Forbidden
from mcp_server.services.sql import SqlService

LONG = os.environ.get("TEST_LENGTH") == "long"
KEYS = st.integers(1, 6)
VALUES = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)
IDEMPOTENCY = st.one_of(st.none(), st.sampled_from(["k1", "k2"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS, VALUES, IDEMPOTENCY, st.booleans()),
        st.tuples(st.just("update"), KEYS, VALUES, IDEMPOTENCY, st.booleans()),
        st.tuples(st.just("delete"), KEYS, VALUES, IDEMPOTENCY, st.booleans()),
        st.tuples(st.just("read"), KEYS, VALUES, st.none(), st.booleans()),
        st.tuples(st.just("refused"), KEYS, VALUES, st.none(), st.booleans()),
    ),
    min_size=1,
    max_size=12,
)
STATEMENTS = {
    "insert": "insert into t values ($1, $2)",
    "update": "update t set b = $2 where a = $1",
    "delete": "delete from t where a = $1 and ($2::text is null or true)",
}
Rows = dict[int, str | None]


@pytest.fixture
async def table(sql: SqlService, principal: Principal) -> AsyncIterator[None]:
    await sql.execute(principal, "create table t (a int primary key, b text)")
    yield
    await sql.execute(principal, "drop table t")


class Model:
    """The rows as a dict, and what each idempotency key of a statement answered."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.done: dict[tuple[str, str], tuple[list[Any], int]] = {}

    def apply(self, kind: str, at: int, value: str | None) -> int:
        """Do it and return how many rows it affected.

        Raises:
            KeyError: an insert of what is there.
        """
        if kind == "insert":
            if at in self.rows:
                raise KeyError(at)
            self.rows[at] = value
            return 1
        if at not in self.rows:
            return 0
        if kind == "update":
            self.rows[at] = value
        else:
            del self.rows[at]
        return 1


@settings(
    max_examples=300 if LONG else 12,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
async def test_a_table_is_what_its_model_says(
    sql: SqlService,
    principal: Principal,
    stranger: Principal,
    table: None,
    steps: list[tuple[str, int, str | None, str | None, bool]],
) -> None:
    await sql.execute(principal, "truncate t")
    model = Model()
    run = os.urandom(4).hex()  # keys are the tenant's for good
    for kind, at, value, key, preview in steps:
        if kind == "refused":
            await refuse(sql, principal, stranger, at)
        elif kind == "read":
            await read(sql, principal, model, at, analyze=preview)
        else:
            named = None if key is None else f"{run}-{key}"
            await write(sql, principal, model, (kind, at, value), named, preview=preview)
    shown = (await sql.query(principal, "select * from t order by a"))["rows"]
    assert shown == [[at, model.rows[at]] for at in sorted(model.rows)]


async def write(
    sql: SqlService,
    who: Principal,
    model: Model,
    step: tuple[str, int, str | None],
    key: str | None,
    *,
    preview: bool,
) -> None:
    kind, at, value = step
    before = model.rows.copy()
    known = None if key is None or preview else model.done.get((key, kind))
    try:
        answer = await sql.execute(who, STATEMENTS[kind], [at, value], preview=preview, key=key)
    except Conflict:
        # The key had other values, or the row is there.
        taken = kind == "insert" and at in before
        assert taken or (known is not None and known[0] != [at, value])
        return
    if known is not None:
        assert ([at, value], answer["row_count"]) == known
        return
    count = model.apply(kind, at, value)
    assert answer["row_count"] == count
    if preview:
        after, model.rows = model.rows, before
        changes = answer.get("preview", {}).get("changes", [])
        assert len(changes) == count
        for change in changes:
            assert change["before"] == ([at, before[at]] if at in before else None)
            assert change["after"] == ([at, after[at]] if at in after else None)
    elif key is not None:
        model.done[key, kind] = ([at, value], count)


async def read(sql: SqlService, who: Principal, model: Model, at: int, *, analyze: bool) -> None:
    statement = "select a, b from t where a <= $1 order by a"
    wanted = [[key, model.rows[key]] for key in sorted(model.rows) if key <= at]
    plan = await sql.explain(who, statement, [at], analyze=analyze)
    if analyze:
        assert plan["rows"] == len(wanted)
    seen: list[list[Any]] = []
    cursor = None
    while True:
        page = await sql.query(who, statement, [at], max_rows=2, cursor=cursor)
        seen += page["rows"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == wanted


async def refuse(sql: SqlService, who: Principal, stranger: Principal, at: int) -> None:
    """What is refused changes nothing; another tenant has no such table, or one of its own."""
    hostile = (
        "delete from t",
        "select pg_sleep(9)",
        "update t set a = a / 0",
        "select 1; select 2",
    )
    with pytest.raises(AppError):
        await sql.query(who, hostile[at % len(hostile)])
    with pytest.raises(Forbidden):
        await sql.explain(who, "delete from t", analyze=True)
    with pytest.raises(AppError):
        await sql.execute(stranger, "delete from t")
