-- Takes the lease of the outbox, or says who has it: era and confirmed position, or else the owner. One row.
-- Each acquisition is an era of its own: positions are counted anew in it, above all that were given out before, because
-- the order in which one worker counts rows means nothing to the next. If another slot has consumed rows meanwhile,
-- they are missing here: the position jumps to the new era, and no mark reaches it.
-- A lease lasts a minute at most. One that ends later was given before the server's clock was set back: it is over, too.
-- By hand: psql -XAt -v slot=crieur -v owner=me -v seconds=1.5 -f sql/outbox/acquire.sql
WITH others AS (
    SELECT coalesce(max(p.era), 0) AS era FROM crieur.progress AS p WHERE p.slot <> :'slot'
),
mine AS (
    UPDATE crieur.progress AS p
    SET owner = :'owner',
        owner_until = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => :'seconds'::double precision),
        era = greatest(p.era, o.era) + 1,
        confirmed = CASE WHEN o.era > p.era THEN (o.era + 1) << 40 ELSE p.confirmed END
    FROM others AS o
    WHERE p.slot = :'slot'
        AND (
            p.owner IS NULL OR p.owner = :'owner' OR p.owner_until < pg_catalog.clock_timestamp()
            OR p.owner_until > pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => 61)
        )
    RETURNING p.era, p.confirmed
)
SELECT m.era, m.confirmed, p.owner
FROM crieur.progress AS p LEFT JOIN mine AS m ON true
WHERE p.slot = :'slot'
