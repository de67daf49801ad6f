-- The tables of the rules, each with the relations that carry its rows: itself, or the leaves of its partition tree.
-- One row for each of them that exists, one JSON object in each.
-- By hand: psql -XAt -v publication=crieur -v tables='[["public","properties"]]' -f sql/tables.sql
WITH wanted AS (
    SELECT t.item ->> 0 AS nspname, t.item ->> 1 AS relname
    FROM jsonb_array_elements(:'tables'::jsonb) AS t (item)
),
root AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relispartition, n.nspname, c.relname
    FROM wanted AS w
    JOIN pg_namespace AS n ON n.nspname = w.nspname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.relname
),
carrier AS (
    SELECT r.oid AS root, r.oid FROM root AS r WHERE r.relkind <> 'p'
    UNION ALL
    SELECT r.oid, t.relid FROM root AS r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS t
    WHERE r.relkind = 'p' AND t.isleaf
),
-- The columns of every index that can be a replica identity: unique, not partial, not deferrable, no expression.
-- Only key columns count (RelationGetIndexAttrBitmap in src/backend/utils/cache/relcache.c).
unique_index AS (
    SELECT i.indrelid, i.indexrelid, x.relname, i.indisprimary, i.indisreplident, i.indisvalid,
        array_agg(k.attnum ORDER BY k.place) AS attnums
    FROM carrier AS c
    JOIN pg_index AS i ON i.indrelid = c.oid
    JOIN pg_class AS x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
    WHERE i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
    GROUP BY i.indrelid, i.indexrelid, x.relname, i.indisprimary, i.indisreplident, i.indisvalid
),
published AS (
    SELECT p.schemaname, p.tablename, to_jsonb(p) -> 'attnames' AS attnames, to_jsonb(p) ->> 'rowfilter' AS rowfilter
    FROM pg_publication_tables AS p
    WHERE p.pubname = :'publication'
)
SELECT jsonb_build_object(
    'schema', r.nspname,
    'table', r.relname,
    'kind', r.relkind,
    'persistence', r.relpersistence,
    'is_partition', r.relispartition,
    -- Tables that inherit from it without being partitions.
    'heirs', r.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhparent = r.oid),
    'owned', (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = r.oid),
    -- A publication with publish_via_partition_root lists the root only.
    'root_published', EXISTS (
        SELECT FROM published AS p WHERE p.schemaname = r.nspname AND p.tablename = r.relname
    ),
    'carriers', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'schema', n.nspname,
            'table', c.relname,
            'kind', c.relkind,
            'persistence', c.relpersistence,
            'identity', c.relreplident,
            'published', p.tablename IS NOT NULL,
            'row_filter', p.rowfilter IS NOT NULL,
            'columns', (
                SELECT jsonb_agg(jsonb_build_object(
                    'name', a.attname,
                    -- Of a domain, the type that it is made of; without length or precision.
                    'kind', format_type(CASE ty.typtype WHEN 'd' THEN ty.typbasetype ELSE ty.oid END, NULL),
                    'labels', coalesce((
                        SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum AS e
                        WHERE e.enumtypid = CASE ty.typtype WHEN 'd' THEN ty.typbasetype ELSE ty.oid END
                    ), '[]'),
                    'not_null', a.attnotnull,
                    'generated', a.attgenerated,
                    -- The longest it can be as an index key, in bytes; NULL where the type sets no bound.
                    'bytes_max', CASE
                        WHEN a.attlen > 0 THEN a.attlen
                        WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND a.atttypmod > 4
                            THEN (a.atttypmod - 4) * 4 + 4
                        WHEN a.atttypid = 'numeric'::regtype AND a.atttypmod >= 4
                            THEN ((a.atttypmod - 4) >> 16 & 65535) + 16
                    END,
                    'published', p.attnames IS NULL OR p.attnames = 'null' OR p.attnames ? a.attname
                ) ORDER BY a.attnum)
                FROM pg_attribute AS a
                JOIN pg_type AS ty ON ty.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            ),
            'indexes', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'name', i.relname,
                    'primary', i.indisprimary,
                    'identity', i.indisreplident,
                    'valid', i.indisvalid,
                    'columns', (
                        SELECT jsonb_agg(a.attname ORDER BY k.place)
                        FROM unnest(i.attnums) WITH ORDINALITY AS k (attnum, place)
                        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
                    )
                ) ORDER BY i.relname)
                FROM unique_index AS i
                WHERE i.indrelid = c.oid
            ), '[]')
        ) ORDER BY n.nspname, c.relname)
        FROM carrier AS l
        JOIN pg_class AS c ON c.oid = l.oid
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        LEFT JOIN published AS p ON p.schemaname = n.nspname AND p.tablename = c.relname
        WHERE l.root = r.oid
    ), '[]')
)::text
FROM root AS r
ORDER BY r.nspname, r.relname;
