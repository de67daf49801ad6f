-- Removes all of sql/install.sql: every trigger on the watched tables, the outbox with what is in it, schema crieur. The
-- event triggers of sql/triggers.sql live there too and go with it. Stop the daemon before. Safe to run twice.
-- It locks each watched table for a moment; behind a long transaction set lock_timeout first, and run it again.
-- By hand: psql -X -v ON_ERROR_STOP=1 -f sql/uninstall.sql
DROP SCHEMA IF EXISTS crieur CASCADE;
