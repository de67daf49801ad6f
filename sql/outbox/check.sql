-- The outbox as `crieur check` needs to know it. One row, one JSON object; the schema must be there. No row: it was left.
-- By hand: psql -XAt -f sql/outbox/check.sql
SELECT pg_catalog.jsonb_build_object(
    'version', crieur.version(),
    'notify', (SELECT s.notify FROM crieur.setting AS s),
    'rows', (SELECT count(*) FROM crieur.outbox),
    'bytes', pg_catalog.pg_total_relation_size('crieur.outbox'),
    'bytes_max', (SELECT s.bytes_max FROM crieur.setting AS s),
    -- Seconds.
    'oldest', (SELECT extract(epoch FROM pg_catalog.clock_timestamp() - min(o.at))::bigint FROM crieur.outbox AS o),
    'collapsed', (SELECT count(*) FROM crieur.collapse),
    -- Who reads it now, slot by slot.
    'owners', (
        SELECT coalesce(pg_catalog.jsonb_object_agg(p.slot, p.owner), '{}')
        FROM crieur.progress AS p
        -- A recorder has none.
        WHERE p.owner IS NOT NULL AND p.owner_until > pg_catalog.clock_timestamp()
            AND p.owner_until < pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 20)
    ),
    'may_work', pg_catalog.has_table_privilege('crieur.outbox', 'DELETE')
        AND pg_catalog.has_table_privilege('crieur.progress', 'UPDATE')
        AND pg_catalog.has_function_privilege('crieur.close_collapsed()', 'EXECUTE'),
    'role', current_user,
    'tables', coalesce((
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'schema', w.schema, 'table', w.name, 'columns', w.columns, 'ignore', w.ignore, 'missing', w.missing,
            'uncovered', (SELECT coalesce(pg_catalog.jsonb_agg(u.relation::text), '[]') FROM unnest(w.uncovered) AS u (relation)),
            'stale', w.stale
        ))
        FROM crieur.watched AS w
    ), '[]')
)::text
FROM crieur.setting
