-- Event triggers that announce DDL in the stream: a logical message names each altered or dropped table, in the altering
-- transaction. An outbox needs none: the daemon looks at its tables itself. Needs a superuser, or a hosted server that
-- lets its own administrator make event triggers. The schema may be another's: nothing in it is run.
-- Safe to run twice. By hand: psql -X -v ON_ERROR_STOP=1 -f sql/triggers.sql
-- To undo it: DROP EVENT TRIGGER crieur_ddl; DROP EVENT TRIGGER crieur_drop; DROP FUNCTION crieur.announce_ddl();
CREATE SCHEMA IF NOT EXISTS crieur;

-- With the rights of whoever runs DDL. It reads catalogs and writes nothing but the message. Whatever fails in it is a
-- warning to them and no more.
CREATE OR REPLACE FUNCTION crieur.announce_ddl() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    touched pg_catalog.jsonb;
    notice pg_catalog.text;
BEGIN
    IF tg_event = 'sql_drop' THEN
        WITH dropped AS (
            SELECT d.objid, d.schema_name, d.object_name, d.object_type
            FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
            WHERE d.object_type IN ('table', 'table column') AND NOT d.is_temporary
        ),
        named AS (
            SELECT d.objid AS oid, d.schema_name AS nspname, d.object_name AS relname
            FROM dropped AS d WHERE d.object_type = 'table'
            UNION
            -- A partition that is gone no longer tells its root; a column's table is still there.
            SELECT c.oid, n.nspname::text, c.relname::text
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE (c.relkind = 'p' AND NOT c.relispartition AND EXISTS (
                SELECT FROM dropped AS d WHERE d.object_type = 'table'
            )) OR c.oid IN (
                SELECT coalesce(pg_catalog.pg_partition_root(d.objid)::pg_catalog.oid, d.objid)
                FROM dropped AS d WHERE d.object_type = 'table column'
            )
        )
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'oid', d.oid::pg_catalog.int8, 'schema', d.nspname, 'name', d.relname))
        INTO touched FROM named AS d;
    ELSE
        WITH RECURSIVE altered AS (
            SELECT d.classid, d.objid FROM pg_catalog.pg_event_trigger_ddl_commands() AS d
        ),
        -- An altered type, and what is made of it: arrays, domains, composite types.
        kind (oid) AS (
            SELECT a.objid FROM altered AS a WHERE a.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
            UNION
            SELECT t.oid
            FROM kind AS k
            JOIN pg_catalog.pg_type AS t ON t.typelem = k.oid OR t.typbasetype = k.oid OR EXISTS (
                SELECT FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = t.typrelid AND a.atttypid = k.oid
            )
        ),
        tables (oid) AS (
            SELECT a.objid FROM altered AS a WHERE a.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            UNION
            SELECT a.attrelid FROM pg_catalog.pg_attribute AS a JOIN kind AS k ON k.oid = a.atttypid
        ),
        -- The topmost table besides: rules name that one.
        rooted (oid) AS (
            SELECT t.oid FROM tables AS t
            UNION
            SELECT pg_catalog.pg_partition_root(t.oid)::pg_catalog.oid FROM tables AS t
        )
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname))
        INTO touched
        FROM rooted AS r
        JOIN pg_catalog.pg_class AS c ON c.oid = r.oid
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pg_catalog';
    END IF;
    IF touched IS NOT NULL THEN
        notice := pg_catalog.jsonb_build_object('kind', 'ddl', 'tables', touched);
        PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', notice);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'crieur was not told of this %: %', tg_tag, sqlerrm;
END
$function$;

DO $do$
DECLARE
    path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    stranger pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', '', true);
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'crieur_ddl') THEN
        CREATE EVENT TRIGGER crieur_ddl ON ddl_command_end
            WHEN tag IN ('ALTER TABLE', 'ALTER TYPE')
            EXECUTE FUNCTION crieur.announce_ddl();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'crieur_drop') THEN
        CREATE EVENT TRIGGER crieur_drop ON sql_drop EXECUTE FUNCTION crieur.announce_ddl();
    END IF;
    -- A function that was there before keeps its owner, who could put other code into it: it would run as everybody.
    SELECT pg_catalog.format('function %s belongs to %I', f.oid::pg_catalog.regprocedure, r.rolname) INTO stranger
    FROM pg_catalog.pg_event_trigger AS e
    JOIN pg_catalog.pg_proc AS f ON f.oid = e.evtfoid
    JOIN pg_catalog.pg_roles AS r ON r.oid = f.proowner
    WHERE e.evtname IN ('crieur_ddl', 'crieur_drop') AND NOT r.rolsuper AND r.rolname <> current_user;
    IF stranger IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = stranger, HINT = 'Drop it, and run this script again.';
    END IF;
    PERFORM pg_catalog.set_config('search_path', path, true);
END
$do$;
