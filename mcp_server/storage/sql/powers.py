"""What the role of an operator's database may do beyond its privileges on tables."""

from __future__ import annotations

# A role with one of these reaches past a READ ONLY transaction, the privileges on tables or the database.
# Predefined roles: https://www.postgresql.org/docs/18/predefined-roles.html
_DANGEROUS = """
    'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program', 'pg_write_all_data',
    'pg_signal_backend', 'pg_create_subscription', 'pg_maintain', 'pg_checkpoint'
"""

# The names of the powers that the connection's role has itself or by membership, '' for none.
POWERS = f"""
select coalesce(string_agg(power, ', ' order by power), '') from (
    select unnest(array[
        case when rolsuper then 'SUPERUSER' end, case when rolreplication then 'REPLICATION' end,
        case when rolbypassrls then 'BYPASSRLS' end,
        case when rolcreaterole then 'CREATEROLE' end]) as power
    from pg_roles where rolname in (session_user, current_user)
        or pg_has_role(session_user, oid, 'member')
    union
    select rolname::text from pg_roles
    where rolname in ({_DANGEROUS}) and pg_has_role(session_user, oid, 'member')
) powers where power is not null
"""  # noqa: S608  only our own constants

# Whether this is one of Isthmus's own databases: keys and journals of all tenants, or their tables.
OURS = """
select (exists (select from pg_namespace where nspname = 'isthmus')
    or exists (select from pg_class where relkind in ('r', 'p')
               and relname in ('journal', 'effects', 'runs', 'kv')
               group by relnamespace having count(*) = 4))::text
"""
