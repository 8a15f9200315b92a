"""The demo's first steps: a connection, then rows, values and objects."""

from __future__ import annotations

import csv
import io
import json
from importlib.resources import files

from mcp_server.commands.demo.tour import StepFailed, Tour

SHOWN_TOOLS = 30


def packaged(name: str) -> str:
    """Return the text of one of the files that travel with the demo."""
    return (files("mcp_server.commands.demo") / "data" / name).read_text(encoding="utf-8")


async def connect(tour: Tour) -> None:
    screen, client = tour.screen, tour.client
    screen.call("Client", f'("{tour.target.url}/mcp")')
    server = client.server_info
    name = f"{server.name} {server.version}" if server else "a server without a name"
    screen.result(f"{name}, protocol {client.protocol_version}")
    screen.call("tools/list")
    tools = [tool.name for tool in (await client.list_tools()).tools]
    screen.result(f"{len(tools)} tools: {', '.join(tools[:SHOWN_TOOLS])}")
    screen.call("resources/templates/list")
    templates = (await client.list_resource_templates()).resource_templates
    screen.result(" ".join(template.uri_template for template in templates))


async def sql(tour: Tour) -> None:
    screen, table = tour.screen, tour.table
    rows = list(csv.DictReader(io.StringIO(packaged("bridges.csv"))))
    tour.will_undo("sql_execute", sql=f"drop table if exists {table}")
    await tour.call(
        "sql_execute",
        sql=f"create table {table} (name text primary key, country text, opened int, kind text, span_m numeric)",
    )
    done = await tour.call(
        "sql_execute",
        sql=f"insert into {table} select * from json_to_recordset($1) "  # noqa: S608  our own name
        "as row(name text, country text, opened int, kind text, span_m numeric)",
        params=[json.dumps(rows)],
    )
    screen.result(f"{done['row_count']} rows from bridges.csv")
    if done["row_count"] != len(rows):
        raise StepFailed(f"{len(rows)} rows went in, {done['row_count']} arrived")
    found = await tour.call(
        "sql_query",
        sql="select kind, count(*) as bridges, max(span_m) as longest_m, "  # noqa: S608  our own name
        f"(array_agg(name order by span_m desc))[1] as record from {table} "
        "where opened >= $1 group by kind order by longest_m desc",
        params=[1900],
    )
    screen.table([column["name"] for column in found["columns"]], found["rows"])


async def kv(tour: Tour) -> None:
    screen, key = tour.screen, tour.key
    tour.will_undo("kv_delete", key=key)
    value = {"crossing": "Clifton Suspension Bridge", "toll": "1 pound"}
    first = await tour.call("kv_set", key=key, value=value)
    screen.result(first)
    seen = first["version"]
    value["toll"] = "2 pounds"
    second = await tour.call("kv_set", key=key, value=value, expected_version=seen)
    screen.result(f"version {seen} became {second['version']}")
    screen.note(f"A second writer that also read version {seen} comes too late:")
    late = {**value, "toll": "none"}
    refusal = await tour.refused("kv_set", key=key, value=late, expected_version=seen)
    screen.result(refusal)
    if not refusal.startswith("conflict"):
        raise StepFailed(f"the late write was refused with {refusal!r} instead of a conflict")
    kept = await tour.call("kv_get", key=key)
    screen.result(kept["value"])
    if kept["value"] != value:
        raise StepFailed(f"kv_get gave {kept['value']!r} instead of {value!r}")


async def objects(tour: Tour) -> None:
    screen, bucket = tour.screen, tour.bucket
    for name in ("notes_en.md", "notes_zh.md"):
        tour.will_undo("object_delete", bucket=bucket, key=name)
        info = await tour.call("object_put", bucket=bucket, key=name, text=packaged(name))
        screen.result(
            f"{info['size']} bytes, {info['content_type']}, etag {info['etag']}, id {info['id']}"
        )
    part = await tour.call("object_get", bucket=bucket, key="notes_en.md", range=[0, 79])
    screen.result(part["text"])
    text = await tour.read(f"object://{bucket}/notes_zh.md")
    screen.result(text)
    if text != packaged("notes_zh.md"):
        raise StepFailed("the resource holds another text than the one that was put")
