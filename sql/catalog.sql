-- What readers see of the tables of the rules and of all that carries their rows, in the words in which the event
-- triggers of sql/triggers.sql tell it of altered tables: the daemon compares the two. One row, one JSON object.
-- By hand: psql -XAt -v tables='[["public","properties"]]' -f sql/catalog.sql
WITH RECURSIVE looked (oid) AS (
    SELECT c.oid
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.item ->> 0
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.item ->> 1
    UNION
    SELECT i.inhrelid FROM looked AS l JOIN pg_catalog.pg_inherits AS i ON i.inhparent = l.oid
),
made_of (relation, type) AS (
    SELECT l.oid, a.atttypid
    FROM looked AS l
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE a.atttypid >= 16384
    UNION
    SELECT m.relation, inside.oid
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
look (oid, look) AS (
    SELECT c.oid, pg_catalog.jsonb_build_object(
        'shape', pg_catalog.md5(pg_catalog.jsonb_build_array(n.nspname, c.relname, c.relkind, c.relpersistence, (
            -- The number of a column too: one that was dropped and added again holds other values.
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attnum, a.attname, a.atttypid,
                a.attcollation, a.attgenerated, CASE WHEN a.attgenerated <> '' THEN d.adbin::pg_catalog.text END
            ) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a
            LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ), (
            SELECT pg_catalog.jsonb_agg(i.inhparent ORDER BY i.inhparent)
            FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = c.oid
        ), CASE WHEN c.relrowsecurity THEN pg_catalog.jsonb_build_array(c.relforcerowsecurity, c.relowner, (
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                p.polcmd, p.polpermissive, p.polroles, p.polqual::pg_catalog.text) ORDER BY p.oid)
            FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid AND p.polcmd <> 'a'
        )) END, (
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                m.type, a.attnum, a.attname, a.atttypid, a.attcollation) ORDER BY m.type, a.attnum)
            FROM made_of AS m
            JOIN pg_catalog.pg_type AS t ON t.oid = m.type
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE m.relation = c.oid
        ))::pg_catalog.text),
        -- A label that is new changes no value that is there.
        'labels', coalesce((
            SELECT pg_catalog.jsonb_agg(left(pg_catalog.md5(pg_catalog.concat_ws('/', e.oid, e.enumlabel)), 16))
            FROM made_of AS m JOIN pg_catalog.pg_enum AS e ON e.enumtypid = m.type
            WHERE m.relation = c.oid
        ), '[]'),
        'splits', c.relkind = 'p' OR c.relhassubclass,
        -- Never false where there are some.
        'parts', CASE WHEN c.relhassubclass THEN (
            WITH RECURSIVE below (oid) AS (
                SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
                UNION
                SELECT i.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid
            )
            SELECT coalesce(pg_catalog.jsonb_agg(b.oid::pg_catalog.int8 ORDER BY b.oid), '[]') FROM below AS b
        ) ELSE '[]' END
    )
    FROM looked AS l
    JOIN pg_catalog.pg_class AS c ON c.oid = l.oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pg_catalog'
)
SELECT pg_catalog.jsonb_build_object(
    -- That of a standby lists no transaction as in progress, so that it contains too many: DDL of those is in doubt.
    'snapshot', pg_catalog.pg_current_snapshot(),
    'tables', coalesce((
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname, 'look', k.look))
        FROM look AS k
        JOIN pg_catalog.pg_class AS c ON c.oid = k.oid
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    ), '[]')
)::text
