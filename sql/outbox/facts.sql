-- What must not have changed for the cache to be right without a sweep, where triggers write an outbox. One row: the
-- server's run (as in run.sql), a digest of what is watched, the outbox's own identity, whether writers notify.
-- By hand: psql -XAt -f sql/outbox/facts.sql
SELECT
    concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()), (
        SELECT extract(epoch FROM a.stats_reset) FROM pg_catalog.pg_stat_archiver AS a
    )),
    -- Every trigger of ours, its function and what it captures: one that was dropped and made again is new.
    pg_catalog.md5(concat_ws('/', (SELECT s.nonce FROM crieur.setting AS s), (
        SELECT pg_catalog.string_agg(concat_ws('/', t.oid, t.xmin, t.tgenabled, f.oid, f.xmin), ',' ORDER BY t.oid)
        FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
        WHERE f.pronamespace = 'crieur'::regnamespace AND NOT t.tgisinternal
    ))),
    (SELECT s.nonce::text FROM crieur.setting AS s),
    (SELECT s.notify FROM crieur.setting AS s)
