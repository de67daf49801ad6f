-- The tables of the rules, each with the relations that carry its rows: itself, or the leaves of its partition tree.
-- One row for each of them that exists, one JSON object in each.
-- By hand: psql -XAt -v publication=crieur -v tables='[["public","properties"]]' -f sql/tables.sql
WITH RECURSIVE wanted AS (
    SELECT t.item ->> 0 AS nspname, t.item ->> 1 AS relname
    FROM jsonb_array_elements(:'tables'::jsonb) AS t (item)
),
root AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relispartition, n.nspname, c.relname
    FROM wanted AS w
    JOIN pg_namespace AS n ON n.nspname = w.nspname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.relname
),
-- Tables that inherit from it carry its rows, too.
carrier (root, oid) AS (
    (
        SELECT r.oid, r.oid FROM root AS r WHERE r.relkind <> 'p'
        UNION ALL
        SELECT r.oid, t.relid::oid FROM root AS r CROSS JOIN LATERAL pg_partition_tree(r.oid) AS t
        WHERE r.relkind = 'p' AND t.isleaf
    )
    UNION
    SELECT c.root, i.inhrelid FROM carrier AS c JOIN pg_inherits AS i ON i.inhparent = c.oid
    WHERE NOT EXISTS (SELECT FROM pg_class AS p WHERE p.oid = c.oid AND p.relkind = 'p')
),
-- The columns of every index that can be a replica identity: unique, not partial, not deferrable, no expression.
-- Only key columns count (RelationGetIndexAttrBitmap in src/backend/utils/cache/relcache.c).
unique_index AS (
    SELECT i.indrelid, i.indexrelid, x.relname, i.indisprimary, i.indisreplident, i.indisvalid,
        array_agg(k.attnum ORDER BY k.place) AS attnums
    FROM (SELECT DISTINCT oid FROM carrier) AS c
    JOIN pg_index AS i ON i.indrelid = c.oid
    JOIN pg_class AS x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
    WHERE i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts
    GROUP BY i.indrelid, i.indexrelid, x.relname, i.indisprimary, i.indisreplident, i.indisvalid
),
-- The tables above a carrier, itself included: what publishes one of them publishes the carrier.
above AS MATERIALIZED (
    SELECT c.oid, c.oid AS relid, 1::bigint AS level FROM carrier AS c
    UNION
    SELECT c.oid, t.relid, t.level
    FROM (SELECT DISTINCT oid FROM carrier) AS c
    CROSS JOIN LATERAL pg_partition_ancestors(c.oid) WITH ORDINALITY AS t (relid, level)
    WHERE t.relid <> c.oid
),
-- Which of them each publication names, by itself or by its schema; version 14 has no schemas in publications.
named AS MATERIALIZED (
    SELECT a.oid, a.relid, a.level, r.prpubid AS pubid
    FROM above AS a JOIN pg_publication_rel AS r ON r.prrelid = a.relid
    UNION
    SELECT a.oid, a.relid, a.level, p.refobjid
    FROM above AS a
    JOIN pg_class AS c ON c.oid = a.relid
    JOIN pg_depend AS s ON s.refclassid = 'pg_namespace'::regclass AND s.refobjid = c.relnamespace
        AND s.classid = to_regclass('pg_catalog.pg_publication_namespace')
    JOIN pg_depend AS p ON p.classid = s.classid AND p.objid = s.objid
        AND p.refclassid = 'pg_publication'::regclass
),
-- With publish_via_partition_root the list and the filter of the topmost table count, otherwise those of the carrier
-- (RelationBuildPublicationDesc in src/backend/utils/cache/relcache.c).
sender AS MATERIALIZED (
    SELECT c.oid, p.oid AS pubid, p.pubname, p.puballtables, coalesce(to_jsonb(p) ->> 'pubgencols', 'n') AS generated,
        coalesce((
            SELECT m.relid FROM named AS m
            WHERE p.pubviaroot AND m.oid = c.oid AND m.pubid = p.oid
            ORDER BY m.level DESC LIMIT 1
        ), c.oid) AS entry
    FROM (SELECT DISTINCT oid FROM carrier) AS c
    JOIN pg_publication AS p
        ON p.puballtables OR EXISTS (SELECT FROM named AS m WHERE m.oid = c.oid AND m.pubid = p.oid)
    WHERE (p.pubupdate OR p.pubdelete) AND pg_relation_is_publishable(c.oid)
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
            'partition', c.relispartition,
            'owner', c.relowner::regrole::text,
            'owned', pg_has_role(c.relowner, 'USAGE'),
            'settable', (
                SELECT a.attname FROM pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND a.attgenerated = '' AND a.attidentity <> 'a'
                ORDER BY a.attnum LIMIT 1
            ),
            'publications', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'name', s.pubname,
                    'entry', (
                        SELECT jsonb_build_array(en.nspname, e.relname)
                        FROM pg_class AS e JOIN pg_namespace AS en ON en.oid = e.relnamespace
                        WHERE e.oid = s.entry
                    ),
                    'generated', s.generated,
                    'columns', (
                        SELECT jsonb_agg(a.attname)
                        FROM pg_publication_rel AS r
                        CROSS JOIN LATERAL unnest(
                            string_to_array(translate(to_jsonb(r) ->> 'prattrs', '[],', ''), ' ')
                        ) AS l (attnum)
                        JOIN pg_attribute AS a ON a.attrelid = s.entry AND a.attnum = l.attnum::smallint
                        WHERE r.prpubid = s.pubid AND r.prrelid = s.entry AND NOT s.puballtables
                    ),
                    -- The columns of an expression, as the server stores it.
                    'filter', coalesce((
                        SELECT jsonb_agg(DISTINCT a.attname)
                        FROM pg_publication_rel AS r
                        CROSS JOIN LATERAL regexp_matches(to_jsonb(r) ->> 'prqual', ':varattno ([0-9]+)', 'g') AS l (attnum)
                        JOIN pg_attribute AS a ON a.attrelid = s.entry AND a.attnum = l.attnum[1]::smallint
                        WHERE r.prpubid = s.pubid AND r.prrelid = s.entry AND NOT s.puballtables
                    ), '[]')
                ) ORDER BY s.pubname)
                FROM sender AS s
                WHERE s.oid = c.oid
            ), '[]'),
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
