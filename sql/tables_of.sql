-- Schemas and names of the tables that the rows of an oid belong to: the topmost partitioned table above it, or itself,
-- and then those that it inherits from. No row: the catalog does not know it, or does not publish it now. The stream
-- speaks of then: a partition that was detached since, or is not attached yet for others, must not pass for a table
-- without rules.
WITH RECURSIVE parent (oid) AS (
    SELECT i.inhparent FROM pg_catalog.pg_inherits AS i
    JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent AND p.relkind <> 'p'
    WHERE i.inhrelid = :'oid'::oid
    UNION
    SELECT i.inhparent FROM parent AS a JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = a.oid
),
belongs (place, oid) AS (
    SELECT 0, COALESCE(pg_catalog.pg_partition_root(:'oid'::oid::regclass)::oid, :'oid'::oid)
    UNION ALL
    SELECT 1, a.oid FROM parent AS a
)
SELECT n.nspname, c.relname
FROM belongs AS b
JOIN pg_catalog.pg_class AS c ON c.oid = b.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE EXISTS (
    SELECT FROM pg_catalog.pg_publication_tables AS t
    JOIN pg_catalog.pg_namespace AS pn ON pn.nspname = t.schemaname
    JOIN pg_catalog.pg_class AS p ON p.relnamespace = pn.oid AND p.relname = t.tablename
    WHERE p.oid = :'oid'::oid
)
ORDER BY b.place
