-- What must not have changed for the cache to be right without a sweep, where triggers write an outbox. One row: the
-- server's run (as in run.sql), what is watched, the outbox's own identity, whether writers notify, the database.
-- What is watched is a list of tables, each with what must be the same: its look with its triggers; the labels of its
-- enum types; and not both of its files, which VACUUM FULL writes anew, too, and the
-- versions of its columns, which SET STATISTICS makes anew, too: both together are a rewrite by ALTER TABLE.
-- In a transaction of its own. With thousands of partitions the planner takes the few tables of the rules for granted and
-- compares each relation with each: the joins are written in the order in which they are cheap.
-- By hand: psql -XAt1 -f sql/outbox/facts.sql
SET LOCAL join_collapse_limit TO 1;
SET LOCAL enable_material TO off;
WITH RECURSIVE carrier (target, oid) AS (
    SELECT t.id, t.relation::oid FROM crieur.target AS t
    UNION
    SELECT c.target, i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
),
looked (oid) AS (
    SELECT DISTINCT c.oid FROM carrier AS c
),
-- As in sql/catalog.sql, to the letter.
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
),
-- Every trigger of ours and its function: one that was dropped and made again is new.
capture (relation, names) AS (
    SELECT t.tgrelid,
        pg_catalog.string_agg(concat_ws('/', t.oid, t.xmin, t.tgenabled, f.oid, f.xmin), ',' ORDER BY t.oid)
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
    WHERE f.pronamespace = 'crieur'::regnamespace AND NOT t.tgisinternal
    GROUP BY t.tgrelid
),
version (relation, numbers) AS (
    SELECT a.attrelid, pg_catalog.string_agg(concat_ws('/', a.attnum, a.xmin, d.oid), ',' ORDER BY a.attnum)
    FROM looked AS l
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = l.oid AND a.attnum > 0
    LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''
    GROUP BY a.attrelid
),
watched (target, look, files, versions, labels) AS (
    SELECT
        c.target,
        pg_catalog.string_agg(concat_ws(',', c.oid, k.look - 'labels' - 'splits', t.names), ',' ORDER BY c.oid),
        pg_catalog.string_agg(r.relfilenode::text, ',' ORDER BY c.oid),
        pg_catalog.string_agg(concat_ws('/', c.oid, v.numbers), ',' ORDER BY c.oid),
        coalesce(pg_catalog.jsonb_agg(k.look -> 'labels') FILTER (WHERE k.look -> 'labels' <> '[]'), '[]')
    FROM carrier AS c
    JOIN pg_catalog.pg_class AS r ON r.oid = c.oid
    LEFT JOIN look AS k ON k.oid = c.oid
    LEFT JOIN capture AS t ON t.relation = c.oid
    LEFT JOIN version AS v ON v.relation = c.oid
    GROUP BY c.target
),
-- What lets the triggers write, and when they last could not: an outbox that was made anew lacks changes of any table.
heard (digest) AS (
    SELECT pg_catalog.md5(pg_catalog.string_agg(p.name, ',' ORDER BY p.name))
    FROM (
        SELECT concat_ws('/', c.oid, c.relowner, c.relacl, c.relpersistence, c.relforcerowsecurity, c.relchecks, (
            SELECT pg_catalog.string_agg(concat_ws(' ', a.attname, a.attisdropped), ',' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
        ))
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'crieur'::regnamespace AND c.relname IN ('outbox', 'collapse') AND c.relkind = 'r'
        UNION ALL
        SELECT concat_ws('/', n.oid, n.nspowner, n.nspacl) FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'crieur'
        UNION ALL
        SELECT concat_ws('/', 'missed', CASE WHEN pg_catalog.has_sequence_privilege(m.oid, 'SELECT')
            THEN pg_catalog.pg_sequence_last_value(m.oid) END)
        FROM pg_catalog.to_regclass('crieur.missed') AS m (oid)
    ) AS p (name)
)
SELECT
    concat_ws('/', extract(epoch FROM pg_catalog.pg_postmaster_start_time()), (
        SELECT extract(epoch FROM a.stats_reset) FROM pg_catalog.pg_stat_archiver AS a
    )),
    (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'schema', n.nspname, 'name', c.relname, 'look', concat_ws('/', w.look, (SELECT h.digest FROM heard AS h)),
            'files', w.files, 'versions', w.versions,
            'labels', w.labels
        )), '[]')
        FROM watched AS w
        JOIN crieur.target AS t ON t.id = w.target
        JOIN pg_catalog.pg_class AS c ON c.oid = t.relation
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    )::text,
    s.nonce::text,
    s.notify,
    (SELECT d.oid::text FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
FROM crieur.setting AS s
