-- What the role of this connection may do. One row, one JSON object.
-- By hand: psql -XAtf sql/role.sql
SELECT jsonb_build_object(
    'name', r.rolname,
    'superuser', r.rolsuper,
    'replication', r.rolreplication,
    -- Hosted servers grant replication by membership of a role of their own instead of the attribute.
    'hosted_replication', EXISTS (
        SELECT FROM pg_roles AS h WHERE h.rolname = 'rds_replication' AND pg_has_role(r.oid, h.oid, 'MEMBER')
    ),
    'may_create', has_database_privilege(current_database(), 'CREATE')
)::text
FROM pg_roles AS r
WHERE r.rolname = current_user;
