-- Whether sql/outbox/facts.sql would say something else of what is watched than before: a hash of the versions of all rows
-- of the catalogs that it reads. It costs a fraction, and may differ where nothing does. One row, one text.
-- Who is made anew has another version (xmin), and who is gone none. In a transaction of its own; the joins are written in
-- the order in which they are cheap.
-- By hand: psql -XAt1 -f sql/outbox/digest.sql
SET LOCAL join_collapse_limit TO 1;
SET LOCAL enable_material TO off;
WITH RECURSIVE carrier (oid) AS (
    SELECT t.relation::oid FROM crieur.target AS t
    UNION
    SELECT i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
),
ours (oid) AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c
    WHERE c.relnamespace = 'crieur'::regnamespace AND c.relname IN ('outbox', 'collapse') AND c.relkind = 'r'
),
relation (oid) AS (
    SELECT c.oid FROM carrier AS c UNION SELECT o.oid FROM ours AS o
),
attribute AS MATERIALIZED (
    SELECT a.attrelid, a.attnum, a.xmin, a.atttypid
    FROM relation AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0
),
made_of (type) AS (
    SELECT a.atttypid FROM attribute AS a WHERE a.atttypid >= 16384
    UNION
    SELECT inside.oid
    FROM made_of AS m
    JOIN pg_catalog.pg_type AS t ON t.oid = m.type
    CROSS JOIN LATERAL (
        SELECT t.typelem
        UNION ALL SELECT t.typbasetype
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r
            WHERE t.typtype IN ('r', 'm')
                AND t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid)
    ) AS inside (oid)
    WHERE inside.oid >= 16384
),
-- Versions, from each catalog in an order of its own.
version (place, numbers) AS (
    SELECT 1, pg_catalog.string_agg(concat_ws(' ', t.id, t.xmin), ',' ORDER BY t.id) FROM crieur.target AS t
    UNION ALL
    SELECT 2, pg_catalog.string_agg(s.xmin::text, ',') FROM crieur.setting AS s
    UNION ALL
    SELECT 3, pg_catalog.string_agg(concat_ws(' ', c.oid, c.xmin), ',' ORDER BY c.oid)
    FROM relation AS r JOIN pg_catalog.pg_class AS c ON c.oid = r.oid
    UNION ALL
    SELECT 4, pg_catalog.string_agg(i.xmin::text, ',' ORDER BY i.inhrelid, i.inhparent)
    FROM relation AS r JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = r.oid
    UNION ALL
    SELECT 5, pg_catalog.string_agg(a.xmin::text, ',' ORDER BY a.attrelid, a.attnum)
    FROM attribute AS a
    UNION ALL
    SELECT 6, pg_catalog.string_agg(a.xmin::text, ',' ORDER BY a.attrelid, a.attnum)
    FROM made_of AS m
    JOIN pg_catalog.pg_type AS t ON t.oid = m.type
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.typrelid AND a.attnum > 0
    UNION ALL
    SELECT 7, pg_catalog.string_agg(e.xmin::text, ',' ORDER BY e.oid)
    FROM made_of AS m JOIN pg_catalog.pg_enum AS e ON e.enumtypid = m.type
    UNION ALL
    SELECT 8, pg_catalog.string_agg(d.xmin::text, ',' ORDER BY d.oid)
    FROM relation AS r JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = r.oid
    UNION ALL
    SELECT 9, pg_catalog.string_agg(p.xmin::text, ',' ORDER BY p.oid)
    FROM relation AS r JOIN pg_catalog.pg_policy AS p ON p.polrelid = r.oid
    UNION ALL
    SELECT 10, pg_catalog.string_agg(t.xmin::text, ',' ORDER BY t.oid)
    FROM relation AS r JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = r.oid
    UNION ALL
    SELECT 11, pg_catalog.string_agg(f.xmin::text, ',' ORDER BY f.oid)
    FROM pg_catalog.pg_proc AS f WHERE f.pronamespace = 'crieur'::regnamespace
    UNION ALL
    SELECT 12, pg_catalog.string_agg(n.xmin::text, ',' ORDER BY n.oid)
    FROM pg_catalog.pg_namespace AS n WHERE n.nspname !~ '^pg_'
    UNION ALL
    SELECT 13, CASE WHEN pg_catalog.has_sequence_privilege(m.oid, 'SELECT')
        THEN pg_catalog.pg_sequence_last_value(m.oid)::text END
    FROM pg_catalog.to_regclass('crieur.missed') AS m (oid)
    UNION ALL
    SELECT 14, d.oid::text FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
)
SELECT pg_catalog.md5(pg_catalog.string_agg(concat_ws(':', v.place, v.numbers), '/' ORDER BY v.place)) FROM version AS v
