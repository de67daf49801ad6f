-- What may go wrong while the stream runs: the slot's WAL, tables of the rules that are not published. One JSON object.
-- By hand: psql -XAt -v slot=crieur -v publication=crieur -v tables='[["public","properties"]]' -f sql/watch.sql
-- Not over pg_publication_tables: FOR ALL TABLES that view reads every table of the database.
WITH publication AS (
    SELECT p.oid, p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate
    FROM pg_catalog.pg_publication AS p
    WHERE p.pubname = :'publication'
),
withheld AS (
    SELECT k.kind
    FROM publication AS p
    CROSS JOIN LATERAL (
        VALUES ('insert', p.pubinsert), ('update', p.pubupdate), ('delete', p.pubdelete), ('truncate', p.pubtruncate)
    ) AS k (kind, sent)
    WHERE NOT k.sent
),
-- Tables and schemas in the publication: an entry depends on the publication and on what it adds. One with a row filter
-- adds some of the changes only, which is as good as none. to_jsonb reads a column that version 14 does not have as NULL.
member AS MATERIALIZED (
    SELECT added.refclassid, added.refobjid
    FROM publication AS p
    JOIN pg_catalog.pg_depend AS entry
        ON entry.refclassid = 'pg_catalog.pg_publication'::regclass AND entry.refobjid = p.oid
    JOIN pg_catalog.pg_depend AS added ON added.classid = entry.classid AND added.objid = entry.objid
    WHERE added.refclassid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_namespace'::regclass)
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_publication_rel AS filtered
            WHERE entry.classid = 'pg_catalog.pg_publication_rel'::regclass AND filtered.oid = entry.objid
                AND pg_catalog.to_jsonb(filtered) ->> 'prqual' IS NOT NULL
        )
),
root AS (
    SELECT c.oid, c.relkind, n.nspname, c.relname
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.item ->> 0
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.item ->> 1
    WHERE c.relkind IN ('r', 'p')
),
carrier AS (
    SELECT r.oid AS root, r.oid FROM root AS r WHERE r.relkind = 'r'
    UNION ALL
    SELECT r.oid, t.relid FROM root AS r CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) AS t
    WHERE r.relkind = 'p' AND t.isleaf AND t.relid <> r.oid
),
-- Kinds are left out, or not everything that carries its rows is published: by itself, a table above it, or a schema.
unpublished AS (
    SELECT r.nspname, r.relname
    FROM root AS r
    WHERE EXISTS (SELECT FROM withheld) OR EXISTS (
        SELECT FROM carrier AS l
        WHERE l.root = r.oid AND NOT (
            pg_catalog.pg_relation_is_publishable(l.oid)
            AND (EXISTS (SELECT FROM publication AS p WHERE p.puballtables) OR EXISTS (
                SELECT FROM member AS m
                JOIN pg_catalog.pg_class AS above
                    ON m.refclassid = 'pg_catalog.pg_class'::regclass AND m.refobjid = above.oid
                    OR m.refclassid = 'pg_catalog.pg_namespace'::regclass AND m.refobjid = above.relnamespace
                -- The functions of partitions do not see by the query's snapshot: a leaf that is detached meanwhile was
                -- still in its root's tree and has no ancestors now.
                WHERE above.oid IN (l.root, l.oid)
                    OR above.oid IN (SELECT * FROM pg_catalog.pg_partition_ancestors(l.oid))
            ))
        )
    )
)
SELECT pg_catalog.jsonb_build_object(
    'withheld', (SELECT coalesce(pg_catalog.jsonb_agg(w.kind), '[]') FROM withheld AS w),
    'unpublished', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(u.nspname, u.relname)), '[]')
        FROM unpublished AS u
    ),
    'standby_names', pg_catalog.current_setting('synchronous_standby_names'),
    'application_name', pg_catalog.current_setting('application_name'),
    'wal', (
        SELECT pg_catalog.jsonb_build_object(
            'status', s.wal_status,
            'safe_bytes', s.safe_wal_size,
            'held_bytes', pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint
        )
        FROM pg_catalog.pg_replication_slots AS s
        WHERE s.slot_name = :'slot' AND s.wal_status IS NOT NULL AND s.restart_lsn IS NOT NULL
    )
)::text
