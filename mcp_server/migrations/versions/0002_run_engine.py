"""The run engine: the queue in the runs table, worker leases, steps, effects that are done once, schedules and triggers."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

LIVE = "status in ('queued', 'running', 'input_required')"

STATEMENTS = (
    # The epoch of a lease is never used again: it is what fences a worker that lost its lease.
    """
    create table run_leases (
        epoch bigint generated always as identity primary key,
        worker text not null,
        slots int not null,
        taken_at timestamptz not null default clock_timestamp(),
        expires_at timestamptz not null
    ) with (fillfactor = 50)
    """,
    "drop index runs_live",
    """
    alter table runs
        drop column worker,
        drop column heartbeat_at,
        alter column input drop not null,
        add column lease bigint references run_leases (epoch),
        add column priority int not null default 0,
        add column not_before timestamptz not null default clock_timestamp(),
        add column dedupe_key text,
        add column origin text,
        add column attempt int not null default 0,
        add column retries int not null default 0,
        add column max_retries int not null default 0,
        add column strikes int not null default 0,
        add column dead_letter boolean not null default false,
        add column timeout_seconds double precision,
        add column expires_at timestamptz,
        add column ttl_seconds double precision,
        add column purge_at timestamptz,
        add column last_seq bigint not null default 0,
        add column request text,
        add column progress text,
        add column compacted boolean not null default false
    """,
    # Runs of an earlier version had no steps to go on from.
    """
    update runs set status = 'failed', ended_at = clock_timestamp(),
        error = '{"code":"unavailable","message":"the server stopped before the run ended; start it again"}'
    where status in ('queued', 'running', 'input_required')
    """,
    "update runs set last_seq = coalesce((select max(last_seq) from run_events where run = id), 0)",
    """
    alter table runs
        set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02),
        add constraint runs_lease check ((status = 'running') = (lease is not null)),
        add constraint runs_request check ((status = 'input_required') = (request is not null)),
        add constraint runs_ended check (
            (status in ('completed', 'failed', 'cancelled', 'expired')) = (ended_at is not null)),
        add constraint runs_of_tenant foreign key (tenant) references tenants (name) on delete cascade
    """,
    # The claim goes from tenant to tenant, so that one that floods the queue does not hide the others.
    """
    create index runs_queue on runs (tenant, kind, priority desc, not_before, created_at, id)
    where status = 'queued'
    """,
    "create index runs_held on runs (lease) include (tenant) where lease is not null",
    "create index runs_waiting on runs (tenant) where status = 'input_required'",
    "create index runs_dead on runs (ended_at) where dead_letter",
    "create index runs_children on runs (tenant, origin) where origin is not null and " + LIVE,
    "drop index runs_tenant",
    "create index runs_tenant on runs (tenant, created_at, id)",
    "create index api_keys_revoked on api_keys (revoked_at) where revoked_at is not null",
    "create index api_keys_expiry on api_keys (expires_at) where expires_at is not null",
    "create index runs_of_key on runs (key_id) where " + LIVE,
    "create index runs_expiry on runs (expires_at) where expires_at is not null and " + LIVE,
    "create index runs_purge on runs (purge_at) where purge_at is not null",
    "create index runs_loose on runs (ended_at) where ended_at is not null and not compacted",
    """
    create unique index runs_dedupe on runs (tenant, dedupe_key)
    where dedupe_key is not null and """
    + LIVE,
    # No time to live, no time of deletion; thirty years at most, to stay within the range of dates.
    """
    create function purge_time(ttl_seconds double precision) returns timestamptz
    language sql volatile strict as
    $$ select clock_timestamp() + make_interval(secs => least(greatest(ttl_seconds, 0), 1e9)) $$
    """,
    """
    create function refuse_run_transition() returns trigger language plpgsql as $$
    begin
        if tg_op = 'INSERT' then
            if new.status = 'queued' then return new; end if;
            raise exception 'a run begins queued, not %', new.status using errcode = 'check_violation';
        end if;
        if (old.status, new.status) in (
            ('queued', 'running'), ('queued', 'failed'), ('queued', 'cancelled'), ('queued', 'expired'),
            ('running', 'queued'), ('running', 'input_required'), ('running', 'completed'),
            ('running', 'failed'), ('running', 'cancelled'), ('running', 'expired'),
            ('input_required', 'queued'), ('input_required', 'failed'),
            ('input_required', 'cancelled'), ('input_required', 'expired')
        ) then return new; end if;
        raise exception 'a run cannot go from % to %', old.status, new.status
            using errcode = 'check_violation';
    end $$
    """,
    """
    create trigger runs_begin before insert on runs
    for each row when (new.status <> 'queued') execute function refuse_run_transition()
    """,
    """
    create trigger runs_transition before update of status on runs
    for each row when (old.status is distinct from new.status)
    execute function refuse_run_transition()
    """,
    # A step that began and did not finish may or may not have taken effect.
    """
    create table run_steps (
        run text not null references runs (id) on delete cascade,
        step text collate "C" not null,
        finished boolean not null,
        result text,
        request text,
        epoch bigint not null,
        at timestamptz not null default clock_timestamp(),
        primary key (run, step)
    )
    """,
    # What a call with an idempotency key did: written in the transaction of the effect itself.
    """
    create table effects (
        tenant text not null references tenants (name) on delete cascade,
        key text collate "C" not null,
        verb text not null,
        uri text not null,
        result text,
        at timestamptz not null default clock_timestamp(),
        primary key (tenant, key, verb, uri)
    )
    """,
    "create index effects_age on effects (at)",
    """
    create table schedules (
        id text primary key,
        tenant text not null references tenants (name) on delete cascade,
        subject text not null,
        key_id text,
        grant_scopes text[] not null,
        name text collate "C" not null,
        timing text not null,
        work text not null,
        missed text not null check (missed in ('skip', 'once', 'all')),
        enabled boolean not null default true,
        stopped text,
        next_fire_at timestamptz,
        last_fire_at timestamptz,
        version bigint not null,
        created_at timestamptz not null default now(),
        unique (tenant, name)
    )
    """,
    "create index schedules_due on schedules (next_fire_at) where enabled and next_fire_at is not null",
    """
    create table triggers (
        id text primary key,
        tenant text not null references tenants (name) on delete cascade,
        subject text not null,
        key_id text,
        grant_scopes text[] not null,
        name text collate "C" not null,
        condition text not null,
        debounce_seconds double precision not null default 0,
        work text not null,
        enabled boolean not null default true,
        stopped text,
        position_xid xid8 not null,
        position_seq bigint not null,
        pending text,
        fire_at timestamptz,
        last_fire_at timestamptz,
        version bigint not null,
        created_at timestamptz not null default now(),
        unique (tenant, name)
    )
    """,
    "create index triggers_live on triggers (tenant) where enabled",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
