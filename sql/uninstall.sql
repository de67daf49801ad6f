-- Removes all of sql/install.sql: every trigger on the watched tables, the outbox with what is in it, schema crieur.
-- What sql/triggers.sql and sql/invalidate.sql made lives there too and goes with it. Stop the daemon before. Safe to run
-- twice. It locks each watched table for a moment; where transactions are long, set lock_timeout first and try again.
-- By hand: psql -X -v ON_ERROR_STOP=1 -f sql/uninstall.sql
DROP SCHEMA IF EXISTS crieur CASCADE;
