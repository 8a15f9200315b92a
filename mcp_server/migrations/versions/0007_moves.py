"""Erasing a tenant, which is marked until nothing of it is left; and importing an archive, part by part."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

STATEMENTS: tuple[str, ...] = (
    # What an import has done so far; empty when none is under way.
    "create table import_parts (name text primary key)",
    "alter table tenants add column erasing_at timestamptz",
    "drop trigger append_only on audit",
    """
    create trigger append_only before update or truncate on audit
    for each statement execute function refuse_change()
    """,
    """
    create function refuse_to_forget() returns trigger language plpgsql as $$
    begin
        if exists (select from tenants where name = old.tenant and erasing_at is not null) then
            return old;
        end if;
        raise exception 'audit is append-only until its tenant is erased';
    end $$
    """,
    "create trigger erased_only before delete on audit for each row execute function refuse_to_forget()",
    # A tenant that is being erased must not come back by a new key meanwhile.
    """
    create or replace function create_tenant(tenant text) returns void language plpgsql as $$
    declare number bigint;
    begin
        insert into tenants (name) values (tenant) on conflict do nothing returning id into number;
        if number is not null then
            execute format('create sequence %I', 'version_' || number);
        elsif exists (select from tenants where name = tenant and erasing_at is not null) then
            raise exception 'tenant % is being erased', tenant using errcode = 'IS003';
        end if;
    end $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
