-- Rows of transactions that a snapshot did not contain and this statement's does, in order, as far as they fit a page.
-- One row at least: the snapshot, and NULLs when there is nothing.
-- $1 xmax and $2 transactions in progress of that snapshot; $3, $4 the row that the last page ended with, or zeros;
-- $5 the snapshot of the first page, which bounds those behind it: what became visible since comes next time.
-- A page is bounded by what it becomes in memory: images are not compressed, and of each value four bytes say how long it
-- is, or that it is NULL, of which a stored image keeps one bit. How many values there are only the image says, so of what
-- does not fit by its stored size it is not asked.
-- A row is either newer than the old snapshot or was in progress in it, so a late commit is found whatever came first.
-- All are looked for by the primary key, and nothing between them is touched: rows wait there for their echoes, and dead
-- ones for a long transaction to end. Hence one bound for each of three parts: newer; the rest of the transaction that
-- the last page ended in, if that was in progress; the ones in progress behind it. A scan with two bounds on its first
-- column begins at one of them and reads its way to the other.
SELECT s.snapshot::text, s.at, p.xid::text, p.id, p.op::text, p.shape, p.old, p.new, p.note, p.at, p.complete
FROM (SELECT pg_catalog.pg_current_snapshot() AS snapshot, pg_catalog.clock_timestamp() AS at) AS s
LEFT JOIN (
    SELECT r.*, r.number < 1000 AND r.stored <= 4000000 AND r.total <= 4000000 AS complete
    FROM (
        SELECT q.*, sum(q.bytes) OVER (ORDER BY q.xid, q.id) - q.bytes AS before, sum(q.bytes) OVER () AS total
        FROM (
            SELECT c.*, c.size + 4 * (coalesce(pg_catalog.cardinality(c.old), 0)
                + coalesce(pg_catalog.cardinality(c.new), 0)) AS bytes
            FROM (
                SELECT b.*, sum(b.size) OVER (ORDER BY b.xid, b.id) - b.size AS stored_before,
                    sum(b.size) OVER () AS stored, count(*) OVER () AS number
                FROM (
                    SELECT o.*, coalesce(pg_catalog.pg_column_size(o.old), 0) + coalesce(pg_catalog.pg_column_size(o.new), 0)
                        + coalesce(pg_catalog.octet_length(o.note), 0) AS size
                    FROM (
                        (
                            SELECT o.xid, o.id, o.op, o.shape, o.old, o.new, o.note, o.at FROM crieur.outbox AS o
                            WHERE (o.xid, o.id) > (
                                    greatest($1::text::xid8, $3::text::xid8),
                                    CASE WHEN $3::text::xid8 >= $1::text::xid8 THEN $4::bigint ELSE -1 END
                                )
                                AND ($5::text IS NULL OR pg_catalog.pg_visible_in_snapshot(o.xid, $5::text::pg_snapshot))
                            ORDER BY o.xid, o.id
                            LIMIT 1000
                        ) UNION ALL (
                            SELECT o.xid, o.id, o.op, o.shape, o.old, o.new, o.note, o.at FROM crieur.outbox AS o
                            WHERE o.xid = $3::text::xid8 AND o.id > $4::bigint AND $3::text::xid8 < $1::text::xid8
                                AND ($5::text IS NULL OR pg_catalog.pg_visible_in_snapshot(o.xid, $5::text::pg_snapshot))
                            ORDER BY o.xid, o.id
                            LIMIT 1000
                        ) UNION ALL (
                            SELECT o.xid, o.id, o.op, o.shape, o.old, o.new, o.note, o.at FROM crieur.outbox AS o
                            WHERE o.xid = ANY (ARRAY(
                                    SELECT x.xid FROM unnest($2::text[]::xid8[]) AS x (xid) WHERE x.xid > $3::text::xid8
                                ))
                                AND ($5::text IS NULL OR pg_catalog.pg_visible_in_snapshot(o.xid, $5::text::pg_snapshot))
                            ORDER BY o.xid, o.id
                            LIMIT 1000
                        )
                    ) AS o
                    ORDER BY o.xid, o.id
                    LIMIT 1000
                ) AS b
            ) AS c
            WHERE c.stored_before < 4000000
        ) AS q
    ) AS r
    WHERE r.before < 4000000
) AS p ON true
ORDER BY p.xid, p.id
