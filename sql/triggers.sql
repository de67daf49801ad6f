-- Event triggers that announce DDL in the stream: logical messages name each altered or dropped table, in the altering
-- transaction, and say what readers see of the table now. The daemon compares that with what it was before and sweeps
-- the table's keys where it differs. An outbox needs none: the daemon looks at its tables itself. It takes a superuser,
-- or a hosted server that lets its own administrator make event triggers. The schema may be another's: nothing in it is
-- run.
-- Safe to run twice; replaces those of an older version. By hand: psql -X -v ON_ERROR_STOP=1 -f sql/triggers.sql
-- To undo it: DROP EVENT TRIGGER crieur_ddl; DROP EVENT TRIGGER crieur_drop; DROP EVENT TRIGGER crieur_rewrite;
-- DROP FUNCTION crieur.announce_ddl();
CREATE SCHEMA IF NOT EXISTS crieur;

-- With the rights of whoever runs DDL. It reads catalogs, waits for no lock, and writes nothing but the message.
-- Whatever fails in it is a warning to them and no more; every table then counts as altered.
CREATE OR REPLACE FUNCTION crieur.announce_ddl() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $function$
DECLARE
    dropped pg_catalog.jsonb;
    classes pg_catalog.oid[];
    objects pg_catalog.oid[];
    touched pg_catalog.jsonb;
    seen_in pg_catalog.jsonb;
    notice pg_catalog.jsonb;
BEGIN
    IF tg_event = 'table_rewrite' THEN
        -- Every value may be another one, unless only the place of the rows is (AT_REWRITE_* in
        -- src/include/commands/event_trigger.h). A partition stands for the tables above it, too.
        IF pg_catalog.pg_event_trigger_table_rewrite_reason() & 7 <> 0 THEN
            WITH RECURSIVE above (oid) AS (
                SELECT pg_catalog.pg_event_trigger_table_rewrite_oid()
                UNION
                SELECT i.inhparent FROM above AS a JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = a.oid
            )
            SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname))
            INTO touched
            FROM above AS a
            JOIN pg_catalog.pg_class AS c ON c.oid = a.oid
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't';
        END IF;
        IF touched IS NOT NULL THEN
            notice := pg_catalog.jsonb_build_object('kind', 'ddl', 'tables', touched);
            PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', notice::pg_catalog.text);
        END IF;
        RETURN;
    END IF;
    IF tg_event = 'sql_drop' THEN
        SELECT
            pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                'oid', d.objid::pg_catalog.int8, 'schema', d.schema_name, 'name', d.object_name
            )) FILTER (WHERE d.object_type = 'table'),
            -- Of these the relation is still there: it lost a column or a policy.
            pg_catalog.array_agg(d.classid) FILTER (WHERE d.objsubid > 0),
            pg_catalog.array_agg(d.objid) FILTER (WHERE d.objsubid > 0)
        INTO dropped, classes, objects
        FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
        WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND NOT d.is_temporary;
        SELECT
            classes || pg_catalog.array_agg('pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid),
            objects || pg_catalog.array_agg(c.oid)
        INTO classes, objects
        FROM pg_catalog.pg_event_trigger_dropped_objects() AS d
        JOIN pg_catalog.pg_namespace AS n ON n.nspname = d.address_names[1]
        JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = d.address_names[2]
        WHERE d.object_type = 'policy';
        IF dropped IS NOT NULL THEN
            notice := pg_catalog.jsonb_build_object('kind', 'dropped', 'tables', dropped);
            PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', notice::pg_catalog.text);
        END IF;
    ELSE
        SELECT pg_catalog.array_agg(d.classid), pg_catalog.array_agg(d.objid) INTO classes, objects
        FROM pg_catalog.pg_event_trigger_ddl_commands() AS d;
    END IF;
    IF objects IS NULL THEN
        RETURN;
    END IF;
    WITH RECURSIVE altered (classid, objid) AS (
        SELECT a.classid, a.objid
        FROM ROWS FROM (pg_catalog.unnest(classes), pg_catalog.unnest(objects)) AS a (classid, objid)
    ),
    -- An altered type, a row type too, and what is made of it: arrays, domains, ranges, composite types.
    kind (oid) AS (
        SELECT t.oid
        FROM (
            SELECT a.objid FROM altered AS a WHERE a.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
            UNION ALL
            SELECT c.reltype FROM altered AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.objid
            WHERE a.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.reltype <> 0
        ) AS t (oid)
        UNION
        SELECT CASE d.classid WHEN 'pg_catalog.pg_type'::pg_catalog.regclass THEN d.objid ELSE c.reltype END
        FROM kind AS k
        JOIN pg_catalog.pg_depend AS d
            ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid = k.oid
            AND d.classid IN (
                'pg_catalog.pg_type'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass)
        LEFT JOIN pg_catalog.pg_class AS c
            ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = d.objid
        WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass OR c.reltype <> 0
    ),
    -- With the tables that inherit from them (a partition has no rules of its own) ...
    below (oid) AS (
        SELECT t.oid
        FROM (
            SELECT a.objid FROM altered AS a WHERE a.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            UNION ALL
            SELECT p.polrelid FROM altered AS a JOIN pg_catalog.pg_policy AS p ON p.oid = a.objid
            WHERE a.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass
            UNION ALL
            SELECT c.oid FROM altered AS a JOIN pg_catalog.pg_class AS c ON c.relnamespace = a.objid
            WHERE a.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND c.relkind IN ('r', 'p')
            UNION ALL
            SELECT d.objid
            FROM kind AS k
            JOIN pg_catalog.pg_depend AS d
                ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid = k.oid
                AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        ) AS t (oid)
        UNION
        SELECT i.inhrelid
        FROM below AS b
        JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND NOT c.relispartition
    ),
    -- ... and the tables above: rules name the topmost one.
    looked (oid) AS (
        SELECT b.oid FROM below AS b
        UNION
        SELECT i.inhparent FROM looked AS l JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = l.oid
    ),
    -- As in sql/catalog.sql, to the letter: what the types of a table's values are made of, as far as DDL may change
    -- them, and what readers see of the table. Expressions as they are stored: to print them takes locks.
    made_of (relation, type) AS (
        SELECT l.oid, a.atttypid
        FROM looked AS l
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE a.atttypid >= 16384
        UNION
        SELECT m.relation, inside.oid
        FROM made_of AS m
        JOIN pg_catalog.pg_type AS t ON t.oid = m.type
        CROSS JOIN LATERAL (
            SELECT t.typelem
            UNION ALL SELECT t.typbasetype
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r
                WHERE t.typtype IN ('r', 'm')
                    AND t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid)
        ) AS inside (oid)
        WHERE inside.oid >= 16384
    ),
    look (oid, look) AS (
        SELECT c.oid, pg_catalog.jsonb_build_object(
            'shape', pg_catalog.md5(pg_catalog.jsonb_build_array(n.nspname, c.relname, c.relkind, c.relpersistence, (
                -- The number of a column too: one that was dropped and added again holds other values.
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.attnum, a.attname, a.atttypid,
                    a.attcollation, a.attgenerated, CASE WHEN a.attgenerated <> '' THEN d.adbin::pg_catalog.text END
                ) ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute AS a
                LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            ), (
                SELECT pg_catalog.jsonb_agg(i.inhparent ORDER BY i.inhparent)
                FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = c.oid
            ), CASE WHEN c.relrowsecurity THEN pg_catalog.jsonb_build_array(c.relforcerowsecurity, c.relowner, (
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                    p.polcmd, p.polpermissive, p.polroles, p.polqual::pg_catalog.text) ORDER BY p.oid)
                FROM pg_catalog.pg_policy AS p WHERE p.polrelid = c.oid AND p.polcmd <> 'a'
            )) END, (
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                    m.type, a.attnum, a.attname, a.atttypid, a.attcollation) ORDER BY m.type, a.attnum)
                FROM made_of AS m
                JOIN pg_catalog.pg_type AS t ON t.oid = m.type
                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                WHERE m.relation = c.oid
            ))::pg_catalog.text),
            -- A label that is new changes no value that is there.
            'labels', coalesce((
                SELECT pg_catalog.jsonb_agg(left(pg_catalog.md5(pg_catalog.concat_ws('/', e.oid, e.enumlabel)), 16))
                FROM made_of AS m JOIN pg_catalog.pg_enum AS e ON e.enumtypid = m.type
                WHERE m.relation = c.oid
            ), '[]'),
            'splits', c.relkind = 'p' OR c.relhassubclass,
            -- Never false where there are some.
            'parts', CASE WHEN c.relhassubclass THEN (
                WITH RECURSIVE below (oid) AS (
                    SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent = c.oid
                    UNION
                    SELECT i.inhrelid FROM below AS b JOIN pg_catalog.pg_inherits AS i ON i.inhparent = b.oid
                )
                SELECT coalesce(pg_catalog.jsonb_agg(b.oid::pg_catalog.int8 ORDER BY b.oid), '[]') FROM below AS b
            ) ELSE '[]' END
        )
        FROM looked AS l
        JOIN pg_catalog.pg_class AS c ON c.oid = l.oid
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pg_catalog'
    )
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
        'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname, 'look', k.look)),
        -- In the same statement: the snapshot that the looks are of.
        pg_catalog.to_jsonb(pg_catalog.pg_current_snapshot())
    INTO touched, seen_in
    FROM look AS k
    JOIN pg_catalog.pg_class AS c ON c.oid = k.oid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace;
    IF touched IS NOT NULL THEN
        -- Longer messages are not read.
        IF pg_catalog.octet_length(touched::pg_catalog.text) > 1048576 THEN
            SELECT pg_catalog.jsonb_agg(t.item - 'look') INTO touched
            FROM pg_catalog.jsonb_array_elements(touched) AS t (item);
        END IF;
        notice := pg_catalog.jsonb_build_object(
            'kind', 'ddl', 'tables', touched, 'snapshot', seen_in);
        PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', notice::pg_catalog.text);
    END IF;
EXCEPTION WHEN OTHERS THEN
    DECLARE
        why CONSTANT pg_catalog.text := sqlerrm;
    BEGIN
        -- Nobody knows what it changed. Without a word the next description of the table would pass for what was
        -- announced before.
        PERFORM pg_catalog.pg_logical_emit_message(true, 'crieur', '{"kind": "ddl_untold"}'::pg_catalog.text);
        RAISE WARNING 'crieur does not know what this % changed and deletes every key: %', tg_tag, why;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'crieur was not told of this %: %', tg_tag, why;
    END;
END
$function$;

DO $do$
DECLARE
    path CONSTANT pg_catalog.text := pg_catalog.current_setting('search_path');
    wanted record;
    state pg_catalog.text;
    stranger pg_catalog.text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', '', true);
    FOR wanted IN
        SELECT w.name, w.event, w.tags
        FROM (VALUES
            ('crieur_ddl', 'ddl_command_end', ARRAY[
                'ALTER TABLE', 'ALTER INDEX', 'ALTER TYPE', 'ALTER SCHEMA', 'CREATE POLICY', 'ALTER POLICY'
            ]),
            ('crieur_drop', 'sql_drop', NULL),
            ('crieur_rewrite', 'table_rewrite', NULL)
        ) AS w (name, event, tags)
    LOOP
        -- Of an older version: it is made anew.
        IF EXISTS (
            SELECT FROM pg_catalog.pg_event_trigger AS e
            WHERE e.evtname = wanted.name AND (e.evtevent <> wanted.event OR e.evttags IS DISTINCT FROM wanted.tags
                OR e.evtfoid <> 'crieur.announce_ddl'::pg_catalog.regproc)
        ) THEN
            EXECUTE pg_catalog.format('DROP EVENT TRIGGER %I', wanted.name);
        END IF;
        state := (SELECT e.evtenabled FROM pg_catalog.pg_event_trigger AS e WHERE e.evtname = wanted.name);
        IF state IS NULL THEN
            EXECUTE pg_catalog.format('CREATE EVENT TRIGGER %I ON %s%s EXECUTE FUNCTION crieur.announce_ddl()',
                wanted.name, wanted.event, (
                    SELECT ' WHEN tag IN (' || pg_catalog.string_agg(pg_catalog.quote_literal(t.tag), ', ') || ')'
                    FROM pg_catalog.unnest(wanted.tags) AS t (tag)
                ));
        END IF;
        -- Restores and replication tools alter tables, too, with session_replication_role = replica.
        IF state IS DISTINCT FROM 'A' THEN
            EXECUTE pg_catalog.format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', wanted.name);
        END IF;
    END LOOP;
    -- A function that was there before keeps its owner, who could put other code into it: it would run as everybody.
    SELECT pg_catalog.format('function %s belongs to %I', f.oid::pg_catalog.regprocedure, r.rolname) INTO stranger
    FROM pg_catalog.pg_event_trigger AS e
    JOIN pg_catalog.pg_proc AS f ON f.oid = e.evtfoid
    JOIN pg_catalog.pg_roles AS r ON r.oid = f.proowner
    WHERE e.evtname IN ('crieur_ddl', 'crieur_drop', 'crieur_rewrite') AND NOT r.rolsuper AND r.rolname <> current_user;
    IF stranger IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = stranger, HINT = 'Drop it, and run this script again.';
    END IF;
    PERFORM pg_catalog.set_config('search_path', path, true);
END
$do$;
