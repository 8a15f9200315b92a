"""The owner's schema in the data database that holds the marks of tenants' effects, and its making."""

from __future__ import annotations

import hashlib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# SQLSTATEs of our own, in a class that PostgreSQL and the standard leave free.
LEASE_LOST = "IS001"
OTHER_ARGUMENTS = "IS002"

BEGIN_EFFECT = "isthmus.begin_effect(text, text, text, text, text, bigint)"
FINISH_EFFECT = "isthmus.finish_effect(text, text, text, text, bigint, text)"
MARK_UNIT = "isthmus.mark_unit(text, text)"

# session_user is the tenant's login role; current_user is the owner inside these functions.
# `finish` alone takes the lock on the fence: whoever raises it waits for commits, not for statements.
_INSTALL = (
    "create schema if not exists isthmus",
    "revoke all on schema isthmus from public",
    """
    create table if not exists isthmus.writers (role name primary key, proof bytea not null)
    """,
    """
    create table if not exists isthmus.fences (
        run text collate "C" primary key,
        attempt bigint not null,
        at timestamptz not null default clock_timestamp()
    )
    """,
    """
    create table if not exists isthmus.effects (
        role name not null,
        key text collate "C" not null,
        statement text collate "C" not null,
        arguments text not null,
        attempt bigint,
        result text,
        at timestamptz not null default clock_timestamp(),
        primary key (role, key, statement)
    ) with (fillfactor = 70)
    """,
    "create index if not exists effects_age on isthmus.effects (at)",
    "create index if not exists fences_age on isthmus.fences (at)",
    """
    create or replace function isthmus.require_writer(given_proof text) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
    begin
        if not exists (
            select from isthmus.writers w
            where w.role = session_user and w.proof = sha256(convert_to(given_proof, 'UTF8'))
        ) then
            raise exception 'permission denied' using errcode = '42501';
        end if;
    end $$
    """,
    """
    create or replace function isthmus.begin_effect(
        given_proof text, given_key text, given_statement text, given_arguments text,
        given_run text, given_attempt bigint
    ) returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
    declare found_effect record;
    begin
        perform isthmus.require_writer(given_proof);
        if exists (
            select from isthmus.fences f where f.run = given_run and f.attempt > given_attempt
        ) then
            raise exception 'the lease is lost' using errcode = 'IS001';
        end if;
        loop
            insert into isthmus.effects (role, key, statement, arguments, attempt)
            values (session_user, given_key, given_statement, given_arguments, given_attempt)
            on conflict do nothing;
            if found then return null; end if;
            select e.arguments, e.attempt, e.result into found_effect from isthmus.effects e
            where e.role = session_user and e.key = given_key and e.statement = given_statement;
            if found then
                if found_effect.arguments <> given_arguments
                    and found_effect.attempt is not distinct from given_attempt
                then
                    raise exception 'other arguments' using errcode = 'IS002';
                end if;
                return found_effect.result;
            end if;
        end loop;
    end $$
    """,
    """
    create or replace function isthmus.finish_effect(
        given_proof text, given_key text, given_statement text,
        given_run text, given_attempt bigint, given_result text
    ) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
    begin
        perform isthmus.require_writer(given_proof);
        loop
            exit when given_run is null;
            perform 1 from isthmus.fences f
            where f.run = given_run and f.attempt = given_attempt for share;
            exit when found;
            if exists (
                select from isthmus.fences f where f.run = given_run and f.attempt > given_attempt
            ) then
                raise exception 'the lease is lost' using errcode = 'IS001';
            end if;
            insert into isthmus.fences as f (run, attempt) values (given_run, given_attempt)
            on conflict (run) do update set attempt = excluded.attempt, at = clock_timestamp()
            where f.attempt < excluded.attempt;
        end loop;
        update isthmus.effects e set result = given_result
        where e.role = session_user and e.key = given_key and e.statement = given_statement;
    end $$
    """,
    # The mark of a unit of work decides it: made with the tenant's rows, or by the owner in its place.
    """
    create table if not exists isthmus.units (
        unit text collate "C" primary key,
        kept boolean not null,
        at timestamptz not null default clock_timestamp()
    )
    """,
    "create index if not exists units_age on isthmus.units (at)",
    """
    create or replace function isthmus.mark_unit(given_proof text, given_unit text) returns boolean
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
    begin
        perform isthmus.require_writer(given_proof);
        insert into isthmus.units (unit, kept) values (given_unit, true) on conflict do nothing;
        return found;
    end $$
    """,
    f"revoke all on function isthmus.require_writer(text), {BEGIN_EFFECT}, {FINISH_EFFECT}, {MARK_UNIT}"
    " from public",
)
_VERSION = hashlib.sha256("\0".join(_INSTALL).encode()).hexdigest()[:16]
_INSTALLED = text("select obj_description(to_regnamespace('isthmus')::oid, 'pg_namespace')")


async def install(connection: AsyncConnection) -> None:
    """Make the schema, or bring it to this version. Idempotent; for the owner, under its lock."""
    if await connection.scalar(_INSTALLED) == _VERSION:
        return
    for statement in _INSTALL:
        await connection.exec_driver_sql(statement)
    await connection.exec_driver_sql(f"comment on schema isthmus is '{_VERSION}'")
