-- Statements that a tenant must be able to run with sql_execute, in this order.
create table people (id bigint generated always as identity primary key, name text not null, age int check (age > 0), tags text[] default '{}', born date, extra jsonb default '{}', at timestamptz default now())
create table if not exists people (id int)
insert into people (name, age, tags, born, extra) values ('Ada', 36, '{a,b}', '1815-12-10', '{"x": [1, 2]}'), ('Bo', 5, null, null, null), ('陈', 41, array['c'], current_date, jsonb_build_object('y', 1))
insert into people (name) select 'n' || g from generate_series(1, 5) g returning id, name
insert into people overriding system value values (100, 'Zed') on conflict (id) do update set name = excluded.name returning *
update people set age = coalesce(age, 0) + 1, tags = array_append(tags, 'z') where name like 'n%' returning id
update people p set age = q.age from (select id, age from people where age is not null) q where q.id = p.id
delete from people using people other where people.id = other.id and people.name = 'n5' returning people.name
merge into people p using (values ('Ada', 37), ('New', 1)) as v(name, age) on p.name = v.name when matched then update set age = v.age when not matched then insert (name, age) values (v.name, v.age)
select count(*), avg(age)::numeric(10, 2), min(born), string_agg(name, ',' order by name) from people
select name, row_number() over (partition by age > 10 order by age desc nulls last), lag(name) over w from people window w as (order by id)
select age, count(*) filter (where name ~ '^n') from people group by rollup (age) having count(*) > 0 order by 1 nulls first limit 5 offset 0
select percentile_cont(0.5) within group (order by age), mode() within group (order by name) from people
with recursive t (n) as (select 1 union all select n + 1 from t where n < 5) select sum(n) from t
with gone as (delete from people where name = 'n4' returning *) select name from gone
select * from people p, lateral unnest(p.tags) with ordinality as t (tag, nr) where nr = 1
select p.name, o.name from people p left join people o on o.id = p.id + 1 where p.age between 1 and 99 or p.age is not distinct from null
select extra -> 'x' ->> 0, extra @> '{"y": 1}', jsonb_path_query_first(extra, '$.x[*]'), extra['y'] from people
select * from jsonb_to_recordset('[{"a": 1, "b": "x"}]') as r (a int, b text)
select * from rows from (generate_series(1, 2), unnest(array['a', 'b'])) as r (n, t)
select extract(year from born), date_trunc('month', at), age(at, at - interval '1 day 2 hours'), at at time zone 'Europe/Berlin', to_char(at, 'YYYY') from people
select 'a' similar to 'a|b', substring('abc' from 2 for 1), position('b' in 'abc'), overlay('abc' placing 'x' from 2), trim(both from ' a '), upper(name) collate "C" from people
select cast('12' as int), '1'::numeric, date '2026-01-02', interval '1' hour, x'ff', b'1', e'a\n', u&'\0061', 1e3, $$dollar$$
select (1, 'a') = row(1, 'a'), (array[[1, 2], [3, 4]])[2][1], (array[1, 2, 3])[2:3], 1 = any (array[1, 2]), exists (select 1), case 1 when 1 then 'a' else 'b' end
select greatest(1, 2), least(1, 2), nullif(1, 1), 2 ^ 3, |/ 9, 5 % 3, 6 & 3, not true, true is not unknown
select md5('a'), sha256('a'), encode('a', 'base64'), gen_random_uuid() is not null, random() < 1, pg_column_size(1)
select to_tsvector('english', 'cats and dogs') @@ to_tsquery('cat'), ts_rank(to_tsvector('a b'), plainto_tsquery('a'))
select int4range(1, 5) @> 3, '[1,2]'::int4range && '[2,3]'::int4range, '192.168.0.1/24'::inet << '192.168.0.0/16', point '(1,2)' <-> point '(2,2)'
select distinct on (age) name from people order by age, id
select 1 union select 2 except select 3 intersect select 4 order by 1
select name from people tablesample bernoulli (100) repeatable (1)
select grouping(age), count(*) from people group by grouping sets ((age), ())
select * from people order by id fetch first 2 rows with ties
values (1, 'a'), (2, 'b')
table people
select people.*, people.name from main.people where main.people.id > 0
explain select * from people
explain (analyze, format json) select * from people
explain (costs off) insert into people (name) values ('x')
create index on people (lower(name)) where age is not null
create unique index people_name on people using btree (name desc nulls last) include (age)
create index people_extra on people using gin (extra jsonb_path_ops)
create type mood as enum ('sad', 'ok')
alter type mood add value if not exists 'happy' after 'ok'
create type pair as (a int, b text)
alter type pair add attribute c date
create domain positive as int check (value > 0) not null
alter domain positive add constraint small check (value < 1000)
create table moods (person bigint references people (id) on delete cascade, mood mood default 'ok', p pair, n positive, primary key (person))
insert into moods values (1, 'happy', row(1, 'x', '2026-01-01'), 5) returning mood, p, n
select (p).a, (moods.p).b, enum_range(null::mood) from moods
alter table people add column email text unique, alter column age drop not null, alter column age set default 1
alter table people alter column age type bigint using age::bigint, add constraint adult check (age < 200) not valid
alter table people validate constraint adult
alter table people rename column email to mail
alter table people drop constraint adult, drop column mail cascade
comment on table people is 'Everyone'
comment on column main.people.name is 'What they are called'
create view adults as select id, name from people where age >= 18 with check option
create or replace view adults as select id, name, age from people where age >= 18
create materialized view totals as select count(*) as n from people with no data
refresh materialized view totals
select * from adults, totals
create sequence tickets start 10 increment by 5 owned by people.id
select nextval('tickets'), currval('tickets'), setval('tickets', 50), lastval(), nextval('tickets'::regclass)
select setval(pg_get_serial_sequence('people', 'id'), 200)
alter sequence tickets owned by none
alter sequence tickets restart with 7
create table logs (id serial, at date not null, note varchar(20), amount decimal(10, 2), net numeric generated always as (amount * 2) stored) partition by range (at)
create table logs_2026 partition of main.logs for values from ('2026-01-01') to ('2027-01-01')
create table logs_rest partition of logs default
insert into logs (at, note, amount) values ('2026-05-05', 'a', 1.5), ('2020-01-01', 'b', 2)
select tableoid is not null, net from logs order by at
alter table logs detach partition logs_rest
create table buckets (id int, h text) partition by hash (id)
create table buckets_0 partition of buckets for values with (modulus 2, remainder 0)
create table buckets_1 partition of buckets for values with (modulus 2, remainder 1)
insert into buckets_0 select g from generate_series(1, 50) g where g in (select id from (values (1)) v (id)) and false
insert into buckets select g, 'x' from generate_series(1, 20) g
create unlogged table scratch with (fillfactor = 70) as select * from people
create table copyof (like people including all)
create table booking (room int, during tsrange, exclude using gist (during with &&))
insert into booking values (1, '[2026-01-01,2026-01-02)')
alter table scratch rename to scratch2
alter view adults rename to grownups
alter index people_name rename to people_by_name
select * from people where id = 1 for update skip locked
truncate scratch2, copyof restart identity cascade
drop table if exists scratch2, main.copyof, buckets, booking cascade
drop view grownups
drop materialized view totals
drop sequence tickets
drop index people_extra
drop table moods, logs, logs_rest, people
drop type pair
drop type mood
drop domain positive
