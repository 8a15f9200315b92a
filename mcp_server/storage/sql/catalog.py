"""What a tenant's schema holds, read from the catalog by the server's owner role and for one schema only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_server.errors import InvalidInput
from mcp_server.storage.sql import Detail
from mcp_server.storage.sql.values import PgType

# What fits one answer; a narrower pattern gets the rest.
MAX_TABLES: dict[Detail, int] = {"names": 10_000, "summary": 500, "full": 100}

# With the schema alone on the search path the deparsers leave it out of what they print.
_PATH = text("select set_config('search_path', :schema, true)")

# reltuples is -1 until the first ANALYZE; the statistics count from the first commit on, a little late.
_RELATIONS = text(
    """
    select c.oid::bigint, c.relname::text as name,
           case c.relkind when 'v' then 'view' when 'm' then 'materialized view' else 'table' end
               as kind,
           case when c.relkind = 'v' then null
                when c.reltuples >= 0 then c.reltuples::bigint
                when pg_stat_get_live_tuples(c.oid) > 0 then pg_stat_get_live_tuples(c.oid)
                when c.relkind <> 'p' and pg_relation_size(c.oid) = 0 then 0
           end as row_estimate,
           obj_description(c.oid, 'pg_class') as comment,
           case when c.relkind in ('v', 'm') and :full then pg_get_viewdef(c.oid, true) end
               as definition
    from pg_class c
    where c.relnamespace = (select oid from pg_namespace where nspname = :schema)
      and c.relkind in ('r', 'p', 'v', 'm') and c.relname like :pattern escape '\\'
    order by c.relname limit :most
    """
)
_COLUMNS = text(
    """
    select a.attrelid::bigint as relation, a.attname::text as name,
           format_type(a.atttypid, a.atttypmod) as type, not a.attnotnull as nullable,
           case when a.attidentity <> '' then 'identity'
                when a.attgenerated <> '' then 'generated: ' || pg_get_expr(d.adbin, d.adrelid)
                else pg_get_expr(d.adbin, d.adrelid) end as default,
           col_description(a.attrelid, a.attnum) as comment
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = any(:relations) and a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum
    """
)
_CONSTRAINTS = text(
    """
    select conrelid::bigint as relation, conname::text as name, contype::text as type,
           pg_get_constraintdef(oid, true) as definition
    from pg_constraint where conrelid = any(:relations) and contype in ('p', 'f', 'u', 'c', 'x')
    order by conrelid, contype = 'p' desc, conname
    """
)
_INDEXES = text(
    """
    select indrelid::bigint as relation, pg_get_indexdef(indexrelid, 0, true) as definition
    from pg_index where indrelid = any(:relations) order by indrelid, indexrelid
    """
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
    connection: AsyncConnection, schema: str, pattern: str, detail: Detail
) -> list[dict[str, Any]]:
    """Return the tables and views of `schema` whose name fits `pattern` (`*` and `%` stand for anything).

    names: name, kind. summary: also columns, row_estimate (not for a view), comment. full: also
    defaults, keys, constraints, indexes, and a view's definition. What is absent is left out.

    Raises:
        InvalidInput: more tables fit than one answer holds.
    """
    await connection.execute(_PATH, {"schema": schema})
    most = MAX_TABLES[detail]
    values = {"schema": schema, "pattern": _like(pattern), "full": detail == "full"}
    rows = (await connection.execute(_RELATIONS, values | {"most": most + 1})).mappings().all()
    if len(rows) > most:
        raise InvalidInput(
            f"pattern: it fits more than {most} tables; narrow it, or ask for less detail",
            param="pattern",
        )
    if detail == "names":
        return [{"name": row["name"], "kind": row["kind"]} for row in rows]
    tables: dict[int, dict[str, Any]] = {row["oid"]: _present(row, but="oid") for row in rows}
    for table in tables.values():
        table["columns"] = []
    oids = {"relations": list(tables)}
    for row in (await connection.execute(_COLUMNS, oids)).mappings():
        column = _present(row, but="relation")
        if detail == "summary":
            column.pop("default", None)
        tables[row["relation"]]["columns"].append(column)
    if detail == "full":
        for row in (await connection.execute(_CONSTRAINTS, oids)).mappings():
            entry = {"name": row["name"], "definition": row["definition"]}
            tables[row["relation"]].setdefault("constraints", []).append(entry)
        for row in (await connection.execute(_INDEXES, oids)).mappings():
            tables[row["relation"]].setdefault("indexes", []).append(row["definition"])
    return list(tables.values())


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


def _like(pattern: str) -> str:
    """`*` and `%` match anything; everything else, `_` too, stands for itself."""
    escaped = pattern.replace("\\", "\\\\").replace("_", "\\_")
    return escaped.replace("*", "%")
