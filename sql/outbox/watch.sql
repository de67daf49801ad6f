-- Tables of the rules whose triggers do not tell everything: not watched, or not as the table is now, or capturing less
-- than the rules read, or ignoring more than they ignore. One row: a JSON object that holds these tables and how full
-- the outbox is, whether crieur.refresh() would help, and whether crieur.refuses() may be asked.
-- By hand: psql -XAt -v tables='[["public","properties",["id","city"],[]]]' -f sql/outbox/watch.sql
WITH wanted AS (
    SELECT c.oid, n.nspname, c.relname, t.item -> 2 AS columns, t.item -> 3 AS ignored
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.item ->> 0
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.item ->> 1
    WHERE c.relkind IN ('r', 'p')
),
watched AS MATERIALIZED (
    SELECT w.relation, w.columns, w.ignore, w.stale FROM crieur.watched AS w
)
SELECT
    pg_catalog.jsonb_build_object('uncovered', coalesce((
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(t.nspname, t.relname))
        FROM wanted AS t
        LEFT JOIN watched AS w ON w.relation = t.oid
        WHERE w.relation IS NULL OR w.stale
            OR EXISTS (SELECT FROM unnest(w.ignore) AS i (name) WHERE NOT t.ignored ? i.name)
            -- A column that does not exist is another mistake: its keys are swept as families.
            OR EXISTS (
                SELECT FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND t.columns ? a.attname AND a.attname <> ALL (w.columns)
            )
    ), '[]'), 'outbox', (
        SELECT pg_catalog.jsonb_build_array(pg_catalog.pg_total_relation_size('crieur.outbox'), s.bytes_max)
        FROM crieur.setting AS s
    ), 'outbox_rows', pg_catalog.pg_stat_get_live_tuples(
        pg_catalog.to_regclass('crieur.outbox')
    ))::text,
    EXISTS (SELECT FROM watched AS w WHERE w.stale),
    coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('crieur.refuses()'), 'EXECUTE'), false)
