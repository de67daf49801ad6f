-- The replication slot, or no row. One JSON object; to_jsonb reads columns that older servers do not have as NULL.
-- By hand: psql -XAt -v slot=crieur -f sql/slot.sql
SELECT jsonb_build_object(
    'plugin', s.plugin,
    'kind', s.slot_type,
    'database', s.database,
    'temporary', s.temporary,
    'active_pid', s.active_pid,
    'wal_status', s.wal_status,
    'safe_wal_bytes', s.safe_wal_size,
    'held_bytes', pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_lsn() END, s.restart_lsn)::bigint,
    'confirmed', s.confirmed_flush_lsn,
    'failover', coalesce((to_jsonb(s) ->> 'failover')::boolean, false),
    'invalidation', to_jsonb(s) ->> 'invalidation_reason'
)::text
FROM pg_replication_slots AS s
WHERE s.slot_name = :'slot';
