-- Statements that are allowed, and would run for hours or fill the disk: the limit ends each.
select count(*) from generate_series(1, 100000000) a, generate_series(1, 100000000) b
with recursive x as (select 1 as a union all select a + 1 from x) select count(*) from x
with recursive x as (select 1 as a union all select a from x) select a from x order by a
select count(*) from (select a.n from generate_series(1, 3000000) a (n) order by md5(a.n::text) desc) s, generate_series(1, 1000000) b
select sum(regexp_count(repeat('ab', 3000) || n, '(a+b+)+c')) from generate_series(1, 10000000) n
select sum(length(regexp_replace(repeat('a', 20000) || n, 'a{1,200}b', '', 'g'))) from generate_series(1, 1000000) n
select sum(length(repeat(md5(n::text), 300000))) from generate_series(1, 1000000) n
select count(*) from victim a, victim b, victim c, victim d, victim e, victim f, victim g, victim h, victim i, victim j, victim k
select sum(factorial(30000 + n % 2)) from generate_series(1, 100000) n
select count(distinct md5(a::text || b::text)) from generate_series(1, 30000) a, generate_series(1, 30000) b
select jsonb_path_query_array((select jsonb_agg(n) from generate_series(1, 3000) n), '$[*] ? (exists(@ ? (@ > 0)))') from generate_series(1, 10000000)
select max(x) from (select sum(a) over (order by a rows between unbounded preceding and unbounded following) x from generate_series(1, 100000000) a) s
