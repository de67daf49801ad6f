-- To whom schema crieur belongs, where what that role put into it would run with more rights than the role has: this
-- session is a superuser's. No row: there is no such schema, or no such difference.
-- By hand: psql -XAtf sql/outbox/owner.sql
SELECT r.rolname
FROM pg_catalog.pg_namespace AS n
JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
JOIN pg_catalog.pg_roles AS me ON me.rolname = current_user
WHERE n.nspname = 'crieur' AND me.rolsuper AND NOT r.rolsuper
