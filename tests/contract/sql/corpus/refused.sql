-- Statements that must be refused by sql_query and by sql_execute alike, one a line.
-- {other} is another tenant's real schema, {own} the caller's own, {role} the caller's real role, {oid} the other's table.

-- transaction control and stacked statements
commit
rollback
begin
start transaction read write
savepoint a
release savepoint a
prepare transaction 'a'
commit prepared 'a'
set transaction read write
set session characteristics as transaction read write
commit; drop schema public cascade
select 1; drop table victim
select 1;select 2
begin; delete from victim; commit
; ; select 1; select 2
/* select */ commit /* */
do $$ begin delete from victim; end $$
do language plpgsql $$ begin perform 1; end $$
call nothing()

-- settings and roles
set role postgres
set role {role}
set session authorization default
reset role
reset all
discard all
set statement_timeout = 0
set local statement_timeout = 0
set search_path = {other}
set default_transaction_read_only = off
show data_directory
show all
select set_config('transaction_read_only', 'off', false)
select pg_catalog.set_config('search_path', '{other}', false)
select current_setting('data_directory')
select current_user
select session_user
select user
select current_role
select system_user
select current_catalog
select current_schema
select current_schema()
select current_schemas(true)
select current_database()
create role intruder
create user intruder
alter role {role} superuser
alter role {role} set search_path = {other}
alter user current_user password 'x'
drop role {role}
grant select on victim to public
grant {role} to public
revoke all on victim from public
alter default privileges grant all on tables to public
reassign owned by current_user to public
drop owned by current_user
alter table victim owner to postgres
alter system set log_statement = 'all'

-- another tenant's schema
select * from {other}.secret
select * from "{other}"."secret"
select {other}.secret.* from {other}.secret
select {other}.secret.a from victim
select isthmus_data.{other}.secret.a from victim
select * from isthmus_data.{other}.secret
table {other}.secret
with s as (select * from {other}.secret) select * from s
select (select count(*) from {other}.secret)
select exists (select from {other}.secret)
select * from victim where a in (select a from {other}.secret)
select * from victim join {other}.secret using (a)
select * from victim, lateral (select * from {other}.secret) s
select 1 union all select a from {other}.secret
values ((select max(a) from {other}.secret))
explain select * from {other}.secret
explain (analyze, buffers) select * from {other}.secret
select null::{other}.secret
select (null::{other}.secret).a
select '(1)'::{other}.secret
select cast(null as {other}.secret[])
select nextval('{other}.secret_seq')
select nextval('{other}.secret_seq'::regclass)
select currval('{other}.secret_seq')
select setval('{other}.secret_seq', 1)
select nextval({oid})
select nextval({oid}::regclass)
select nextval('{oid}')
select nextval(cast({oid} as oid)::regclass)
select nextval((select '{other}.secret_seq'))
select nextval($1)
select pg_get_serial_sequence('{other}.secret', 'a')
select pg_get_serial_sequence('victim', 'a')
select pg_typeof(1)
values ({oid}), (pg_typeof(1))
select coalesce({oid}, pg_typeof(1))
select (1).pg_typeof
select 1 operator({other}.=) 1
select 'a' collate {other}.c
select * from victim order by a using operator({other}.<)
select {other}.f()
insert into {other}.secret values (1)
insert into victim select a from {other}.secret
update {other}.secret set a = 0
update victim set a = s.a from {other}.secret s
delete from {other}.secret
delete from victim using {other}.secret s where s.a = victim.a
merge into {other}.secret t using victim v on t.a = v.a when matched then delete
merge into victim t using {other}.secret v on t.a = v.a when matched then delete
truncate {other}.secret
truncate victim, {other}.secret
drop table {other}.secret
drop table victim, {other}.secret
drop table isthmus_data.{other}.secret
drop view {other}.secret
drop index {other}.secret_pkey
drop sequence {other}.secret_seq
drop type {other}.secret
alter table {other}.secret add column b int
alter table {other}.secret rename to x
alter index {other}.secret_pkey rename to x
alter sequence {other}.secret_seq restart
alter sequence intruder owned by {other}.secret.a
comment on table {other}.secret is 'x'
comment on column {other}.secret.a is 'x'
create table {other}.intruder (a int)
create table intruder (like {other}.secret including all)
create table intruder () inherits ({other}.secret)
create table intruder (a int references {other}.secret (a))
create table intruder partition of {other}.secret default
create table intruder of {other}.secret
create table intruder (a {other}.secret)
create table intruder (a int generated always as identity (sequence name {other}.intruder))
create table intruder as select * from {other}.secret
create table {other}.intruder as select 1
create view intruder as select * from {other}.secret
create view {other}.intruder as select 1
create materialized view intruder as select * from {other}.secret
create index on {other}.secret (a)
create index on victim (a {other}.ops)
create index on victim (a collate {other}.c)
create sequence {other}.intruder
create type {other}.intruder as enum ('a')
create domain {other}.intruder as int
create domain intruder as {other}.secret
alter table victim inherit {other}.secret
alter table victim attach partition {other}.secret default
alter table victim add constraint f foreign key (a) references {other}.secret (a)
alter table victim add exclude using gist (a with operator({other}.=))
alter table victim alter a type {other}.secret using null
alter table victim alter a set default nextval('{other}.secret_seq')
refresh materialized view {other}.secret

-- the schema's own real name is not a name for callers either
select * from {own}.victim
create table {own}.intruder (a int)

-- the server's own schema, in which it marks what keys have done
select * from isthmus.effects
table isthmus.writers
select * from "isthmus"."effects"
select * from U&"isth\006dus".effects
select * from U&"isth!006dus" uescape '!' . effects
select * from isthmus_data.isthmus.effects
select isthmus.effects.result from victim
select isthmus_data.isthmus.effects.result from victim
select (select result from isthmus.effects limit 1)
with e as (select * from isthmus.fences) select * from e
select * from victim, lateral (select * from isthmus.effects) e
explain select * from isthmus.effects
select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
select "isthmus"."begin_effect"('p', 'k', 's', 'a', null, null)
select U&"isth\006dus".U&"begin\005feffect"('p', 'k', 's', 'a', null, null)
select isthmus_data.isthmus.begin_effect('p', 'k', 's', 'a', null, null)
select begin_effect('p', 'k', 's', 'a', null, null)
select main.begin_effect('p', 'k', 's', 'a', null, null)
select isthmus.finish_effect('p', 'k', 's', null, null, 'forged')
select isthmus.require_writer('p')
select isthmus.begin_effect(given_proof => 'p', given_key => 'k', given_statement => 's', given_arguments => 'a', given_run => null, given_epoch => null)
select isthmus.begin_effect(variadic array['p'])
select * from isthmus.begin_effect('p', 'k', 's', 'a', null, null)
select * from rows from (isthmus.begin_effect('p', 'k', 's', 'a', null, null))
select * from victim where isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null
select * from victim order by isthmus.begin_effect('p', 'k', 's', 'a', null, null)
select count(*) filter (where isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null) from victim
explain select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
explain (analyze) select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
select ('p').begin_effect
select ('p'::text).require_writer
select (victim).require_writer from victim
call isthmus.begin_effect('p', 'k', 's', 'a', null, null)
do $$ begin perform isthmus.begin_effect('p', 'k', 's', 'a', null, null); end $$
prepare p as select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
execute begin_effect
set search_path = isthmus
select set_config('search_path', 'isthmus', false)
select query_to_xml('select isthmus.begin_effect(''p'', ''k'', ''s'', ''a'', null, null)', true, true, '')
select 'isthmus.begin_effect'::regproc
select regproc 'isthmus.begin_effect'
select cast('isthmus.begin_effect(text,text,text,text,text,bigint)' as regprocedure)
select 'isthmus.effects'::regclass
select 'isthmus'::regnamespace
select to_regproc('isthmus.begin_effect')
select to_regclass('isthmus.effects')
select pg_get_functiondef('isthmus.begin_effect'::regproc)
select has_function_privilege('isthmus.begin_effect(text,text,text,text,text,bigint)', 'execute')
select nextval('isthmus.effects')
select pg_get_serial_sequence('isthmus.effects', 'key')
select null::isthmus.effects
select (null::isthmus.effects).result
select '(a,b,c,d,1,e,now)'::isthmus.effects
select cast(null as "isthmus"."effects"[])
select json_populate_record(null::isthmus.effects, '{{}}')
select * from json_to_recordset('[]') as x(a isthmus.effects)
select json_value('1', '$' returning isthmus.effects)
select 1 operator(isthmus.=) 1
select 'a' collate isthmus.c
insert into isthmus.effects (role, key, statement, arguments, result) values ('{role}', 'k', 's', 'a', 'forged')
insert into isthmus.writers values ('{role}', 'forged')
insert into victim select 1 from isthmus.effects
insert into victim values (length(isthmus.begin_effect('p', 'k', 's', 'a', null, null)))
insert into victim values (1) on conflict (a) do update set b = isthmus.begin_effect('p', 'k', 's', 'a', null, null)
update isthmus.fences set epoch = 99
update victim set b = isthmus.begin_effect('p', 'k', 's', 'a', null, null)
update victim set a = 1 from isthmus.effects
delete from isthmus.effects
delete from victim using isthmus.effects e where e.epoch = a
with gone as (delete from isthmus.fences returning *) select * from gone
merge into isthmus.effects e using victim v on true when matched then delete
merge into victim v using isthmus.effects e on true when matched then delete
truncate isthmus.effects
truncate victim, isthmus.fences
create table isthmus.intruder (a int)
create table intruder (a isthmus.effects)
create table intruder (like isthmus.effects including all)
create table intruder () inherits (isthmus.effects)
create table intruder of isthmus.effects
create table intruder (a int references isthmus.fences (epoch))
create table intruder (a text default isthmus.begin_effect('p', 'k', 's', 'a', null, null))
create table intruder (a text check (isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null))
create table intruder (a text, b text generated always as (isthmus.begin_effect('p', 'k', 's', 'a', null, null)) stored)
create table intruder as select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
create table intruder as select * from isthmus.effects
create table intruder (a text) partition by range (isthmus.begin_effect('p', 'k', 's', 'a', null, null))
create index on victim (isthmus.begin_effect('p', 'k', 's', 'a', null, null))
create index on victim (a) where isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null
create index on isthmus.effects (key)
create view intruder as select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
create view intruder as select * from isthmus.effects
create or replace view isthmus.intruder as select 1
create materialized view intruder as select isthmus.begin_effect('p', 'k', 's', 'a', null, null)
create domain intruder as text check (isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null)
create domain intruder as text default isthmus.begin_effect('p', 'k', 's', 'a', null, null)
create domain intruder as isthmus.effects
create type intruder as (a isthmus.effects)
create type isthmus.intruder as enum ('a')
create sequence isthmus.intruder
alter table isthmus.effects add column x int
alter table isthmus.effects rename to x
alter table isthmus.effects owner to current_user
alter table victim add column c text default isthmus.begin_effect('p', 'k', 's', 'a', null, null)
alter table victim alter column b set default isthmus.begin_effect('p', 'k', 's', 'a', null, null)
alter table victim alter column b type text using isthmus.begin_effect('p', 'k', 's', 'a', null, null)
alter table victim add constraint c check (isthmus.begin_effect('p', 'k', 's', 'a', null, null) is null)
alter table victim inherit isthmus.effects
alter function isthmus.begin_effect security invoker
alter schema isthmus rename to x
alter default privileges in schema isthmus grant all on tables to public
grant execute on function isthmus.begin_effect(text,text,text,text,text,bigint) to public
grant usage on schema isthmus to public
drop table isthmus.effects
drop table victim, isthmus.effects
drop function isthmus.begin_effect
drop schema isthmus cascade
drop type isthmus.effects
comment on table isthmus.effects is 'x'
comment on schema isthmus is 'x'
comment on column isthmus.effects.key is 'x'
comment on function isthmus.begin_effect is 'x'
create or replace function isthmus.begin_effect(text) returns text language sql as 'select 1'
create trigger t before insert on isthmus.effects for each row execute function f()
create rule r as on select to isthmus.effects do instead select 1
lock table isthmus.effects
copy isthmus.effects to stdout
copy (select isthmus.begin_effect('p', 'k', 's', 'a', null, null)) to stdout
analyze isthmus.effects
security label on function isthmus.begin_effect is 'x'

-- the catalog
select * from pg_class
select * from pg_catalog.pg_class
table pg_authid
select rolname from pg_roles
select usename, query from pg_stat_activity
select * from pg_stat_user_tables
select * from pg_tables
select * from pg_proc
select * from pg_settings
select * from pg_locks
select * from pg_largeobject
select * from pg_hba_file_rules
select * from U&"pg\005fclass"
select U&"pg\005fsleep"(99)
select "pg_sleep"(99)
select "pg_catalog"."pg_sleep"(99)
select pg_catalog."lo_import"('/etc/passwd')
select * from pg_stats
select * from pg_sequences
select * from information_schema.tables
select * from information_schema.columns where table_schema = '{other}'
select * from pg_temp.x
select * from pg_toast.pg_toast_1
with x as (select * from pg_class) select * from x
select null::pg_class
select (null::pg_authid).rolpassword
create table intruder (like pg_class)
create table pg_class (a int)
create table intruder () inherits (pg_class)
create view intruder as select * from pg_authid
alter table victim rename to pg_class
update pg_class set relname = 'x'
insert into pg_authid (rolname) values ('x')
delete from pg_depend
lock table pg_class

-- numbers that become names
select {oid}::regclass
select cast({oid} as regclass)
select regclass '{other}.secret'
select regclass({oid})
select pg_catalog.regclass({oid})
select ({oid}).regclass
select g.regclass from generate_series(1, 20000) g
select x.y.regclass from (select 1 as y) x
select array[{oid}]::regclass[]
select '{{{oid}}}'::_regclass
select {oid}::oid::regclass::text
select 10::regrole
select 2200::regnamespace
select 1::regproc
select 1::regprocedure
select 1::regtype
select 1::regconfig
select 'x'::pg_catalog.regclass
select to_regclass('{other}.secret')
select format_type({oid}, null)
select '=r/10'::aclitem
select makeaclitem(10, 10, 'SELECT', false)
select pg_input_is_valid('{other}.secret', 'regclass')
create table intruder (a regclass)
create type intruder as (a regclass)
create domain intruder as regclass
alter table victim add column r regclass default {oid}
select * from json_to_record('{{"a":"1"}}') as x(a regclass)
select * from json_table('[1]', '$[*]' columns (a regclass path '$'))
select json_value('1', '$' returning regclass)
select jsonb_populate_record(null::pg_class, '{{}}')

-- calls written as attributes
select ('/etc/passwd').pg_read_file
select ('/etc/passwd'::text).pg_read_file
select (99).pg_sleep
select (array['/etc/passwd'])[1].pg_read_file
select (1).pg_terminate_backend
select ('select 1').ts_stat
select ('data_directory').current_setting
select s.n.pg_ls_dir from (select '/' as n) s
select (s.n).pg_ls_dir from (select '/' as n) s
select n.pg_ls_dir from unnest(array['/']) n
select ('/etc/passwd').lo_import
select victim.a.pg_sleep from victim
insert into victim values ((5).pg_sleep)
update victim set a = (5).lo_creat
delete from victim where (1).pg_cancel_backend

-- files, programs, large objects, code
copy victim to '/tmp/x'
copy victim from '/etc/passwd'
copy victim to program 'id'
copy victim from program 'id'
copy (select 1) to stdout
copy victim from stdin
copy (select * from {other}.secret) to program 'cat > /tmp/x'
load 'auto_explain'
create function f() returns int language sql as 'select 1'
create or replace function f() returns int language plpgsql security definer as $$ begin return 1; end $$
create procedure p() language sql as 'select 1'
create trigger t before insert on victim for each row execute function f()
create event trigger t on ddl_command_start execute function f()
create rule r as on select to victim do instead select 1
create aggregate a (int) (sfunc = int4pl, stype = int)
create operator === (leftarg = int, rightarg = int, procedure = int4eq)
create cast (int as text) without function
create language plpython3u
create extension dblink
create extension file_fdw
create foreign data wrapper w
create server s foreign data wrapper w
create foreign table f (a int) server s
create user mapping for public server s
import foreign schema x from server s into y
create schema intruder
create schema intruder create table t (a int)
alter schema {own} rename to x
drop schema {own} cascade
drop schema {other} cascade
drop schema public cascade
create database intruder
drop database isthmus_data
alter database isthmus_data set search_path = x
create tablespace t location '/tmp'
create table intruder (a int) tablespace pg_global
create index on victim (a) tablespace pg_default
alter table victim set tablespace pg_default
create publication p for all tables
create subscription s connection 'host=x' publication p
create policy p on victim using (true)
create statistics s on a, b from victim
create collation c (locale = 'C')
create text search configuration c (parser = default)
create conversion c for 'UTF8' to 'LATIN1' from f
create access method m type table handler heap_tableam_handler
alter table victim set schema public
alter table victim enable row level security
alter table victim disable trigger all
alter table victim set access method heap2, owner to public
alter type mood owner to public
alter function f() owner to public
security label on table victim is 'x'
comment on database isthmus_data is 'x'
comment on role {role} is 'x'
comment on schema {own} is 'x'

-- sessions, cursors, temporary objects, maintenance
listen x
notify x
notify x, 'forged'
unlisten *
prepare p as select 1
execute p
deallocate all
declare c cursor with hold for select 1
fetch all from c
move 1 from c
close all
update victim set a = 1 where current of c
lock table victim in access exclusive mode
create temp table x (a int)
create temporary view x as select 1
create temp sequence x
create table pg_temp.x (a int)
create local temporary table x as select 1
select 1 as a into x
select * into temp x from victim
with a as (select 1) select * into x from a
vacuum
vacuum full victim
analyze
cluster victim
reindex table victim
reindex system isthmus_data
checkpoint
create index concurrently on victim (a)
drop index concurrently i
refresh materialized view concurrently m
create table x as execute p
explain execute p
explain analyze execute p

-- text that the parser and the server could read differently, or not at all
select 'a
select "a
select $a$ b
select /* b

-- a comment alone
/* select 1 */
select * from victim where a = ?
select * from victim limit 1 g
delete from victim returning
selec 1

-- roles, sessions and settings
set role {role}
set local role none
set session authorization default
reset all
reset role
discard all
show all
show data_directory
begin
begin transaction isolation level serializable
start transaction read write
commit
commit and chain
rollback
abort
end
savepoint x
release savepoint x
rollback to savepoint x
prepare transaction 'x'
commit prepared 'x'
set transaction read write
set constraints all deferred
set local statement_timeout = 0
set statement_timeout to 0
alter system set archive_command = 'id'
alter system reset all
create role intruder superuser login
create user intruder
create group intruder
alter role {role} superuser
alter role {role} password 'x'
alter role all set statement_timeout = 0
alter user current_user with bypassrls
drop role {role}
drop owned by {role} cascade
reassign owned by {role} to postgres
grant {role} to public
grant pg_read_server_files to {role}
grant all on all tables in schema {other} to {role}
grant set on parameter work_mem to {role}
revoke all on victim from public
alter default privileges grant all on tables to public
alter database isthmus_data owner to {role}
alter large object 1 owner to {role}
alter publication p set (publish = '')
alter subscription s enable
alter server s options (set host 'x')
alter extension plpgsql update
alter event trigger t disable
alter operator family f using btree add operator 1 < (int, int)
alter text search dictionary d (stopwords = 'x')
create operator class c for type int using btree as operator 1 <
create text search dictionary d (template = ispell, dictfile = '../../etc/passwd')
create transform for int language sql (from sql with function f(internal))
import foreign schema public limit to (secret) from server s into public

-- XML, which has readers of files of its own
select xmlparse(document '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>')
select xmlelement(name a, 1)
select xmlforest(1 as a)
select xmlroot(null, version '1.0')
select xmlserialize(content null as text)
select xmlexists('//a' passing by ref null)
select null is document
select * from xmltable('/a' passing null columns b int)
select '<a/>'::xml
select xpath('/a', null)
select schema_to_xml('{other}', true, true, '')
select cursor_to_xmlschema('c', true, true, '')

-- newer grammar, and old corners of it
insert into victim values (9) returning with (old as o, new as n) o.pg_sleep, n.a
update victim set a = 1 returning old.pg_read_file
merge into victim v using victim s on v.a = s.a when not matched by source then update set b = pg_sleep(9)::text
merge into victim v using victim s on v.a = s.a when matched then update set b = 'x' returning merge_action(), pg_sleep(9)
select a from victim fetch first (length(pg_read_file('/etc/passwd'))) rows with ties
select * from victim for update of secret nowait, pg_class
select * from victim order by a using operator({other}.<)
select a from victim group by grouping sets ((a), (pg_sleep(9)), ())
with recursive x (a) as (select 1 union all select a + 1 from x) search depth first by a set pg_sleep cycle a set c using pg_sleep select (pg_sleep(9)) from x
select json_query('{{}}', '$' passing pg_read_file('/etc/passwd') as f)
select json_exists('{{}}', '$' passing pg_sleep(9) as f)
select json_serialize(pg_read_file('/etc/passwd'))
select json_scalar(pg_sleep(9)::text)
select json('{{"a":1}}' with unique keys), pg_read_file('/etc/passwd')
select json_object('a' value pg_ls_dir('/') absent on null)
select * from json_table('[1]', '$[*]' passing pg_sleep(9) as p columns (a int path '$'))
select * from json_table('[1]', '$[*]' columns (nested path '$' columns (a pg_class path '$')))
select interval '1' day * length(pg_read_file('/etc/passwd'))
select (pg_sleep(9), 1) overlaps (null, null)
select timestamp 'now' at time zone pg_read_file('/etc/passwd')
select position(pg_read_file('/etc/passwd') in 'x')
select trim(both pg_read_file('/etc/passwd') from 'x')
select normalize(pg_read_file('/etc/passwd'), nfc)
select 'a' similar to 'b' escape pg_read_file('/etc/passwd')
select 'a' like any (array[pg_read_file('/etc/passwd')])
select 1 = any (select pg_backend_pid())
select row(1, pg_sleep(9)) = row(1, null)
select array(select pg_ls_dir('/'))
select array[[pg_sleep(9)]]
select grouping(pg_sleep(9)) from victim group by pg_sleep(9)
select treat(1 as pg_class)
select user
select session_user
select current_role
select current_catalog
select current_schema
select system_user
select pg_catalog.current_database()
values (current_user), ((select rolname from pg_roles limit 1))
create table intruder (a int, b int generated always as (pg_sleep(9)::text::int) virtual)
create table intruder (a int, constraint c primary key (a) using index tablespace pg_global)
create table intruder (a int) using heap tablespace pg_default
create table intruder (a int) with (oids = true) tablespace x
create table intruder partition of {other}.secret default
create table intruder (a int references {other}.secret (a) on delete cascade)
create table intruder (a int check (exists (select from {other}.secret)))
create table victim.intruder (a int)
create table isthmus_data.{own}.intruder (a int)
create table public.intruder (a int)
create view public.intruder as select 1
create view intruder with (security_invoker = false) as select * from {other}.secret
create materialized view intruder using heap tablespace x as select 1
create index on victim using gist (a {other}.ops)
create statistics s (dependencies) on a, b from {other}.secret
alter table victim replica identity full
alter table victim force row level security
alter table victim cluster on secret, set without cluster, owner to public
alter table victim add column c {other}.secret
alter table victim attach partition public.secret for values in (1)
alter table victim alter b set default pg_read_file('/etc/passwd')
alter index victim_pkey set tablespace pg_global
alter index victim_pkey depends on extension plpgsql
alter view intruder owner to public
alter sequence counter owned by {other}.secret.a
alter sequence counter owner to public
alter materialized view all in tablespace pg_default set tablespace pg_global
alter domain d add constraint c check (pg_sleep(9) is null)
alter type {other}.mood add value 'x'
comment on column {other}.secret.a is 'x'
comment on constraint c on {other}.secret is 'x'
comment on extension plpgsql is 'x'
comment on large object 1 is 'x'
truncate victim, {other}.secret restart identity cascade
drop table if exists victim, {other}.secret
drop view pg_tables
drop index {other}.secret_pkey
drop sequence {other}.secret_a_seq
drop type {other}.mood cascade
drop domain pg_catalog.oid
refresh materialized view with data pg_class
copy (select * from victim) to program 'curl http://127.0.0.1/'
copy victim (a) from '/etc/passwd' with (format csv) where pg_sleep(9) is null
explain (analyze, serialize text) select pg_sleep(9)
explain (analyze, wal) delete from {other}.secret
explain verbose select * from {other}.secret
explain create table intruder as select * from {other}.secret
explain declare c cursor for select pg_sleep(9)
select 1;;select 2
; ; drop table victim; select 1
/* select 1; */ drop table victim; select 1
select $$ ; $$ ; drop table victim
select U&'\0027' ; drop table victim
SELECT 1 \; DROP TABLE victim
