-- Removes rows whose keys are deleted, moves the position and renews the lease, as long as it is ours. One row: whether
-- it is, and whether the rows stay because somebody records them (its row in crieur.progress has no owner and says until
-- when: ten seconds on; one that says far more is of a clock that was set back, and of somebody who may be dead).
-- Rows are named by runs: transaction, first and last id; or, where seen is not empty, by a snapshot that shows them:
-- then some thousand of them go. The third column is how many went.
-- By hand: psql -XAt -v slot=crieur -v owner=me -v confirmed=0 -v seconds=1.5 -v xids={} -v firsts={} -v lasts={} -v seen= -f sql/outbox/remove.sql
WITH recording AS (
    SELECT FROM crieur.progress AS p
    WHERE p.owner IS NULL AND p.slot <> :'slot' AND p.owner_until > pg_catalog.clock_timestamp()
        AND p.owner_until < pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 20)
),
mine AS (
    UPDATE crieur.progress AS p
    SET confirmed = greatest(p.confirmed, :'confirmed'::bigint),
        owner_until = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => :'seconds'::double precision)
    WHERE p.slot = :'slot' AND p.owner = :'owner'
    RETURNING p.slot
),
gone AS (
    DELETE FROM crieur.outbox AS o
    WHERE o.ctid = ANY (ARRAY(
        SELECT r.ctid
        FROM mine AS m, unnest(:'xids'::xid8[], :'firsts'::bigint[], :'lasts'::bigint[]) AS g (xid, first, last)
        -- Looked for by the primary key, however many rows wait: without statistics a join reads them all.
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM crieur.outbox AS o WHERE o.xid = g.xid AND o.id BETWEEN g.first AND g.last OFFSET 0
        ) AS r
        WHERE NOT EXISTS (SELECT FROM recording)
        UNION ALL
        SELECT r.ctid
        FROM mine AS m
        CROSS JOIN LATERAL (
            SELECT o.ctid FROM crieur.outbox AS o
            WHERE o.xid < pg_catalog.pg_snapshot_xmax(nullif(:'seen', '')::pg_snapshot)
                AND pg_catalog.pg_visible_in_snapshot(o.xid, nullif(:'seen', '')::pg_snapshot)
            ORDER BY o.xid, o.id
            LIMIT 5000
        ) AS r
        WHERE NOT EXISTS (SELECT FROM recording)
    ))
    RETURNING 1
)
SELECT EXISTS (SELECT FROM mine), EXISTS (SELECT FROM recording), (SELECT count(*) FROM gone)
