-- Makes both databases and their owners. PostgreSQL's image runs it once, when its volume is empty.
--
-- The owner of the tenants' database is a superuser: only one can close the catalog to tenants and take
-- functions from everybody. The tenants' own roles reach no database but theirs.

\set control `cat /run/secrets/control_password`
\set data `cat /run/secrets/data_password`

create role isthmus login password :'control';
create role isthmus_data login superuser password :'data';
create database isthmus owner isthmus;
create database isthmus_data owner isthmus_data;
revoke all on database isthmus from public;
revoke all on database postgres from public;
revoke all on database template1 from public;

\connect isthmus

create extension vector;
