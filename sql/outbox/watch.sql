-- Tables of the rules whose triggers do not tell everything: not watched, without an enabled trigger on a table that holds
-- rows, or capturing less than the rules read, or ignoring more than they ignore. One JSON object.
-- By hand: psql -XAt -v tables='[["public","properties",["id","city"],[]]]' -f sql/outbox/watch.sql
WITH RECURSIVE wanted AS (
    SELECT c.oid, n.nspname, c.relname, t.item -> 2 AS columns, t.item -> 3 AS ignored
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.item ->> 0
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.item ->> 1
    WHERE c.relkind IN ('r', 'p')
),
carrier AS (
    SELECT w.oid AS root, w.oid FROM wanted AS w
    UNION
    SELECT c.root, i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
),
uncovered AS (
    SELECT w.nspname, w.relname
    FROM wanted AS w
    LEFT JOIN crieur.target AS g ON g.relation = w.oid
    LEFT JOIN crieur.shape AS s ON s.id = g.shape
    WHERE g.id IS NULL
        OR EXISTS (SELECT FROM unnest(g.ignore) AS i (name) WHERE NOT w.ignored ? i.name)
        -- A column that does not exist is another mistake: its keys are swept as families.
        OR EXISTS (
            SELECT FROM pg_catalog.pg_attribute AS a
            LEFT JOIN ROWS FROM (unnest(s.columns), unnest(s.types)) AS k (name, type) ON k.name = a.attname
            WHERE a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND w.columns ? a.attname AND k.type IS DISTINCT FROM a.atttypid
        )
        OR EXISTS (
            SELECT FROM carrier AS c
            JOIN pg_catalog.pg_class AS l ON l.oid = c.oid AND l.relkind IN ('r', 'p')
            WHERE c.root = w.oid AND (
                SELECT count(DISTINCT t.tgtype)
                FROM pg_catalog.pg_trigger AS t
                JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
                WHERE t.tgrelid = c.oid AND t.tgenabled IN ('A', 'O')
                    AND f.pronamespace = 'crieur'::regnamespace AND f.proname = 'capture_' || g.id
            ) < 4
        )
)
SELECT pg_catalog.jsonb_build_object(
    'uncovered', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(u.nspname, u.relname)), '[]')
        FROM uncovered AS u
    )
)::text
