-- What the plan of a lookup scans: of each the topmost table above it, or itself, and whether changes of its rows can be
-- in the stream. One JSON object each.
-- By hand: psql -XAt -v tables='["\"public\".\"leases\""]' -f sql/roots.sql
SELECT DISTINCT pg_catalog.jsonb_build_object(
    'schema', n.nspname, 'name', c.relname, 'streamed', c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
)::text
FROM pg_catalog.jsonb_array_elements_text(:'tables'::jsonb) AS t (name)
CROSS JOIN LATERAL (SELECT pg_catalog.to_regclass(t.name)::oid) AS s (oid)
JOIN pg_catalog.pg_class AS c ON c.oid = coalesce(pg_catalog.pg_partition_root(s.oid)::oid, s.oid)
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
