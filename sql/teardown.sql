-- What `crieur setup` makes besides tables' identities, as far as it is there, and who reads from the slot. One JSON object.
-- By hand: psql -XAt -v slot=crieur -f sql/teardown.sql
SELECT jsonb_build_object(
    'triggers', (
        SELECT coalesce(jsonb_agg(e.evtname ORDER BY e.evtname), '[]')
        FROM pg_event_trigger AS e
        JOIN pg_proc AS f ON f.oid = e.evtfoid
        JOIN pg_namespace AS n ON n.oid = f.pronamespace
        WHERE n.nspname = 'crieur' AND e.evtname IN ('crieur_ddl', 'crieur_drop', 'crieur_rewrite')
    ),
    'functions', (
        SELECT coalesce(jsonb_agg(f.oid::regprocedure::text ORDER BY f.oid::regprocedure::text), '[]')
        FROM pg_proc AS f
        JOIN pg_namespace AS n ON n.oid = f.pronamespace
        WHERE n.nspname = 'crieur' AND f.proname IN ('announce_ddl', 'announce_keys', 'invalidate', 'invalidate_exact')
    ),
    'schema', EXISTS (SELECT FROM pg_namespace AS n WHERE n.nspname = 'crieur'),
    'outbox', EXISTS (
        SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'crieur' AND c.relname = 'progress'
    ),
    -- What somebody else put into the schema, or an outbox: it keeps the schema.
    'others', (
        SELECT count(*)
        FROM pg_namespace AS n
        JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
        LEFT JOIN pg_proc AS f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
        WHERE n.nspname = 'crieur'
            AND (f.oid IS NULL OR f.proname NOT IN ('announce_ddl', 'announce_keys', 'invalidate', 'invalidate_exact'))
    ),
    -- Slots of the same plugin in this database: each may be another crieur's, which uses the triggers and functions too.
    'slots', (
        SELECT coalesce(jsonb_agg(s.slot_name ORDER BY s.slot_name), '[]')
        FROM pg_replication_slots AS s
        WHERE s.plugin = 'pgoutput' AND s.database = current_database() AND s.slot_name <> :'slot' AND NOT s.temporary
    ),
    'holder', (
        SELECT jsonb_build_object(
            'pid', s.active_pid,
            'role', a.usename,
            'application', nullif(a.application_name, ''),
            'address', host(a.client_addr)
        )
        FROM pg_replication_slots AS s
        LEFT JOIN pg_stat_activity AS a ON a.pid = s.active_pid
        WHERE s.slot_name = :'slot' AND s.active_pid IS NOT NULL
    )
)::text;
