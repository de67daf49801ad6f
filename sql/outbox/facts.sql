-- What must not have changed for the cache to be right without a sweep, where triggers write an outbox. One row: the
-- server's run (as in run.sql), a digest of what is watched, the outbox's own identity, whether writers notify, and the
-- database: a copy of it has all of the former.
-- By hand: psql -XAt -f sql/outbox/facts.sql
WITH RECURSIVE carrier (oid) AS (
    SELECT t.relation::oid FROM crieur.target AS t
    UNION
    SELECT i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
),
-- Every trigger of ours and its function: one that was dropped and made again is new.
part (name) AS (
    SELECT concat_ws('/', 'trigger', t.tgrelid, t.oid, t.xmin, t.tgenabled, f.oid, f.xmin)
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
    WHERE f.pronamespace = 'crieur'::regnamespace AND NOT t.tgisinternal
    UNION ALL
    -- Every column and partition: DDL may change values and no row.
    SELECT concat_ws('/', 'column', a.attrelid, a.attnum, a.xmin)
    FROM carrier AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    UNION ALL
    SELECT concat_ws('/', 'label', e.oid, e.xmin)
    FROM pg_catalog.pg_enum AS e
    WHERE e.enumtypid IN (
        SELECT a.atttypid FROM carrier AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    )
)
SELECT
    concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()), (
        SELECT extract(epoch FROM a.stats_reset) FROM pg_catalog.pg_stat_archiver AS a
    )),
    pg_catalog.md5(concat_ws(',', s.nonce, (SELECT pg_catalog.string_agg(p.name, ',' ORDER BY p.name) FROM part AS p))),
    s.nonce::text,
    s.notify,
    (SELECT d.oid::text FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
FROM crieur.setting AS s
