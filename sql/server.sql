-- The server as crieur needs to know it: version, settings, what is free. One row, one JSON object.
-- By hand: psql -XAtf sql/server.sql
SELECT jsonb_build_object(
    'version', current_setting('server_version_num')::integer,
    'version_text', current_setting('server_version'),
    'database', current_database(),
    'in_recovery', pg_is_in_recovery(),
    'standby_names', current_setting('synchronous_standby_names'),
    'wal_level', current_setting('wal_level'),
    'slots_max', current_setting('max_replication_slots')::integer,
    'slots_used', (SELECT count(*) FROM pg_replication_slots),
    'senders_max', current_setting('max_wal_senders')::integer,
    'senders_used', (SELECT count(*) FROM pg_stat_replication),
    -- Megabytes; -1 is no limit.
    'slot_keep_mb', (SELECT s.setting::bigint FROM pg_settings AS s WHERE s.name = 'max_slot_wal_keep_size'),
    -- Milliseconds; 0 is never.
    'sender_timeout_ms', (SELECT s.setting::bigint FROM pg_settings AS s WHERE s.name = 'wal_sender_timeout')
)::text;
