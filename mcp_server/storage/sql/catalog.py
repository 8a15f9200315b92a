"""What a schema holds, read from PostgreSQL's catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.storage.sql import Detail, Wanted
from mcp_server.storage.sql.values import PgType

# What fits one answer; a narrower pattern gets the rest.
MAX_TABLES: dict[Detail, int] = {"names": 10_000, "summary": 500, "full": 100}
MAX_PARTS = 20_000  # columns, constraints or indexes of all tables together
MAX_BYTES = 1024 * 1024
_TEXT = 2000  # of one comment, default or constraint; a view's definition may have ten times that

# With the schema alone on the search path the deparsers leave it out of what they print.
_PATH = text("select set_config('search_path', :schema, true)")

# reltuples is -1 until the first ANALYZE; the statistics count from the first commit on, a little late.
_RELATIONS = text(
    f"""
    select c.oid::bigint, n.nspname::text as schema, c.relname::text as name,
           case c.relkind when 'v' then 'view' when 'm' then 'materialized view'
               when 'f' then 'foreign table' else 'table' end as kind,
           case when c.relkind in ('v', 'f') then null
                when c.reltuples >= 0 then c.reltuples::bigint
                when pg_stat_get_live_tuples(c.oid) > 0 then pg_stat_get_live_tuples(c.oid)
                when c.relkind <> 'p' and pg_relation_size(c.oid) = 0 then 0
           end as row_estimate,
           left(obj_description(c.oid, 'pg_class'), {_TEXT}) as comment,
           case when c.relkind in ('v', 'm') and :full
               then left(pg_get_viewdef(c.oid, true), {_TEXT * 10}) end as definition,
           case when c.relname like :pattern or n.nspname || '.' || c.relname like :pattern
               or :pattern = '%' or :exact then null
               else array(
                   select a.attname::text from pg_attribute a
                   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                     and a.attname like :pattern order by a.attnum limit 100) end as matches
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
      and case when :every
          then n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'
               and has_schema_privilege(n.oid, 'usage')
               and has_any_column_privilege(c.oid, 'select')
          else n.nspname = :schema end
      and case when :exact then c.relname = :pattern
          else c.relname like :pattern
               or (:every and n.nspname || '.' || c.relname like :pattern)
               or exists (select from pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                            and a.attname like :pattern) end
    order by n.nspname, c.relname limit :most
    """  # noqa: S608  only our own constants
)
# In the order of the tables, so that what does not fit is cut off their end.
_ORDER = "order by array_position(cast(:relations as bigint[]), relation)"
_COLUMNS = text(
    f"""
    select a.attrelid::bigint as relation, a.attname::text as name,
           format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
           case when a.attidentity <> '' then 'identity'
                when a.attgenerated <> '' then 'generated: ' || left(pg_get_expr(d.adbin, d.adrelid), {_TEXT})
                else left(pg_get_expr(d.adbin, d.adrelid), {_TEXT}) end as default,
           left(col_description(a.attrelid, a.attnum), {_TEXT}) as comment
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = any(cast(:relations as bigint[])) and a.attnum > 0 and not a.attisdropped
    {_ORDER.replace("relation)", "a.attrelid::bigint)")}, a.attnum limit :parts
    """  # noqa: S608
)
_CONSTRAINTS = text(
    f"""
    select conrelid::bigint as relation, conname::text as name, contype::text as type,
           left(pg_get_constraintdef(oid, true), {_TEXT}) as definition,
           array(select a.attname::text from unnest(conkey) with ordinality k (num, at)
                 join pg_attribute a on a.attrelid = conrelid and a.attnum = k.num order by k.at)
               as columns,
           array(select a.attname::text from unnest(confkey) with ordinality k (num, at)
                 join pg_attribute a on a.attrelid = confrelid and a.attnum = k.num order by k.at)
               as referenced,
           case when confrelid <> 0 then (
               select case when n.nspname = :schema then '' else n.nspname || '.' end || r.relname
               from pg_class r join pg_namespace n on n.oid = r.relnamespace
               where r.oid = confrelid) end as target
    from pg_constraint
    where conrelid = any(cast(:relations as bigint[])) and contype in ('p', 'f', 'u', 'c', 'x')
      and (:full or contype = 'p')
    {_ORDER.replace("relation)", "conrelid::bigint)")}, contype = 'p' desc, conname
    limit :parts
    """  # noqa: S608
)
_INDEXES = text(
    f"""
    select indrelid::bigint as relation,
           left(pg_get_indexdef(indexrelid, 0, true), {_TEXT}) as definition
    from pg_index where indrelid = any(cast(:relations as bigint[]))
    {_ORDER.replace("relation)", "indrelid::bigint)")}, indexrelid limit :parts
    """  # noqa: S608
)
_TYPES = text(
    """
    select t.oid::bigint, format_type(t.oid, null) as name, b.typname::text as base,
           t.typdelim::text, case when t.typcategory = 'A' then t.typelem::bigint else 0 end as element
    from pg_type t join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
    where t.oid = any(:oids)
    """
)


async def describe(
    connection: AsyncConnection, schema: str, wanted: Wanted
) -> tuple[list[dict[str, Any]], bool]:
    """Return the tables and views of `schema` that fit, and whether some were left out.

    A table fits by its name or by a column's: the latter has `matches`, the columns that do. names:
    name, kind. summary: also columns, primary_key, row_estimate (not for a view), comment. full: also
    defaults, foreign_keys, constraints, indexes, and a view's definition. What is absent is left out.
    """
    await connection.execute(_PATH, {"schema": schema})
    most, full = MAX_TABLES[wanted.detail], wanted.detail == "full"
    values = {"schema": schema, "full": full, "every": wanted.every, "exact": wanted.exact}
    values |= {"pattern": wanted.pattern if wanted.exact else _like(wanted.pattern)}
    rows = (await connection.execute(_RELATIONS, values | {"most": most + 1})).mappings().all()
    tables = {row["oid"]: _table(row, wanted) for row in rows[:most]}
    if wanted.detail == "names":
        kept = ("schema", "name", "kind", "matches")
        return [_part(item, *kept) for item in tables.values()], len(rows) > most
    for table in tables.values():
        table["columns"] = []
    given = {"schema": schema, "full": full, "parts": MAX_PARTS + 1}
    short = False
    for query, add in _PARTS if full else _PARTS[:2]:
        bound = {name: given[name] for name in given if f":{name}" in query.text}
        bound |= {"relations": list(tables)}
        parts = (await connection.execute(query, bound)).mappings().all()
        short |= _cut(tables, parts)
        for row in parts:
            if row["relation"] in tables:
                add(tables[row["relation"]], row, full)
    fitting = _fitting(tables.values())
    return fitting, short or len(rows) > most or len(fitting) < len(tables)


def _add_column(table: dict[str, Any], row: Mapping[Any, Any], full: bool) -> None:
    column = _present(row, but="relation")
    if not full:
        column.pop("default", None)
    table["columns"].append(column)


def _add_constraint(table: dict[str, Any], row: Mapping[Any, Any], full: bool) -> None:
    if row["type"] == "p":
        table["primary_key"] = row["columns"]
    if not full:
        return
    if row["type"] == "f":
        key = {"columns": row["columns"], "table": row["target"], "references": row["referenced"]}
        table.setdefault("foreign_keys", []).append(key)
    entry = {"name": row["name"], "definition": row["definition"]}
    table.setdefault("constraints", []).append(entry)


def _add_index(table: dict[str, Any], row: Mapping[Any, Any], full: bool) -> None:
    del full
    table.setdefault("indexes", []).append(row["definition"])


_PARTS = ((_COLUMNS, _add_column), (_CONSTRAINTS, _add_constraint), (_INDEXES, _add_index))


async def types(connection: AsyncConnection, schema: str, oids: Iterable[int]) -> dict[int, PgType]:
    """Return the types with these OIDs, as seen from `schema`; a domain counts as its base type."""
    await connection.execute(_PATH, {"schema": schema})
    rows = (await connection.execute(_TYPES, {"oids": list(oids)})).all()
    elements = [row.element for row in rows if row.element]
    below = await types(connection, schema, elements) if elements else {}
    return {
        row.oid: PgType(row.name, row.base, below.get(row.element), row.typdelim) for row in rows
    }


def _present(row: Mapping[Any, Any], *, but: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != but and value is not None}


def _part(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: table[key] for key in keys if key in table}


def _table(row: Mapping[Any, Any], wanted: Wanted) -> dict[str, Any]:
    table = _present(row, but="oid")
    if not wanted.every:
        del table["schema"]
    return table


def _cut(tables: dict[int, dict[str, Any]], parts: Sequence[Mapping[Any, Any]]) -> bool:
    """Leave out the tables of which not all parts are here; tell whether there are such."""
    if len(parts) <= MAX_PARTS:
        return False
    order = list(tables)
    for relation in order[max(order.index(parts[-1]["relation"]), 1) :]:
        del tables[relation]
    return True


def _fitting(tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return as many as fit the answer, one at least."""
    fitting: list[dict[str, Any]] = []
    size = 0
    for table in tables:
        size += len(json.dumps(table, ensure_ascii=False))
        if fitting and size > MAX_BYTES:
            break
        fitting.append(table)
    return fitting


def _like(pattern: str) -> str:
    """`*` and `%` match anything, `?` one character; everything else, `_` too, stands for itself."""
    escaped = pattern.replace("\\", "\\\\").replace("_", "\\_").replace("?", "_")
    return re.sub("[*%]+", "%", escaped)
