-- Rows of transactions that a snapshot did not contain and this statement's does, in order, as far as they fit a page.
-- One row at least: the snapshot, and NULLs when there is nothing.
-- $1 xmin, $2 xmax and $3 transactions in progress of that snapshot; $4, $5 the row that the last page ended with;
-- $6 the snapshot of the first page, which bounds those behind it: what became visible since comes next time.
-- A row is either newer than the old snapshot or was in progress in it, so a late commit is found whatever came first.
SELECT s.snapshot::text, s.at, p.xid::text, p.id, p.op::text, p.shape, p.old, p.new, p.note, p.at, p.complete
FROM (SELECT pg_catalog.pg_current_snapshot() AS snapshot, pg_catalog.clock_timestamp() AS at) AS s
LEFT JOIN (
    SELECT q.*, count(*) OVER () < 1000 AND q.upto_all <= 4000000 AS complete
    FROM (
        SELECT o.*, sum(o.bytes) OVER (ORDER BY o.xid, o.id) - o.bytes AS before, sum(o.bytes) OVER () AS upto_all
        FROM (
            SELECT o.xid, o.id, o.op, o.shape, o.old, o.new, o.note, o.at,
                coalesce(pg_catalog.pg_column_size(o.old), 0) + coalesce(pg_catalog.pg_column_size(o.new), 0) AS bytes
            FROM crieur.outbox AS o
            WHERE o.xid >= $1::text::xid8
                AND (o.xid >= $2::text::xid8 OR o.xid = ANY ($3::text[]::xid8[]))
                AND ($4::text IS NULL OR (
                    (o.xid, o.id) > ($4::text::xid8, $5::bigint)
                    AND pg_catalog.pg_visible_in_snapshot(o.xid, $6::text::pg_snapshot)
                ))
            ORDER BY o.xid, o.id
            LIMIT 1000
        ) AS o
    ) AS q
    WHERE q.before < 4000000
) AS p ON true
ORDER BY p.xid, p.id
