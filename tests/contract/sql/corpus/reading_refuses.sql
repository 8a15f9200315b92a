-- Statements that sql_execute takes and sql_query must refuse.
insert into victim values (9)
update victim set b = 'x'
delete from victim
delete from only victim
truncate victim
drop table victim
create table intruder (a int)
create unlogged table intruder (a int)
create table intruder as select * from victim
create view intruder as select 1 as a
create sequence intruder
create type intruder as enum ('a')
create index on victim (b)
alter table victim add column c int
alter table victim rename to intruder
comment on table victim is 'x'
with gone as (delete from victim returning *) select * from gone
with new as (insert into victim values (9) returning *) select * from new, (select 1) x
select * from (with n as (update victim set b = 'x' returning *) select * from n) y
merge into victim v using victim s on v.a = s.a when matched then delete
explain analyze delete from victim
explain (analyze on, verbose) insert into victim values (9)
explain analyze create table intruder as select 1
select * from victim for update
select * from victim for no key update
select * from victim for share
select * from victim for key share skip locked
with x as (select * from victim for update) select * from x
select nextval('counter')
select setval('counter', 100)
select * from nextval('counter')
select a, nextval('counter') from victim
