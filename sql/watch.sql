-- What may go wrong while the stream runs: the slot's WAL, tables of the rules that are not published, or not there, what
-- may make the server refuse writes. One JSON object.
-- By hand: psql -XAt -v slot=crieur -v publication=crieur -v tables='[["public","properties",["id"]]]' -f sql/watch.sql
-- Not over pg_publication_tables: FOR ALL TABLES that view reads every table of the database.
WITH RECURSIVE publication AS (
    SELECT p.oid, p.puballtables, p.pubviaroot, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate
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
wanted AS (
    SELECT t.item ->> 0 AS nspname, t.item ->> 1 AS relname, t.item -> 2 AS columns
    FROM pg_catalog.jsonb_array_elements(:'tables'::jsonb) AS t (item)
),
root AS (
    SELECT c.oid, c.relkind, n.nspname, c.relname, t.columns
    FROM wanted AS t
    JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.nspname
    JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.relname
    WHERE c.relkind IN ('r', 'p')
),
-- Names of the rules that nothing has. A view has columns, too; that its changes do not come is told by `crieur check`.
missing AS (
    SELECT w.nspname, w.relname, k.name
    FROM wanted AS w
    LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = w.nspname
    LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.relname
    LEFT JOIN LATERAL pg_catalog.jsonb_array_elements_text(w.columns) AS k (name) ON c.oid IS NOT NULL
    WHERE c.oid IS NULL OR k.name IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attname = k.name AND a.attnum > 0 AND NOT a.attisdropped
    )
),
-- What holds the rows of a table: itself or its leaves, and the tables that inherit from it.
carrier (root, oid) AS (
    (
        SELECT r.oid, r.oid FROM root AS r WHERE r.relkind = 'r'
        UNION ALL
        SELECT r.oid, t.relid::oid FROM root AS r CROSS JOIN LATERAL pg_catalog.pg_partition_tree(r.oid) AS t
        WHERE r.relkind = 'p' AND t.isleaf AND t.relid <> r.oid
    )
    UNION
    SELECT l.root, i.inhrelid FROM carrier AS l JOIN pg_catalog.pg_inherits AS i ON i.inhparent = l.oid
),
-- With publish_via_partition_root, TRUNCATE of one partition is not sent. It gives the partition another file.
rooted AS (
    SELECT r.nspname, r.relname, pg_catalog.md5(pg_catalog.string_agg(
        concat_ws('/', c.oid, pg_catalog.pg_relation_filenode(c.oid)), ',' ORDER BY c.oid)) AS digest
    FROM root AS r
    JOIN carrier AS l ON l.root = r.oid
    JOIN pg_catalog.pg_class AS c ON c.oid = l.oid
    WHERE r.relkind = 'p' AND EXISTS (SELECT FROM publication AS p WHERE p.pubviaroot)
    GROUP BY r.nspname, r.relname
),
-- Relations whose updates the server may refuse: no replica identity, or something that asks for another one. Whether
-- it does is judged with all that is known of them (src/catalog/refusal.rs).
suspect AS (
    SELECT r.nspname, r.relname, c.oid, c.xmin, c.relreplident
    FROM carrier AS l
    JOIN root AS r ON r.oid = l.root
    JOIN pg_catalog.pg_class AS c ON c.oid = l.oid
    WHERE NOT CASE c.relreplident
        WHEN 'f' THEN true
        WHEN 'n' THEN false
        ELSE EXISTS (
            SELECT FROM pg_catalog.pg_index AS i
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
        )
    END OR EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel AS p
        WHERE coalesce(pg_catalog.to_jsonb(p) ->> 'prqual', pg_catalog.to_jsonb(p) ->> 'prattrs') IS NOT NULL
            AND (p.prrelid = c.oid OR p.prrelid IN (SELECT * FROM pg_catalog.pg_partition_ancestors(c.oid)))
    ) OR pg_catalog.current_setting('server_version_num')::integer >= 180000 AND EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''
    )
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
                WHERE above.oid = l.oid OR r.relkind = 'p' AND above.oid = l.root
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
    'missing', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(m.nspname, m.relname, m.name)), '[]')
        FROM missing AS m
    ),
    'rooted', (
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
            pg_catalog.jsonb_build_array(t.nspname, t.relname), t.digest)), '[]')
        FROM rooted AS t
    ),
    'suspects', (
        SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_array(s.nspname, s.relname)), '[]')
        FROM suspect AS s
    ),
    -- Another text when something of them changed, or of the publications.
    'suspicion', (
        SELECT pg_catalog.md5(concat_ws(',',
            pg_catalog.string_agg(concat_ws('/', s.oid, s.xmin, s.relreplident), ',' ORDER BY s.oid),
            (SELECT pg_catalog.string_agg(concat_ws('/', p.oid, p.xmin), ',' ORDER BY p.oid)
                FROM pg_catalog.pg_publication AS p),
            (SELECT pg_catalog.string_agg(concat_ws('/', p.oid, p.xmin), ',' ORDER BY p.oid)
                FROM pg_catalog.pg_publication_rel AS p)))
        FROM suspect AS s
        HAVING count(*) > 0
    ),
    'standby_names', pg_catalog.current_setting('synchronous_standby_names'),
    'application_name', pg_catalog.current_setting('application_name'),
    -- Of a standby: what its slots may have sent.
    'flushed', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END,
    'standby_slots', coalesce(pg_catalog.current_setting('synchronized_standby_slots', true), ''),
    -- to_jsonb reads a column that older servers do not have as NULL.
    'failover', coalesce((
        SELECT (pg_catalog.to_jsonb(s) ->> 'failover')::boolean FROM pg_catalog.pg_replication_slots AS s
        WHERE s.slot_name = :'slot'
    ), false),
    'wal', (
        SELECT pg_catalog.jsonb_build_object(
            'status', s.wal_status,
            'safe_bytes', s.safe_wal_size,
            'held_bytes', pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery()
                THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::bigint
        )
        FROM pg_catalog.pg_replication_slots AS s
        WHERE s.slot_name = :'slot' AND s.wal_status IS NOT NULL AND s.restart_lsn IS NOT NULL
    )
)::text
