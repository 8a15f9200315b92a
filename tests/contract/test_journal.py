"""The journal: no entry is skipped, however late its transaction commits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_server import journal
from mcp_server.auth.principal import Principal
from mcp_server.errors import InvalidInput
from mcp_server.operation import Operations
from mcp_server.services.changes import ChangeService
from mcp_server.storage.sql import schema


async def write(tx: AsyncConnection, principal: Principal, uri: str) -> None:
    entry: dict[str, Any] = {
        "version": 1,
        "prev_version": None,
        "run": None,
        "step": None,
        "labels": [],
    }
    await journal.append(
        tx, tenant=principal.tenant, subject=principal.subject, verb="write", uri=uri, **entry
    )


async def uris(
    control: AsyncEngine, principal: Principal, after: str | None
) -> tuple[list[str], str | None]:
    rows, last = await journal.read(control, principal.tenant, after, 100)
    return [row["uri"] for row in rows], last


async def test_an_entry_that_commits_late_is_never_skipped(
    control: AsyncEngine, principal: Principal
) -> None:
    async with control.connect() as slow:
        await slow.begin()
        await write(slow, principal, "kv://d/slow")
        async with control.begin() as fast:
            await write(fast, principal, "kv://d/fast")
        seen, position = await uris(control, principal, None)
        assert seen == []  # the slow one is older and still open: nothing at or after it is shown
        await slow.commit()
    seen, position = await uris(control, principal, position)
    assert seen == ["kv://d/slow", "kv://d/fast"]
    assert (await uris(control, principal, position))[0] == []


async def test_what_is_rolled_back_leaves_no_entry(
    control: AsyncEngine, principal: Principal
) -> None:
    async with control.connect() as tx:
        await tx.begin()
        await write(tx, principal, "kv://d/never")
        await tx.rollback()
    assert (await uris(control, principal, None))[0] == []


async def test_pages_follow_each_other_without_gap_or_repetition(
    control: AsyncEngine, principal: Principal
) -> None:
    wanted = [f"kv://d/{number:03}" for number in range(25)]
    async with control.begin() as tx:
        for uri in wanted:
            await write(tx, principal, uri)
    seen: list[str] = []
    position: str | None = None
    while True:
        rows, position = await journal.read(control, principal.tenant, position, 4)
        if not rows:
            break
        seen += [row["uri"] for row in rows]
    assert seen == wanted


@pytest.mark.parametrize(
    "after",
    ["", "1", "x.1", "1.x", "-1.2", "1.2.3", "99999999999999999999.1", "1.²", "1." + "9" * 5000],
)
async def test_what_is_no_position_is_refused(
    control: AsyncEngine, principal: Principal, after: str
) -> None:
    with pytest.raises(InvalidInput, match="next_after"):
        await journal.read(control, principal.tenant, after, 10)


async def test_a_day_gets_its_partition_once_and_entries_go_there(
    control: AsyncEngine, principal: Principal
) -> None:
    await journal.ensure_partitions(control)
    await journal.ensure_partitions(control)
    async with control.begin() as tx:
        await write(tx, principal, "kv://d/today")
    today = datetime.now(UTC).date()
    async with control.connect() as tx:
        where = await tx.scalar(
            text("select tableoid::regclass::text from journal where tenant = :t"),
            {"t": principal.tenant},
        )
    assert where == f"journal_{today:%Y%m%d}"
    await journal.ensure_partitions(control, date(2031, 1, 31))
    async with control.connect() as tx:
        assert await tx.scalar(text("select to_regclass('journal_20310201')")) is not None


async def test_everything_new_is_seen_from_the_end_on(
    control: AsyncEngine, principal: Principal
) -> None:
    position = await journal.end(control)
    async with control.begin() as tx:
        await write(tx, principal, "kv://d/new")
    changes, position = await journal.read_everything(control, position, 100)
    assert (principal.tenant, "kv://d/new") in [(row.tenant, row.uri) for row in changes]
    again, _ = await journal.read_everything(control, position, 100)
    assert (principal.tenant, "kv://d/new") not in [(row.tenant, row.uri) for row in again]


async def entry_of_old(control: AsyncEngine, principal: Principal, day: date, uri: str) -> None:
    """Write an entry as if that day were today."""
    query = text(
        "insert into journal (tenant, subject, verb, uri, at) values (:t, 's', 'write', :u, :d)"
    )
    async with control.begin() as tx:
        await tx.execute(query, {"t": principal.tenant, "u": uri, "d": day})


async def test_whole_old_days_are_forgotten_and_who_missed_them_is_told(
    control: AsyncEngine, principal: Principal, stranger: Principal
) -> None:
    today = datetime.now(UTC).date()
    await journal.ensure_partitions(control, today - timedelta(days=9))
    before = f"{(await journal.end(control))[0]}.0"
    for back, name in ((30, "no day of its own"), (9, "old"), (8, "old too"), (0, "new")):
        day = today - timedelta(days=back)
        await entry_of_old(control, principal, day, f"kv://d/{name}")
    await entry_of_old(control, stranger, today, "kv://d/theirs")
    seen, position = await uris(control, principal, before)
    assert len(seen) == 4
    assert await journal.drop_old(control, 20) == 0
    assert (await uris(control, principal, None))[0] == seen[1:]
    assert await journal.drop_old(control, 7) == 2
    assert await journal.drop_old(control, 7) == 0
    assert (await uris(control, principal, None))[0] == ["kv://d/new"]
    with pytest.raises(InvalidInput, match=r"not kept any more .*JOURNAL_DAYS"):
        await uris(control, principal, before)
    # Who had read them, or had none to read, misses nothing.
    assert (await uris(control, principal, position))[0] == []
    assert (await uris(control, stranger, before))[0] == ["kv://d/theirs"]


async def test_a_reader_whose_filter_fits_nothing_goes_forward_all_the_same(
    control: AsyncEngine, principal: Principal
) -> None:
    async with control.begin() as tx:
        for number in range(5):
            await write(tx, principal, f"kv://d/{number}")
    rows, position = await journal.read(
        control, principal.tenant, None, 10, schema.journal.c.uri == "kv://d/other"
    )
    assert rows == []
    assert (await uris(control, principal, position))[0] == []
    async with control.begin() as tx:
        await write(tx, principal, "kv://d/later")
    assert (await uris(control, principal, position))[0] == ["kv://d/later"]


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"type": "eq", "key": "uri", "value": "kv://a/*"}, ["kv://a/1", "kv://a/2"]),
        ({"type": "ne", "key": "uri", "value": "kv://a/*"}, ["kv://b/1"]),
        ({"type": "eq", "key": "uri", "value": "kv://a/1"}, ["kv://a/1"]),
        ({"type": "eq", "key": "verb", "value": "write"}, ["kv://a/1", "kv://a/2", "kv://b/1"]),
        ({"type": "eq", "key": "run", "value": "run_1"}, []),
        (
            {
                "type": "or",
                "filters": [
                    {"type": "eq", "key": "uri", "value": "kv://b*"},
                    {"type": "eq", "key": "uri", "value": "kv://a/2"},
                ],
            },
            ["kv://a/2", "kv://b/1"],
        ),
    ],
)
async def test_changes_are_found_by_uri_prefix_verb_and_run(
    control: AsyncEngine,
    operations: Operations,
    principal: Principal,
    filter: dict[str, Any],  # noqa: A002
    found: list[str],
) -> None:
    async with control.begin() as tx:
        for uri in ("kv://a/1", "kv://a/2", "kv://b/1"):
            await write(tx, principal, uri)
    page = await ChangeService(operations, control).list(principal, filter=filter)
    assert [item["uri"] for item in page["items"]] == found


async def test_a_day_that_began_without_its_partition_goes_on_without_it(
    control: AsyncEngine, principal: Principal
) -> None:
    day = date(2041, 5, 6)
    entry = text(
        "insert into journal (tenant, verb, uri, subject, at)"
        " values (:tenant, 'write', 'kv://d/early', 'u', '2041-05-06T12:00:00Z')"
    )
    async with control.begin() as tx:
        await tx.execute(entry, {"tenant": principal.tenant})
    await journal.ensure_partitions(control, day)
    await journal.ensure_partitions(control, day)
    made = text(
        "select to_regclass('journal_20410506')::text, to_regclass('journal_20410507')::text"
    )
    async with control.connect() as tx:
        early, later = (await tx.execute(made)).one()
    assert (early, later) == (None, "journal_20410507")
    assert (await uris(control, principal, None))[0] == ["kv://d/early"]


async def test_what_a_run_wrote_is_found_among_much_that_others_wrote(
    control: AsyncEngine, principal: Principal
) -> None:
    entries = text(
        "insert into journal (tenant, verb, uri, run, subject)"
        " select :tenant, 'write', 'kv://d/' || n, case when n % 1000 = 0 then 'run_x' end, 'u'"
        " from generate_series(1, 50000) n"
    )
    tenant = {"tenant": principal.tenant}
    async with control.connect() as tx:
        await tx.begin()
        await tx.execute(entries, tenant)
        await tx.execute(text("analyze journal"))
        found = "select uri from journal where tenant = :tenant and run in ('run_x', 'run_y')"
        assert len((await tx.execute(text(found), tenant)).all()) == 50
        plan = await tx.execute(text(f"explain (analyze, format json) {found}"), tenant)
        (top,) = plan.scalar_one()
        # Partitions that hold next to nothing are read whole.
        read = [each.get("Rows Removed by Filter", 0) for each in top["Plan"]["Plans"]]
        assert sum(read) < 1000, top
        await tx.rollback()
