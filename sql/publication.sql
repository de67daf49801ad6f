-- The publication, or no row. One JSON object.
-- By hand: psql -XAt -v publication=crieur -f sql/publication.sql
SELECT jsonb_build_object(
    'owner', p.pubowner::regrole::text,
    'owned', pg_has_role(p.pubowner, 'USAGE'),
    'all_tables', p.puballtables,
    'insert', p.pubinsert,
    'update', p.pubupdate,
    'delete', p.pubdelete,
    'truncate', p.pubtruncate,
    'via_root', p.pubviaroot,
    -- Since PostgreSQL 18: n none, s stored.
    'generated', coalesce(to_jsonb(p) ->> 'pubgencols', 'n')
)::text
FROM pg_publication AS p
WHERE p.pubname = :'publication';
