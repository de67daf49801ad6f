-- What may go wrong while the stream runs: the slot's WAL, tables of the rules that are not published. One JSON object.
-- By hand: psql -XAt -v slot=crieur -v publication=crieur -v tables='[["public","properties"]]' -f sql/watch.sql
WITH publication AS (
    SELECT p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate
    FROM pg_catalog.pg_publication AS p
    WHERE p.pubname = :'publication'
),
withheld AS (
    SELECT k.kind
    FROM publication AS p
    CROSS JOIN LATERAL (
        VALUES ('insert', p.pubinsert), ('update', p.pubupdate), ('delete', p.pubdelete), ('truncate', p.pubtruncate)
    ) AS k (kind, sent)
    WHERE NOT k.sent
),
published AS MATERIALIZED (
    SELECT n.oid AS namespace, t.tablename
    FROM pg_catalog.pg_publication_tables AS t
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schemaname
    WHERE t.pubname = :'publication'
),
root AS (
    SELECT c.oid, c.relkind, c.relnamespace, n.nspname, c.relname
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.item ->> 0
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.item ->> 1
    WHERE c.relkind IN ('r', 'p')
),
-- Kinds are left out, or neither the table itself is published nor, where it is partitioned, every leaf of it.
unpublished AS (
    SELECT r.nspname, r.relname
    FROM root AS r
    WHERE EXISTS (SELECT FROM withheld)
      OR NOT EXISTS (SELECT FROM published AS p WHERE p.namespace = r.relnamespace AND p.tablename = r.relname)
      AND (r.relkind <> 'p' OR NOT EXISTS (SELECT FROM publication) OR EXISTS (
        SELECT FROM pg_catalog.pg_partition_tree(r.oid) AS t
        JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
        WHERE t.isleaf AND c.relkind <> 'p' AND NOT EXISTS (
            SELECT FROM published AS p WHERE p.namespace = c.relnamespace AND p.tablename = c.relname
        )
      ))
)
SELECT pg_catalog.jsonb_build_object(
    'withheld', (SELECT coalesce(pg_catalog.jsonb_agg(w.kind), '[]') FROM withheld AS w),
    'unpublished', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(u.nspname, u.relname)), '[]')
        FROM unpublished AS u
    ),
    'standby_names', pg_catalog.current_setting('synchronous_standby_names'),
    'application_name', pg_catalog.current_setting('application_name'),
    'wal', (
        SELECT pg_catalog.jsonb_build_object(
            'status', s.wal_status,
            'safe_bytes', s.safe_wal_size,
            'held_bytes', pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint
        )
        FROM pg_catalog.pg_replication_slots AS s
        WHERE s.slot_name = :'slot' AND s.wal_status IS NOT NULL AND s.restart_lsn IS NOT NULL
    )
)::text
