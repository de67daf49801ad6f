-- What the answers of lookups stand for besides rows: how everything is defined that their words may name, and what
-- that is made of. One row: a digest, which is another one behind a rename, a DROP and CREATE, a view or a function
-- that was replaced, a policy, a schema that took another's name, a table that hides one behind it in the path.
-- Statistics, indexes and VACUUM leave it alone: these change rows of the catalog in place, and xmin stays.
-- By hand: psql -XAt -v publication=crieur -v words='{leases,owner_id}' -f sql/definitions.sql
WITH RECURSIVE thing (classid, objid) AS (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, c.oid
    FROM pg_catalog.pg_class AS c
    WHERE c.relname = ANY (:'words'::name[]) AND c.oid >= 16384 AND c.relpersistence <> 't'
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::oid, f.oid
    FROM pg_catalog.pg_proc AS f
    WHERE f.proname = ANY (:'words'::name[]) AND f.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::oid, y.oid
    FROM pg_catalog.pg_type AS y
    WHERE y.typname = ANY (:'words'::name[]) AND y.oid >= 16384 AND y.typrelid = 0
    UNION
    SELECT m.classid, m.objid
    FROM thing AS t
    CROSS JOIN LATERAL (
        -- What a view is made of: its rule depends on that.
        SELECT d.refclassid, d.refobjid
        FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
        WHERE t.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND w.ev_class = t.objid
        UNION ALL
        -- A function with a parsed body, a domain, a default.
        SELECT d.refclassid, d.refobjid
        FROM pg_catalog.pg_depend AS d
        WHERE t.classid <> 'pg_catalog.pg_class'::pg_catalog.regclass AND d.classid = t.classid AND d.objid = t.objid
        UNION ALL
        -- Tables below it whose own partitions count as well.
        SELECT t.classid, i.inhrelid
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND (c.relkind = 'p' OR NOT c.relispartition)
        WHERE t.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND i.inhparent = t.objid
        UNION ALL
        SELECT 'pg_catalog.pg_type'::pg_catalog.regclass::oid, a.atttypid
        FROM pg_catalog.pg_attribute AS a
        WHERE t.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND a.attrelid = t.objid AND a.attnum > 0
        UNION ALL
        SELECT k.classid, k.objid
        FROM pg_catalog.pg_type AS y
        CROSS JOIN LATERAL (
            VALUES ('pg_catalog.pg_type'::pg_catalog.regclass::oid, y.typelem),
                ('pg_catalog.pg_class'::pg_catalog.regclass::oid, y.typrelid)
        ) AS k (classid, objid)
        WHERE t.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND y.oid = t.objid
        UNION ALL
        -- Whatever the text of a function may name.
        SELECT n.classid, n.objid
        FROM pg_catalog.pg_proc AS f
        CROSS JOIN LATERAL (
            SELECT DISTINCT w.word::name
            FROM pg_catalog.regexp_split_to_table(f.prosrc || ' ' || lower(f.prosrc), '\W+') AS w (word)
        ) AS w (word)
        CROSS JOIN LATERAL (
            SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::oid, c.oid
            FROM pg_catalog.pg_class AS c
            WHERE c.relname = w.word AND c.relpersistence <> 't'
            UNION ALL
            SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::oid, g.oid
            FROM pg_catalog.pg_proc AS g
            WHERE g.proname = w.word
        ) AS n (classid, objid)
        WHERE t.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.oid = t.objid
    ) AS m (classid, objid)
    WHERE m.objid >= 16384 AND m.classid IN (
        'pg_catalog.pg_class'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
        'pg_catalog.pg_type'::pg_catalog.regclass
    )
)
SELECT pg_catalog.md5(concat_ws('/', (
    SELECT pg_catalog.string_agg(concat_ws('/', t.classid, t.objid, v.version), ',' ORDER BY t.classid, t.objid)
    FROM thing AS t
    CROSS JOIN LATERAL (
        SELECT concat_ws('/', c.xmin, n.xmin, (
            SELECT pg_catalog.string_agg(a.xmin::text, '.' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
        ), (
            SELECT pg_catalog.string_agg(w.xmin::text, '.' ORDER BY w.oid)
            FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = c.oid
        ), (
            SELECT pg_catalog.string_agg(p.xmin::text, '.' ORDER BY p.oid)
            FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid
        ), (
            SELECT pg_catalog.string_agg(concat_ws('-', i.inhrelid, i.xmin), '.' ORDER BY i.inhrelid)
            FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
        ))
        FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE t.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = t.objid
        UNION ALL
        SELECT concat_ws('/', f.xmin, n.xmin)
        FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
        WHERE t.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND f.oid = t.objid
        UNION ALL
        SELECT concat_ws('/', y.xmin, (
            SELECT pg_catalog.string_agg(e.xmin::text, '.' ORDER BY e.oid)
            FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = y.oid
        ))
        FROM pg_catalog.pg_type AS y
        WHERE t.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND y.oid = t.objid
    ) AS v (version)
), (
    -- Whether the stream brings the tables.
    SELECT concat_ws('/', p.oid, p.xmin, (
        SELECT pg_catalog.string_agg(concat_ws('-', d.objid, d.xmin), '.' ORDER BY d.classid, d.objid)
        FROM pg_catalog.pg_depend AS d
        WHERE d.refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass AND d.refobjid = p.oid
    ))
    FROM pg_catalog.pg_publication AS p WHERE p.pubname = :'publication'
)))
