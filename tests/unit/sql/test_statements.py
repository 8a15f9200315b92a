"""Which statements pass, what they touch, and that no text breaks the check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_server.errors import AppError, Forbidden, InvalidInput
from mcp_server.storage.sql import Checked
from mcp_server.storage.sql.statements.check import check
from mcp_server.storage.sql.statements.grammar import Reserved
from mcp_server.storage.sql.statements.nesting import MAX_BYTES, MAX_DEPTH, MAX_TOKENS

CORPUS = Path(__file__).parents[2] / "contract" / "sql" / "corpus"
RESERVED = Reserved(frozenset({"pg_sleep", "regclass"}), frozenset({"regclass", "pg_class"}))


def checked(sql: str, *, writable: bool = True) -> Checked:
    return check(sql, "tenant_00", writable=writable, reserved=RESERVED)


@pytest.mark.parametrize(
    ("sql", "reads", "writes"),
    [
        ("select 1", "", ""),
        ("select * from a join b on true, lateral (select * from c) x", "a b c", ""),
        ("with a as (select * from b) select * from a", "b", ""),
        ("with a as (select * from a) select * from a", "a", ""),
        ("with recursive a as (select 1 union select * from a) select * from a", "", ""),
        ("with a as (select 1) select * from main.a", "a", ""),
        ("select * from a, (with a as (select 1) select * from a) b", "a", ""),
        ("with a as (select 1), b as (select * from a) select * from b, c", "c", ""),
        ("insert into a select * from b returning (select count(*) from c)", "a b c", "a"),
        ("insert into a values (1)", "", "a"),
        ("insert into a values (1) on conflict do nothing", "", "a"),
        ("insert into a values (1) on conflict (b) do update set b = a.b", "a", "a"),
        ("insert into a select * from a", "a", "a"),
        ("delete from a", "", "a"),
        ("delete from a where b = 1", "a", "a"),
        ("delete from a returning b", "a", "a"),
        ("with a as (select 1) insert into a select * from a", "", "a"),
        ("update a set x = 1 from b", "a b", "a"),
        ("delete from a using b", "a b", "a"),
        ("merge into a using b on true when matched then delete", "a b", "a"),
        ("with x as (delete from a returning *) insert into b select * from x", "a", "a b"),
        ("truncate a, b", "", "a b"),
        ("create table a (b int references c, like d)", "c d", "a"),
        ("create table a as select * from b", "b", "a"),
        ("create view a as select * from b", "b", "a"),
        ("create index on a (b)", "", "a"),
        ("alter table a rename to b", "", "a b"),
        ("alter table a rename column b to c", "", "a"),
        ("drop table a, main.b", "", "a b"),
        ("drop type a", "", "a"),
        ("create type a as enum ('x')", "", "a"),
        ("comment on column a.b is 'x'", "", "a"),
        ("comment on column main.a.b is 'x'", "", "a"),
        ("alter sequence a owned by b.c", "", "a b"),
        ("select nextval('a'), nextval('\"B \"\"c\"'::regclass)", "", 'B_"c a'),
        ("select currval('A')", "a", ""),
        ("select setval(pg_get_serial_sequence('a', 'id'), 1)", "", "a"),
        ("explain insert into a select * from b", "a b", ""),
        ("explain analyze insert into a select * from b", "b", "a"),
    ],
)
def test_what_a_statement_touches(sql: str, reads: str, writes: str) -> None:
    found = checked(sql)
    wanted = [[name.replace("_", " ") for name in names.split()] for names in (reads, writes)]
    assert [sorted(found.reads), sorted(found.writes)] == wanted
    assert found.effects is bool(writes)


@pytest.mark.parametrize(
    ("sql", "repeatable"),
    [
        ("select * from a order by b", True),
        ("values (1)", True),
        ("select nextval('a')", False),
        ("select currval('a')", True),
        ("select * from a for update", False),
        ("explain select 1", False),
        ("insert into a values (1) returning b", False),
    ],
)
def test_only_a_select_without_effects_is_repeatable(sql: str, repeatable: bool) -> None:
    assert checked(sql).repeatable is repeatable


@pytest.mark.parametrize(
    ("sql", "sent"),
    [
        ("select * from main.t", "select * from tenant_00.t"),
        ('select * from MAIN . t, "main".u', "select * from tenant_00 . t, tenant_00.u"),
        ("select main.id from t main", "select main.id from t main"),
        (
            "select main.t.a, 'main.t' from main.t -- main.t",
            "select tenant_00.t.a, 'main.t' from tenant_00.t -- main.t",
        ),
        ("select '陈', main.t.陈 from main.t", "select '陈', tenant_00.t.陈 from tenant_00.t"),
        ("drop table main.a, b, main.c", "drop table tenant_00.a, b, tenant_00.c"),
        ("select null::main.mood", "select null::tenant_00.mood"),
    ],
)
def test_main_becomes_the_real_schema_where_it_is_one(sql: str, sent: str) -> None:
    assert checked(sql).sql == sent


def test_where_main_is_ambiguous_the_caller_is_asked_to_leave_it_out() -> None:
    with pytest.raises(InvalidInput, match=r"without `main\.`"):
        checked("select null::main.mood from t main where main.a = 1")


def test_limits_say_which_and_how_to_mend() -> None:
    for sql, say in (
        ("select '" + "x" * MAX_BYTES + "'", "pass the data in params"),
        ("select " + ",".join(["1"] * MAX_TOKENS), "pass the data in params"),
        ("select " + "+".join(["1"] * MAX_DEPTH), "nested"),
    ):
        with pytest.raises(InvalidInput, match=say):
            checked(sql)


def test_a_large_insert_of_many_rows_passes() -> None:
    assert checked("insert into t values " + ",".join(["(1, 'a', null, now())"] * 1400)).writes


# Each nests one level per repetition; beyond the limit pglast would kill the process.
DEEP: dict[str, tuple[str, ...]] = {
    "sum": ("select 1", "+1", ""),
    "cast": ("select 1", "::int", ""),
    "is": ("select 1", " is null", ""),
    "collate": ("select 'a'", ' collate "C"', ""),
    "zone": ("select now()", " at time zone 'UTC'", ""),
    "union": ("select 1", " union select 1", ""),
    "union of lists": ("select 1, 2", " union select 1, 2", ""),
    "except": ("values (1)", " except values (1)", ""),
    "join": ("select from a", " cross join a", ""),
    "not": ("select ", "not ", "true"),
    "minus": ("select ", "- ", "1"),
    "array": ("select ", "array[", "1", "]"),
    "paren": ("select ", "(", "1", ")"),
    "subquery": ("select ", "(select ", "1", ")"),
    "case": ("select ", "case when true then ", "1", " end"),
    "call": ("select ", "abs(", "1", ")"),
    "cte": ("", "with a as (", "select 1", ") select 1"),
    "index": ("select a", "[1]", " from t"),
    "field": ("select (a)", ".b", " from t"),
}
_PROGRAM = """
import sys
from mcp_server.errors import AppError
from mcp_server.storage.sql.statements.check import check
from mcp_server.storage.sql.statements.grammar import Reserved
head, step, tail, ends = sys.argv[1:]
for count in (740, 990, 1490, 2990, 8000, 60000):
    for extra in ("", ends * count) if ends else ("",):
        sql = head + step * count + tail + extra
        try:
            check(sql, "tenant_00", writable=False, reserved=Reserved(frozenset(), frozenset()))
        except AppError:
            pass
"""


@pytest.mark.parametrize("shape", DEEP)
def test_no_depth_kills_the_process(shape: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *(*DEEP[shape], "")[:4]], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-400:]


WORDS = st.sampled_from(
    [
        "select",
        "from",
        "where",
        "(",
        ")",
        ",",
        ".",
        ";",
        "*",
        "+",
        "-",
        "::",
        "::",
        "=",
        "1",
        "'a'",
        '"b"',
        "t",
        "main",
        "main.t",
        "tenant_00",
        "pg_class",
        "x",
        "as",
        "with\n",
        "",
        "",
        "",
        "insert",
        "into",
        "values",
        "update",
        "set",
        "delete",
        "returning",
        "union",
        "all",
        "order",
        "by",
        "group",
        "having",
        "limit",
        "create",
        "table\n",
        "",
        "",
        "",
        "view",
        "index",
        "drop",
        "alter",
        "add",
        "column",
        "int",
        "text",
        "null",
        "not",
        "and",
        "or",
        "case",
        "when",
        "then",
        "end",
        "nextval",
        "pg_sleep\n",
        "",
        "",
        "",
        "regclass",
        "$1",
        "[",
        "]",
        "array",
        "exists",
        "in",
        "like",
        "any",
        "cast",
        "explain",
        "analyze",
        "for",
        "on",
        "conflict",
        "do",
        "nothing",
        "{\n",
        "",
        "",
        "",
        "}",
        "json_table",
        "lateral",
        "rows",
        "/*",
        "*/",
        "--",
        "$$",
        "\\",
        "\n",
        "陈",
        "using",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=60))
def test_any_text_is_checked_or_refused(sql: str) -> None:
    for writable in (False, True):
        try:
            found = checked(sql, writable=writable)
        except AppError as error:
            assert error.code in {"invalid_input", "forbidden"}
        else:
            assert writable or not (found.writes or found.effects) or "nextval" in sql
            assert not any(name.startswith("pg_") for name in found.reads | found.writes)


def test_the_corpora_agree_with_the_parser_alone() -> None:
    """Most of the hostile corpus is refused before a database is asked."""
    for line in (CORPUS / "allowed.sql").read_text(encoding="utf-8").splitlines():
        if not line.startswith("-- "):
            checked(line)
    for line in (CORPUS / "reading_refuses.sql").read_text(encoding="utf-8").splitlines():
        if not line.startswith("-- ") and "nextval" not in line and "setval" not in line:
            with pytest.raises(Forbidden):
                checked(line, writable=False)
