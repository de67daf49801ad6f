-- Functions with which a transaction names keys itself. What it names is deleted when it is visible, and stays when it
-- rolls back, to a savepoint too. Only keys under the patterns of cache.invalidate are deleted, so anybody may call them.
-- Safe to run twice. By hand: psql -X -v ON_ERROR_STOP=1 -f sql/invalidate.sql
-- To undo it: DROP FUNCTION crieur.invalidate, crieur.invalidate_exact, crieur.announce_keys;
CREATE SCHEMA IF NOT EXISTS crieur;

-- The road of both, with the rights of its owner, who may write to the outbox. A list past 1 MiB stands for every key.
CREATE OR REPLACE FUNCTION crieur.announce_keys(notice pg_catalog.jsonb) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $function$
DECLARE
    content pg_catalog.text := notice::pg_catalog.text;
    -- A message is bytes: the stream does not convert it. SQL_ASCII cannot be converted, and is taken as it is.
    encoding pg_catalog.name := CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END;
BEGIN
    IF pg_catalog.octet_length(content) > 1048576 THEN
        content := '{"kind": "invalidate_all"}';
    END IF;
    PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', pg_catalog.convert_to(content, encoding));
    IF pg_catalog.to_regclass('crieur.outbox') IS NOT NULL THEN
        INSERT INTO crieur.outbox (op, note) VALUES ('M', content);
    END IF;
END
$function$;

-- Redis globs: the caller escapes *, ?, [, ] and \ in values with a backslash. NULL names nothing.
CREATE OR REPLACE FUNCTION crieur.invalidate(VARIADIC patterns pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $function$
BEGIN
    patterns := pg_catalog.array_remove(patterns, NULL);
    IF pg_catalog.cardinality(patterns) > 0 THEN
        PERFORM crieur.announce_keys(pg_catalog.jsonb_build_object('kind', 'invalidate', 'patterns', patterns));
    END IF;
END
$function$;

-- Exact keys, byte for byte. NULL names nothing.
CREATE OR REPLACE FUNCTION crieur.invalidate_exact(VARIADIC keys pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $function$
BEGIN
    keys := pg_catalog.array_remove(keys, NULL);
    IF pg_catalog.cardinality(keys) > 0 THEN
        PERFORM crieur.announce_keys(pg_catalog.jsonb_build_object('kind', 'invalidate_exact', 'keys', keys));
    END IF;
END
$function$;

REVOKE ALL ON FUNCTION crieur.announce_keys(pg_catalog.jsonb) FROM PUBLIC;
