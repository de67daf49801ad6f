-- Schema and name of the topmost partitioned table above an oid, or of itself. No row: the catalog does not know it, or
-- does not publish it now. The stream speaks of then: a partition that was detached since, or is not attached yet for
-- others, must not pass for a table without rules.
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = COALESCE(pg_catalog.pg_partition_root(:'oid'::oid::regclass)::oid, :'oid'::oid)
  AND EXISTS (
    SELECT FROM pg_catalog.pg_publication_tables AS t
    JOIN pg_catalog.pg_namespace AS pn ON pn.nspname = t.schemaname
    JOIN pg_catalog.pg_class AS p ON p.relnamespace = pn.oid AND p.relname = t.tablename
    WHERE p.oid = :'oid'::oid
  );
