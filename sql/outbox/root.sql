-- Schema and name of the topmost partitioned table above $1, or of $1 itself. No row: the catalog does not know it.
SELECT n.nspname::text, c.relname::text
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = coalesce(pg_catalog.pg_partition_root($1::oid::regclass)::oid, $1::oid)
