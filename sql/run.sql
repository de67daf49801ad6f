-- What must not have changed for the cache to be right without a sweep. One row: the server's run, the publication.
-- By hand: psql -XAt -v publication=crieur -f sql/run.sql
SELECT
    -- The postmaster outlives the crash of a backend, the cumulative statistics do not: recovery resets them
    -- (pgstat_discard_stats in src/backend/access/transam/xlog.c, pgstat_reset_all before version 15).
    concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()), (
        SELECT extract(epoch FROM a.stats_reset) FROM pg_catalog.pg_stat_archiver AS a
    )),
    -- The publication's row, and an entry for each table and schema in it: one that was dropped and added again is new.
    coalesce((
        SELECT pg_catalog.md5(concat_ws('/', p.oid, p.xmin, (
            SELECT pg_catalog.string_agg(concat_ws('/', d.objid, d.xmin), ',' ORDER BY d.classid, d.objid)
            FROM pg_catalog.pg_depend AS d
            WHERE d.refclassid = 'pg_catalog.pg_publication'::regclass AND d.refobjid = p.oid
        )))
        FROM pg_catalog.pg_publication AS p
        WHERE p.pubname = :'publication'
    ), '')
