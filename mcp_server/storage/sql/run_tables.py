"""The tables of the run engine in the control database, as SQLAlchemy Core objects; migrations/ holds their DDL."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, Table, Text
from sqlalchemy.dialects.postgresql import ARRAY

from mcp_server.storage.sql.schema import JsonText, Xid8, at, metadata

run_leases = Table(
    "run_leases",
    metadata,
    Column("epoch", BigInteger, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    at("taken_at"),
    at("expires_at"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("grant_scopes", ARRAY(Text), nullable=False),
    # What executes it: `agent`, or `tool/NAME`. A worker claims only the kinds that it knows.
    Column("kind", Text, nullable=False),
    Column("agent", Text),
    Column("agent_version", BigInteger),
    Column("definition", JsonText),
    Column("input", JsonText),
    Column("status", Text, nullable=False),
    Column("output", JsonText),
    Column("error", JsonText),
    Column("usage", JsonText),
    # What it used up so far, and after its end in all, as its events tell.
    Column("turns", Integer, nullable=False),
    Column("tool_calls", Integer, nullable=False),
    Column("tool_errors", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", Double, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    # The epoch of the lease that holds it; set while it is running, and only then.
    Column("lease", BigInteger),
    Column("priority", Integer, nullable=False),
    at("not_before"),
    Column("dedupe_key", Text),
    # The schedule, trigger or run that began it.
    Column("origin", Text),
    # The span that it was begun in: a child's in its parent's trace, else the caller's own.
    Column("traceparent", Text),
    # The conversation that it goes on with, and its place among the live runs that do: the first runs.
    Column("conversation", Text),
    Column("turn", BigInteger),
    # The run whose question it asks as its own.
    Column("awaits", Text),
    # How often it was claimed; how often it failed and was tried again; how often in a row its
    # worker died without a step finished.
    Column("attempt", Integer, nullable=False),
    # Who claimed it, the newest last: of the last hundred attempts.
    Column("workers", ARRAY(Text), nullable=False),
    Column("retries", Integer, nullable=False),
    Column("max_retries", Integer, nullable=False),
    Column("strikes", Integer, nullable=False),
    Column("dead_letter", Boolean, nullable=False),
    Column("timeout_seconds", Double),
    at("expires_at", nullable=True),
    Column("ttl_seconds", Double),
    at("purge_at", nullable=True),
    Column("last_seq", BigInteger, nullable=False),
    # What it waits for while its status is input_required.
    Column("request", JsonText),
    Column("progress", JsonText),
    Column("compacted", Boolean, nullable=False),
    at("created_at"),
    at("started_at", nullable=True),
    at("ended_at", nullable=True),
)

# One row is a frame of consecutive events: `events` is a JSON list of last_seq - first_seq + 1 items.
run_events = Table(
    "run_events",
    metadata,
    Column("run", Text, primary_key=True),
    Column("first_seq", BigInteger, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    Column("events", JsonText, nullable=False),
    at("at"),
    # Of a frame that was merged of others: the first number and the time (ms since 1970) of each.
    Column("times", JsonText),
)

# A step without `finished` began, and may or may not have taken effect.
run_steps = Table(
    "run_steps",
    metadata,
    Column("run", Text, primary_key=True),
    Column("step", Text(collation="C"), primary_key=True),
    Column("finished", Boolean, nullable=False),
    Column("result", JsonText),
    # The id of the request whose answer the result is; nobody's epoch is 0.
    Column("request", Text),
    Column("epoch", BigInteger, nullable=False),
    at("at"),
)

# What calls with an idempotency key have done, and what they answered.
effects = Table(
    "effects",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("verb", Text, primary_key=True),
    Column("uri", Text, primary_key=True),
    Column("result", JsonText),
    at("at"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("grant_scopes", ARRAY(Text), nullable=False),
    Column("name", Text(collation="C"), nullable=False),
    Column("timing", JsonText, nullable=False),
    Column("work", JsonText, nullable=False),
    Column("missed", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("stopped", Text),
    at("next_fire_at", nullable=True),
    at("last_fire_at", nullable=True),
    # The run that it started last.
    Column("last_run", Text),
    Column("version", BigInteger, nullable=False),
    at("created_at"),
)

triggers = Table(
    "triggers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("key_id", Text),
    Column("grant_scopes", ARRAY(Text), nullable=False),
    Column("name", Text(collation="C"), nullable=False),
    Column("condition", JsonText, nullable=False),
    Column("debounce_seconds", Double, nullable=False),
    Column("work", JsonText, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("stopped", Text),
    Column("position_xid", Xid8, nullable=False),
    Column("position_seq", BigInteger, nullable=False),
    Column("pending", JsonText),
    at("fire_at", nullable=True),
    at("last_fire_at", nullable=True),
    # The run that it started last.
    Column("last_run", Text),
    Column("version", BigInteger, nullable=False),
    at("created_at"),
)
