-- The server as crieur needs to know it: version, settings, what is free. One row, one JSON object.
-- By hand: psql -XAt -v triggers="$(cat sql/triggers.sql)" -v functions="$(cat sql/invalidate.sql)" -f sql/server.sql
SELECT jsonb_build_object(
    'version', current_setting('server_version_num')::integer,
    'version_text', current_setting('server_version'),
    'database', current_database(),
    'in_recovery', pg_is_in_recovery(),
    'standby_names', current_setting('synchronous_standby_names'),
    -- The slots that streams of failover slots wait for (version 17 and later), each with what the server has of it.
    'waited_for', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'name', w.name,
            'kind', s.slot_type,
            'active', coalesce(s.active, false),
            'lost', s.wal_status = 'lost' OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL
        ) ORDER BY w.place)
        FROM regexp_split_to_table(current_setting('synchronized_standby_slots', true), ',') WITH ORDINALITY AS l (item, place)
        CROSS JOIN LATERAL (SELECT btrim(l.item, E' \t\n"') AS name, l.place) AS w
        LEFT JOIN pg_replication_slots AS s ON s.slot_name = w.name
        WHERE w.name <> ''
    ), '[]'),
    'wal_level', current_setting('wal_level'),
    'slots_max', current_setting('max_replication_slots')::integer,
    'slots_used', (SELECT count(*) FROM pg_replication_slots),
    'senders_max', current_setting('max_wal_senders')::integer,
    'senders_used', (SELECT count(*) FROM pg_stat_replication),
    -- Those of triggers.sql that fire in every session, for the same commands, with the function as that script makes it,
    -- and of nobody else than who made the trigger, unless a superuser's.
    'triggers', (
        SELECT count(*) FROM pg_event_trigger AS e
        JOIN pg_proc AS f ON f.oid = e.evtfoid
        JOIN pg_namespace AS n ON n.oid = f.pronamespace
        JOIN pg_roles AS r ON r.oid = f.proowner
        WHERE (e.evtname, e.evtevent) IN (
                ('crieur_ddl', 'ddl_command_end'), ('crieur_drop', 'sql_drop'), ('crieur_rewrite', 'table_rewrite')
            )
            AND e.evtenabled = 'A'
            AND e.evttags IS NOT DISTINCT FROM CASE WHEN e.evtname = 'crieur_ddl' THEN ARRAY[
                'ALTER TABLE', 'ALTER INDEX', 'ALTER TYPE', 'ALTER SCHEMA', 'CREATE POLICY', 'ALTER POLICY'
            ] END
            AND (n.nspname, f.proname) = ('crieur', 'announce_ddl')
            AND NOT f.prosecdef AND strpos(:'triggers', f.prosrc) > 0 AND (r.rolsuper OR r.oid = e.evtowner)
    ),
    -- However they are.
    'triggers_found', (
        SELECT count(*) FROM pg_event_trigger AS e WHERE e.evtname IN ('crieur_ddl', 'crieur_drop', 'crieur_rewrite')
    ),
    -- Those of invalidate.sql, as that script makes them, of the outbox's owner where there is one.
    'functions', (
        SELECT count(*) FROM pg_proc AS f
        JOIN pg_namespace AS n ON n.oid = f.pronamespace
        WHERE n.nspname = 'crieur' AND f.proname IN ('announce_keys', 'invalidate', 'invalidate_exact')
            AND strpos(:'functions', f.prosrc) > 0 AND NOT EXISTS (
                SELECT FROM pg_class AS c
                WHERE c.relnamespace = n.oid AND c.relname = 'outbox' AND c.relowner <> f.proowner
            )
    ),
    -- Of a standby, or of a server with standbys.
    'feedback', current_setting('hot_standby_feedback')::boolean,
    'upstream_slot', current_setting('primary_slot_name'),
    'standby_slots', (SELECT count(*) FROM pg_replication_slots AS s WHERE s.slot_type = 'physical'),
    -- Megabytes; -1 is no limit.
    'slot_keep_mb', (SELECT s.setting::bigint FROM pg_settings AS s WHERE s.name = 'max_slot_wal_keep_size'),
    -- Milliseconds; 0 is never.
    'sender_timeout_ms', (SELECT s.setting::bigint FROM pg_settings AS s WHERE s.name = 'wal_sender_timeout')
)::text;
