"""One row for each tool and resource: what to prepare, what to ask, what every door must answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Step = tuple[str, dict[str, Any]]

# What differs from call to call by nature; everything else must be the same at every door.
VOLATILE = frozenset(
    {
        "version",
        "id",
        "run",
        "created_at",
        "updated_at",
        "started_at",
        "ended_at",
        "next_after",
        "since",
        "until",
        "change",
        "unit",
        "at",
        "last_event",
        "url",
        "expires_at",
    }
)


@dataclass(frozen=True)
class Row:
    """`expect` is part of the structured result; `error` is an argument change with the error's text."""

    arguments: dict[str, Any]
    expect: dict[str, Any]
    error: tuple[dict[str, Any], str]
    before: tuple[Step, ...] = ()


TABLE: Step = (
    "sql_execute",
    {"sql": "create table if not exists door_t (a int primary key, b text)"},
)
ONE_ROW: Step = (
    "sql_execute",
    {"sql": "insert into door_t values (1, 'x') on conflict do nothing"},
)
TEXT = {
    "store": "door",
    "document": "d1",
    "text": "An isthmus joins two lands.",
    "metadata": {"lang": "en"},
}
AGENT = {"name": "door-agent", "instructions": "Answer."}
SCHEDULE = {
    "name": "door",
    "timing": {"cron": "0 0 1 1 *"},
    "work": {"agent": "door-agent", "input": "x"},
}
TRIGGER = {
    "name": "door",
    "condition": {"uri": "kv://default/door-never"},
    "work": {"agent": "door-agent"},
}
MISSING_RUN = "run_" + "0" * 32
# An agent whose run waits for an approval: `$asking` in a row is a new run of it each time.
ASKING: Step = (
    "agent_save",
    {"name": "door-asking", "instructions": "x", "tools": ["kv_list"], "approve": ["kv_list"]},
)
ASK = {"agent": "door-asking", "input": '{"tool": "kv_list", "arguments": {}}'}

TOOLS: dict[str, Row] = {
    "sql_query": Row(
        {"sql": "select a, b from door_t where a = $1", "params": ["1"]},
        {"columns": [{"name": "a", "type": "integer"}, {"name": "b", "type": "text"}], "rows": [[1, "x"]],
         "row_count": 1, "truncated": False, "next_cursor": None},
        ({"sql": "drop table door_t"}, "^(forbidden|invalid_input): "),
        (TABLE, ONE_ROW),
    ),
    "sql_execute": Row(
        {"sql": "update door_t set b = 'x' where a = 1"},
        {"row_count": 1},
        ({"sql": "select pg_read_file('/etc/passwd')"}, "^(forbidden|invalid_input): "),
        (TABLE, ONE_ROW),
    ),
    "sql_explain": Row(
        {"sql": "select a from door_t where a = $1", "params": ["1"]},
        {"analyzed": False, "milliseconds": None},
        ({"sql": "drop table door_t"}, "^invalid_input: sql: DROP has no plan"),
        (TABLE, ONE_ROW),
    ),
    "sql_schema": Row(
        {"pattern": "door_t"},
        {},
        ({"detail": "everything"}, "^invalid_input: detail: 'everything' does not fit"),
        (TABLE,),
    ),
    "kv_get": Row(
        {"key": "door"}, {"key": "door", "namespace": "default", "value": {"a": [1, None]}, "expires_at": None},
        ({"key": "absent"}, "^not_found: "), (("kv_set", {"key": "door", "value": {"a": [1, None]}}),),
    ),
    "kv_set": Row(
        {"key": "door-set", "value": "text"}, {"key": "door-set", "value": "text"},
        ({"expected_version": 1}, "^conflict: version is [0-9]+$"),
    ),
    "kv_get_many": Row(
        {"keys": ["door", "door-absent"]}, {"missing": ["door-absent"]},
        ({"keys": []}, "^invalid_input: keys: 0 keys are not within 1-100"),
        (("kv_set", {"key": "door", "value": {"a": [1, None]}}),),
    ),
    "kv_increment": Row(
        {"key": "door-sum", "by": 0}, {"key": "door-sum", "value": 0.3},
        ({"key": "door"}, "^conflict: the value of this key is not a number"),
        (("kv_set", {"key": "door-sum", "value": 0.3}), ("kv_set", {"key": "door", "value": {"a": [1, None]}})),
    ),
    "kv_lease": Row(
        {"key": "door-lease", "ttl_seconds": 60, "token": 1},
        {"key": "door-lease", "namespace": "default", "token": None, "acquired": False},
        ({"ttl_seconds": 0}, "^invalid_input: ttl_seconds: 0"),
    ),
    "kv_release": Row(
        {"key": "door-lease", "token": 1}, {"released": False}, ({"token": 0}, "^invalid_input: token: 0 is no token"),
    ),
    "kv_delete": Row(
        {"key": "door-absent"}, {"deleted": False}, ({"expected_version": 7}, "^conflict: version is 0$"),
    ),
    "kv_list": Row(
        {"prefix": "door-list/"}, {"next_cursor": None}, ({"limit": 0}, "^invalid_input: limit: 0 is not within 1-1000"),
        (("kv_set", {"key": "door-list/1", "value": 1}), ("kv_set", {"key": "door-list/2", "value": 2})),
    ),
    "object_put": Row(
        {"key": "door/put.txt", "text": "hello"},
        {"bucket": "default", "key": "door/put.txt", "size": 5, "content_type": "text/plain"},
        ({"base64": "aGk="}, "^invalid_input: "),
    ),
    "object_get": Row(
        {"key": "door/get.txt", "range": [1, 3]}, {"key": "door/get.txt", "size": 5, "text": "ell"},
        ({"key": "absent"}, "^not_found: "), (("object_put", {"key": "door/get.txt", "text": "hello"}),),
    ),
    "object_list": Row(
        {"prefix": "door-list/"}, {"next_cursor": None}, ({"limit": 100000}, "^invalid_input: limit"),
        (("object_put", {"key": "door-list/a", "text": "a"}),),
    ),
    "object_stat": Row(
        {"key": "door/stat.txt"},
        {"key": "door/stat.txt", "size": 5, "metadata": {}, "tags": {"a": "b"}, "replaced_at": None,
         "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"},
        ({"key": "absent"}, "^not_found: "),
        (("object_put", {"key": "door/stat.txt", "text": "hello", "tags": {"a": "b"}}),),
    ),
    "object_versions": Row(
        {"key": "door/stat.txt", "limit": 1}, {}, ({"key": "absent"}, "^not_found: "),
        (("object_put", {"key": "door/stat.txt", "text": "hello", "tags": {"a": "b"}}),),
    ),
    "object_copy": Row(
        {"key": "door/stat.txt", "to_key": "door/copy.txt"}, {"key": "door/copy.txt", "size": 5},
        ({"if_none_match": "*"}, "^conflict: the object exists, etag is "),
        (("object_put", {"key": "door/stat.txt", "text": "hello", "tags": {"a": "b"}}),),
    ),
    "object_tag": Row(
        {"key": "door/tag.txt", "tags": {"a": "b"}}, {"key": "door/tag.txt", "size": 5},
        ({"key": "absent"}, "^not_found: "), (("object_put", {"key": "door/tag.txt", "text": "hello"}),),
    ),
    "object_link": Row(
        {"key": "door/stat.txt", "ttl_seconds": 60}, {"method": "GET"}, ({"key": "absent"}, "^not_found: "),
        (("object_put", {"key": "door/stat.txt", "text": "hello", "tags": {"a": "b"}}),),
    ),
    "object_link_revoke": Row(
        {"key": "door/stat.txt", "url": "http://127.0.0.1/links/none"}, {"revoked": 0},
        ({"key": "../x"}, "^invalid_input: key"),
    ),
    "object_delete": Row({"key": "door-absent"}, {"deleted": False}, ({"key": "../x"}, "^invalid_input: key")),
    "vector_add": Row(
        TEXT, {"store": "door", "document": "d1", "chunks": 1}, ({"url": "http://127.0.0.1/"}, "^invalid_input: text: give text, object or url"),
    ),
    "vector_ingest": Row(
        {"store": "door", "sources": [{key: TEXT[key] for key in ("text", "document", "metadata")}]},
        {"store": "door", "added": 1, "failed": 0, "documents": [{"document": "d1", "chunks": 1}]},
        ({"sources": []}, "^invalid_input: sources: give 1 to 1000"),
    ),
    "vector_search": Row(
        {"store": "door", "query": "isthmus", "mode": "text", "k": 1}, {}, ({"store": "absent"}, "^not_found: "),
        (("vector_add", TEXT),),
    ),
    "vector_delete": Row(
        {"store": "door", "document": "absent"}, {"deleted": 0},
        ({"filter": {"type": "like", "key": "a", "value": 1}}, "^invalid_input: "), (("vector_add", TEXT),),
    ),
    "vector_update": Row(
        {"store": "door", "metadata": {"a": 1}, "document": "d1"}, {"updated": 1},
        ({"metadata": {"a": "x" * 20_000}}, "^invalid_input: metadata"), (("vector_add", TEXT),),
    ),
    "vector_store_delete": Row(
        {"store": "door-absent"}, {"deleted": False}, ({"store": "a/b"}, "^invalid_input: store"),
    ),
    "vector_list": Row(
        {"store": "door"}, {"next_cursor": None}, ({"store": "absent"}, "^not_found: "), (("vector_add", TEXT),),
    ),
    "agent_save": Row(
        AGENT, {"name": "door-agent", "instructions": "Answer.", "model": "default"},
        ({"tools": ["no_such_tool"]}, "^invalid_input: "),
    ),
    "agent_get": Row(
        {"name": "door-agent"}, {"name": "door-agent", "instructions": "Answer.", "paused": False},
        ({"name": "absent"}, "^not_found: "), (("agent_save", AGENT),),
    ),
    "agent_versions": Row({"name": "door-agent"}, {}, ({"name": "absent"}, "^not_found: "), (("agent_save", AGENT),)),
    "agent_pause": Row(
        {"name": "door-resting"}, {"paused": True}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", {**AGENT, "name": "door-resting"}),),
    ),
    "agent_resume": Row(
        {"name": "door-resting"}, {"paused": False}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", {**AGENT, "name": "door-resting"}),),
    ),
    "agent_delete": Row({"name": "door-absent"}, {"deleted": False}, ({"name": "a/b"}, "^invalid_input: name")),
    "schedule_save": Row(
        SCHEDULE, {"name": "door", "enabled": True, "stopped": None, "last_run": None},
        ({"timing": {"cron": "99 * * * *"}}, "^invalid_input: cron"), (("agent_save", AGENT),),
    ),
    "schedule_list": Row({}, {}, ({"limit": 1}, "^invalid_input: limit: schedule_list has no such argument")),
    "schedule_preview": Row(
        {"name": "door", "timing": {"at": "2099-01-01T00:00:00Z"}, "count": 2},
        {"items": [{"tick": "2099-01-01T00:00:00Z", "fires_at": "2099-01-01T00:00:00Z"}]},
        ({"count": 0}, "^invalid_input: count"),
    ),
    "schedule_pause": Row(
        {"name": "door"}, {"enabled": False}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", AGENT), ("schedule_save", SCHEDULE)),
    ),
    "schedule_resume": Row(
        {"name": "door"}, {"enabled": True}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", AGENT), ("schedule_save", SCHEDULE)),
    ),
    "schedule_delete": Row({"name": "door-absent"}, {"deleted": False}, ({"name": "a/b"}, "^invalid_input: name")),
    "trigger_save": Row(
        TRIGGER, {"name": "door", "enabled": True, "stopped": None, "last_run": None},
        ({"condition": {"uri": "x"}}, "^invalid_input: condition.uri"), (("agent_save", AGENT),),
    ),
    "trigger_list": Row({}, {}, ({"limit": 1}, "^invalid_input: limit: trigger_list has no such argument")),
    "trigger_pause": Row(
        {"name": "door"}, {"enabled": False}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", AGENT), ("trigger_save", TRIGGER)),
    ),
    "trigger_resume": Row(
        {"name": "door"}, {"enabled": True}, ({"name": "absent"}, "^not_found: "),
        (("agent_save", AGENT), ("trigger_save", TRIGGER)),
    ),
    "trigger_delete": Row({"name": "door-absent"}, {"deleted": False}, ({"name": "a/b"}, "^invalid_input: name")),
    "agent_list": Row({}, {}, ({"limit": 1}, "^invalid_input: limit: agent_list has no such argument"), (("agent_save", AGENT),)),
    "agent_stats": Row(
        {"agent": "door-never"}, {"items": [], "versions": [], "items_left_out": 0},
        ({"hours": 0}, "^invalid_input: hours: 0.0 is not within 0-8784"),
    ),
    "agent_run": Row(
        {"agent": "door-agent-run", "input": '{"tool": "kv_get", "arguments": {"key": "door"}}'},
        {"status": "completed", "error": None}, ({"agent": "absent"}, "^not_found: "),
        (("kv_set", {"key": "door", "value": {"a": [1, None]}}),
         ("agent_save", {"name": "door-agent-run", "instructions": "Use tools.", "tools": ["kv_get"]})),
    ),
    "run_get": Row({"run": "$run"}, {"status": "completed"}, ({"run": MISSING_RUN}, "^not_found: ")),
    "run_list": Row(
        {"agent": "door-run", "status": "completed", "limit": 1}, {},
        ({"status": "sleeping"}, "^invalid_input: status: 'sleeping' is none of queued"),
    ),
    "run_events": Row({"run": "$run", "limit": 1}, {"status": "completed"}, ({"run": MISSING_RUN}, "^not_found: ")),
    "run_trace": Row(
        {"run": "$run", "limit": 1}, {"status": "completed", "agent": "door-run", "attempts": 1, "error": None},
        ({"run": MISSING_RUN}, "^not_found: "),
    ),
    "run_input": Row(
        {"run": "$asking", "answer": {"approved": False}}, {"status": "queued", "request": None},
        ({"run": MISSING_RUN}, "^not_found: "), (ASKING,),
    ),
    "run_cancel": Row({"run": "$run"}, {"status": "completed"}, ({"run": MISSING_RUN}, "^not_found: ")),
    "changes": Row(
        {"filter": {"type": "eq", "key": "uri", "value": "kv://default/door-once"}, "limit": 1},
        {}, ({"after": "nowhere"}, "^invalid_input: after"), (("kv_set", {"key": "door-once", "value": 1}),),
    ),
    "undo": Row(
        {"change": "$change"}, {"uri": "kv://default/door-undo", "restored": None},
        ({"change": "0.0"}, "^not_found: there is no change '0.0'"),
    ),
    "run_undo": Row({"run": "$run"}, {"preview": False, "undone": []}, ({"run": MISSING_RUN}, "^not_found: ")),
    "write_together": Row(
        {"rows": [{"sql": "update door_t set b = 'x' where a = 1"}], "keys": [{"key": "door-unit", "value": 1}]},
        {"objects": [], "documents": []},
        ({"keys": [{"key": "door-unit", "value": 1, "expected_version": 0}]}, r"^conflict: keys\[0\]: version is [0-9]+$"),
        (TABLE, ONE_ROW),
    ),
    "model_list": Row({}, {}, ({"limit": 1}, "^invalid_input: limit")),
}  # fmt: skip


@dataclass(frozen=True)
class ResourceRow:
    uri: str
    mime_type: str
    contains: str
    absent: str
    before: tuple[Step, ...] = field(default=())


RESOURCES: dict[str, ResourceRow] = {
    "sql://{schema}/{table}": ResourceRow(
        "sql://main/door_t", "application/json", '"door_t"', "sql://main/no_such_table", (TABLE, ONE_ROW)
    ),
    "kv://{namespace}/{+key}": ResourceRow(
        "kv://default/door/text", "text/plain", "plain", "kv://default/absent",
        (("kv_set", {"key": "door/text", "value": "plain"}),),
    ),
    "object://{bucket}/{+key}": ResourceRow(
        "object://default/door/r.bin", "application/octet-stream", "AAEC", "object://default/absent",
        (("object_put", {"key": "door/r.bin", "base64": "AAEC", "content_type": "application/octet-stream"}),),
    ),
    "vector://{store}/{document}": ResourceRow(
        "vector://door/d1", "application/json", "joins two lands", "vector://door/absent", (("vector_add", TEXT),)
    ),
    "agent://{name}": ResourceRow(
        "agent://door-agent", "application/json", '"Answer."', "agent://absent", (("agent_save", AGENT),)
    ),
    "run://{id}": ResourceRow("run://$run", "application/json", '"completed"', f"run://{MISSING_RUN}"),
    "model://{+id}": ResourceRow("model://obedient", "application/json", '"obedient"', "model://absent/model"),
}  # fmt: skip
