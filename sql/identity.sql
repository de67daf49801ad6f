-- Which server and database a session is on: in recovery, database, system identifier, timeline, start of the postmaster
-- as in run.sql. One row; system identifier and timeline are NULL in recovery.
-- By hand: psql -XAtf sql/identity.sql
SELECT
    pg_catalog.pg_is_in_recovery(),
    (SELECT d.oid::text FROM pg_catalog.pg_database AS d
        WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()),
    CASE WHEN NOT pg_catalog.pg_is_in_recovery()
        THEN (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c) END,
    -- The first eight digits of a segment's name are the timeline; pg_control_checkpoint() lags behind a promotion.
    CASE WHEN NOT pg_catalog.pg_is_in_recovery()
        THEN pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) END,
    extract(epoch FROM pg_catalog.pg_postmaster_start_time())
