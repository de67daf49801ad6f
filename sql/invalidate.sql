-- Functions with which a transaction names keys itself. What it names is deleted when it is visible, and stays when it
-- rolls back, to a savepoint too. Only keys under the patterns of cache.invalidate are deleted, so anybody may call them.
-- Safe to run twice. By hand: psql -X -v ON_ERROR_STOP=1 -f sql/invalidate.sql
-- To undo it: DROP FUNCTION crieur.invalidate, crieur.invalidate_exact, crieur.announce_keys;
CREATE SCHEMA IF NOT EXISTS crieur;

-- Nothing that another role may change is run or written here, unless a superuser's.
DO $do$
DECLARE
    found record;
BEGIN
    PERFORM pg_catalog.set_config('crieur.path', pg_catalog.current_setting('search_path'), true);
    PERFORM pg_catalog.set_config('search_path', '', true);
    SELECT o.what, r.rolname INTO found
    FROM (
        SELECT 1, 'schema crieur', n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'crieur'
        UNION ALL
        SELECT 2, 'table ' || c.oid::pg_catalog.regclass, c.relowner
        FROM pg_catalog.pg_class AS c
        WHERE c.relnamespace = 'crieur'::pg_catalog.regnamespace AND c.relkind <> 'i'
        UNION ALL
        SELECT 3, 'function ' || f.oid::pg_catalog.regprocedure, f.proowner
        FROM pg_catalog.pg_proc AS f
        WHERE f.pronamespace = 'crieur'::pg_catalog.regnamespace
    ) AS o (place, what, owner)
    JOIN pg_catalog.pg_roles AS r ON r.oid = o.owner
    WHERE NOT r.rolsuper AND r.rolname <> current_user
    ORDER BY o.place, o.what
    LIMIT 1;
    IF found.what IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = pg_catalog.format('%s belongs to %I', found.what, found.rolname),
            HINT = pg_catalog.format('Run this as %I (SET ROLE), or drop what is not yours.', found.rolname);
    END IF;
END
$do$;

-- The road of both, with the rights of its owner, who may write to the outbox: only where it is theirs, because its
-- defaults and triggers run as whoever writes. A list past 1 MiB stands for every key, and so does any in a full outbox.
CREATE OR REPLACE FUNCTION crieur.announce_keys(notice pg_catalog.jsonb) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    content text := notice::text;
    -- A message is bytes: the stream does not convert it. SQL_ASCII cannot be converted, and is taken as it is.
    encoding name := CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END;
    message bytea;
    outbox CONSTANT oid := to_regclass('crieur.outbox');
    owner name;
    setting record;
BEGIN
    IF octet_length(content) > 1048576 THEN
        content := '{"kind": "invalidate_all"}';
    END IF;
    BEGIN
        message := convert_to(content, encoding);
    EXCEPTION WHEN untranslatable_character OR character_not_in_repertoire THEN
        -- A key in UTF-8 cannot hold it, so nobody knows which key was meant. The writer is not refused for that.
        content := '{"kind": "invalidate_all"}';
        message := convert_to(content, encoding);
    END;
    -- It takes the transaction's number, as crieur.overflow() needs it.
    PERFORM pg_logical_emit_message(true, 'crieur', message);
    IF outbox IS NULL THEN
        RETURN;
    END IF;
    SELECT pg_get_userbyid(c.relowner) INTO owner FROM pg_class AS c WHERE c.oid = outbox;
    IF owner <> current_user THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('crieur.outbox belongs to %I and the functions of crieur to %I', owner, current_user),
            HINT = 'Give both to one role.';
    END IF;
    SELECT s.notify, s.bytes_max INTO setting FROM crieur.setting AS s;
    IF NOT FOUND THEN
        -- Nobody reads it any more.
        RETURN;
    END IF;
    IF pg_total_relation_size(outbox) > setting.bytes_max
        OR EXISTS (SELECT FROM crieur.collapse AS c WHERE NOT c.closing)
    THEN
        PERFORM crieur.overflow(0);
    ELSE
        INSERT INTO crieur.outbox (op, note) VALUES ('M', content);
    END IF;
    IF setting.notify THEN
        PERFORM pg_notify('crieur', '');
    END IF;
END
$function$;

-- Redis globs: the caller escapes *, ?, [, ] and \ in values with a backslash. NULL names nothing.
CREATE OR REPLACE FUNCTION crieur.invalidate(VARIADIC patterns pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    patterns := pg_catalog.array_remove(patterns, NULL);
    IF pg_catalog.cardinality(patterns) > 0 THEN
        PERFORM crieur.announce_keys(pg_catalog.jsonb_build_object('kind', 'invalidate', 'patterns', patterns));
    END IF;
END
$function$;

-- Exact keys, byte for byte. NULL names nothing.
CREATE OR REPLACE FUNCTION crieur.invalidate_exact(VARIADIC keys pg_catalog.text[]) RETURNS pg_catalog.void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    keys := pg_catalog.array_remove(keys, NULL);
    IF pg_catalog.cardinality(keys) > 0 THEN
        PERFORM crieur.announce_keys(pg_catalog.jsonb_build_object('kind', 'invalidate_exact', 'keys', keys));
    END IF;
END
$function$;

REVOKE ALL ON FUNCTION crieur.announce_keys(pg_catalog.jsonb) FROM PUBLIC;

-- A migration may go on in this transaction, with the names of its own path.
DO $do$
BEGIN
    IF pg_catalog.current_setting('crieur.path', true) OPERATOR(pg_catalog.<>) '' THEN
        PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('crieur.path'), true);
    END IF;
END
$do$;
