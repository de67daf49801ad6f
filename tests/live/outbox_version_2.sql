-- crieur without replication: triggers write what a statement changed into an outbox that the daemon reads.
-- PostgreSQL 13 or newer, no superuser: the role needs CREATE on the database and must own the tables that it watches.
-- Safe to run twice; brings an older installation up to this version in place; open transactions go on meanwhile.
-- By hand: psql -X -v ON_ERROR_STOP=1 -f sql/install.sql, or pasted into an SQL editor, or as a migration. Then
--     SELECT crieur.watch('public.properties', columns => '{id,city,owner_id}');
-- To undo it: sql/uninstall.sql.
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

-- Never back to an older version: what a later one keeps here, this one does not know.
DO $do$
DECLARE
    installed integer;
BEGIN
    IF pg_catalog.to_regprocedure('crieur.version()') IS NOT NULL THEN
        EXECUTE 'SELECT crieur.version()' INTO installed;
        IF installed > 2 THEN
            RAISE EXCEPTION 'version % of crieur is installed, which is later than this script', installed;
        END IF;
    END IF;
END
$do$;

-- Of this script. Types are looked for among the caller's temporary ones, whose checks are code, unless the path of a
-- function names pg_temp, and last.
CREATE OR REPLACE FUNCTION crieur.version() RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$ SELECT 2 $function$;

-- Settings and version: one row.
CREATE TABLE IF NOT EXISTS crieur.setting (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- An outbox that was made anew is another one.
    nonce uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    -- Whether a commit wakes the daemon at once.
    notify boolean NOT NULL DEFAULT false,
    -- A statement with more distinct changes says "sweep this table" instead.
    rows_max integer NOT NULL DEFAULT 10000 CHECK (rows_max > 0),
    -- So does one whose changes take more bytes.
    row_bytes_max bigint NOT NULL DEFAULT 4194304 CHECK (row_bytes_max > 0),
    -- With more in the outbox, indexes included, statements say no more than "sweep this table", once.
    bytes_max bigint NOT NULL DEFAULT 536870912 CHECK (bytes_max > 0)
);
INSERT INTO crieur.setting DEFAULT VALUES ON CONFLICT DO NOTHING;

-- What the triggers capture of a table. A shape never changes: rows of the outbox name the one they were written with.
CREATE TABLE IF NOT EXISTS crieur.shape (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    schema text NOT NULL,
    name text NOT NULL,
    columns text[] NOT NULL,
    types oid[] NOT NULL,
    -- Which of them are of the primary key.
    key boolean[] NOT NULL
);

-- The watched tables. regclass follows a renamed table, and a dump into another database.
CREATE TABLE IF NOT EXISTS crieur.target (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL UNIQUE,
    -- NULL: every column there is.
    columns text[],
    ignore text[] NOT NULL,
    -- What rows are written with now.
    shape integer NOT NULL REFERENCES crieur.shape,
    made_of text
);

-- One row for each statement and table. Read and removed by the daemon, in the order of (xid, id) that snapshots allow.
CREATE TABLE IF NOT EXISTS crieur.outbox (
    xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    -- Grows from row to row of a transaction, as each row is WAL. No sequence: lastval() is the writer's own.
    id bigint NOT NULL DEFAULT (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::bigint,
    -- I, U, D, T as in SQL; S: sweep the table; M: the note is a message.
    op "char" NOT NULL,
    shape integer,
    -- Distinct images, one row of texts each, in the order of the shape's columns; of an update, old[i] became new[i].
    old text[],
    new text[],
    note text,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (xid, id)
) WITH (
    -- Rows live for milliseconds: their space is used again before the table grows.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 2147483647
);

-- The outbox was full: these tables are to be swept; shape 0 stands for every key that a transaction may name. While it
-- is, and a row of its table is here, not closing, and of this round, a statement writes nothing at all.
CREATE TABLE IF NOT EXISTS crieur.collapse (
    -- At random, for the same reason.
    id bigint PRIMARY KEY
        DEFAULT pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::text, 0) & 9223372036854775807,
    shape integer NOT NULL,
    round bigint NOT NULL,
    closing boolean NOT NULL DEFAULT false
);

-- The round. A sequence is read as it is and not as a snapshot saw it: a repeatable read that began long ago may see a
-- row that has been closed and swept since.
CREATE SEQUENCE IF NOT EXISTS crieur.closings;

-- Called while the outbox is full: then each statement looks at its size, and otherwise one of 256 does. No more than a
-- hint, since a sequence knows no rollback.
CREATE SEQUENCE IF NOT EXISTS crieur.overflowing;

-- The daemon's position, and which daemon is at work.
CREATE TABLE IF NOT EXISTS crieur.progress (
    slot text PRIMARY KEY,
    confirmed bigint NOT NULL DEFAULT 0,
    owner text,
    owner_until timestamptz,
    -- Counts the daemons that took over: positions of one mean nothing to the next.
    era bigint NOT NULL DEFAULT 0
);

-- An expression that is the value as the server itself writes it, never the cast to text: that one says "true" for a
-- boolean where the server says "t", and drops the blanks of char(n).
CREATE OR REPLACE FUNCTION crieur.written(expression text, type oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE base (oid, basetype, output, cast_to) AS (
        SELECT t.oid, t.typbasetype, t.typoutput, '' COLLATE "C" FROM pg_catalog.pg_type AS t WHERE t.oid = type
        UNION ALL
        -- By its catalog name: "character" would be a single one.
        SELECT t.oid, t.typbasetype, t.typoutput, pg_catalog.format('::%I.%I', n.nspname, t.typname)
        FROM base AS b
        JOIN pg_catalog.pg_type AS t ON t.oid = b.basetype
        JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
    )
    SELECT CASE
        WHEN b.oid IN ('pg_catalog.text'::pg_catalog.regtype, 'pg_catalog.varchar'::pg_catalog.regtype)
            THEN pg_catalog.format('(%s COLLATE "C")::pg_catalog.text', expression)
        ELSE pg_catalog.format('pg_catalog.textin(%I.%I(%s%s))', n.nspname, f.proname, expression, b.cast_to)
    END
    FROM base AS b
    JOIN pg_catalog.pg_proc AS f ON f.oid = b.output
    JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
    WHERE b.basetype = 0
$function$;

-- The SET clauses without which values of these types would be written otherwise for one writer than for another.
CREATE OR REPLACE FUNCTION crieur.output_settings(types oid[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE part (oid) AS (
        SELECT t.oid FROM pg_catalog.unnest(types) AS t (oid)
        UNION
        SELECT inner_type.oid
        FROM part AS p
        JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem
            UNION ALL SELECT t.typbasetype
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r
                WHERE t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid)
        ) AS inner_type (oid)
        WHERE inner_type.oid <> 0
    ),
    named (name) AS (
        SELECT CASE WHEN t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN t.typname ELSE 'another' END
        FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
        WHERE t.typtype = 'b' AND (t.typcategory <> 'A' OR t.typelem = 0)
    ),
    -- Of a type that no one here knows, anything may count.
    needed (setting) AS (
        SELECT DISTINCT s.setting
        FROM named AS n
        CROSS JOIN LATERAL pg_catalog.unnest(CASE
            WHEN n.name IN (
                'bool', 'char', 'name', 'int2', 'int4', 'int8', 'numeric', 'oid', 'xid', 'xid8', 'cid', 'tid', 'text',
                'bpchar', 'varchar', 'json', 'jsonb', 'jsonpath', 'xml', 'uuid', 'bit', 'varbit', 'inet', 'cidr',
                'macaddr', 'macaddr8', 'money', 'pg_lsn', 'tsvector', 'tsquery', 'int2vector', 'oidvector'
            ) THEN '{}'::pg_catalog.text[]
            WHEN n.name IN ('date', 'timestamp', 'time', 'timetz') THEN '{DateStyle = ''ISO''}'
            WHEN n.name = 'timestamptz' THEN '{DateStyle = ''ISO'',TimeZone = ''UTC''}'
            WHEN n.name = 'interval' THEN '{IntervalStyle = ''postgres''}'
            WHEN n.name = 'bytea' THEN '{bytea_output = ''hex''}'
            WHEN n.name IN ('float4', 'float8', 'point', 'line', 'lseg', 'box', 'path', 'polygon', 'circle')
                THEN '{extra_float_digits = 1}'
            ELSE '{DateStyle = ''ISO'',TimeZone = ''UTC'',IntervalStyle = ''postgres'',bytea_output = ''hex'','
                'extra_float_digits = 1}'
        END) AS s (setting)
    )
    SELECT coalesce(pg_catalog.string_agg(' SET ' || n.setting, '' ORDER BY n.setting), '') FROM needed AS n
$function$;

-- A transition table with its columns as c1, c2, …: whatever a user calls them, none is taken for a name of ours.
CREATE OR REPLACE FUNCTION crieur.side(target crieur.target, shape crieur.shape, name text, place text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('SELECT %sROW(r.*)::pg_catalog.record AS whole', place)
        || CASE WHEN target.ignore = '{}' THEN '' ELSE pg_catalog.format(', ROW(%s)::pg_catalog.record AS kept', (
            SELECT pg_catalog.string_agg(pg_catalog.format('r.%I', a.attname), ', ' ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute AS a
            WHERE a.attrelid = target.relation AND a.attnum > 0 AND NOT a.attisdropped
                AND a.attname <> ALL (target.ignore)
        )) END
        || coalesce((
            SELECT pg_catalog.string_agg(pg_catalog.format(', r.%I AS c%s', c.name, c.place), '' ORDER BY c.place)
            FROM pg_catalog.unnest(shape.columns) WITH ORDINALITY AS c (name, place)
        ), '')
        || pg_catalog.format(' FROM %s_rows AS r', name)
$function$;

-- A row of crieur.side() as an array of texts. Without columns it is one NULL: arrays of nothing cannot be gathered.
CREATE OR REPLACE FUNCTION crieur.image(shape crieur.shape, alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('ARRAY[%s]::pg_catalog.text[] COLLATE "C"', coalesce(pg_catalog.string_agg(
        crieur.written(pg_catalog.format('%s.c%s', alias, t.place), t.type), ', ' ORDER BY t.place), 'NULL'))
    FROM pg_catalog.unnest(shape.types) WITH ORDINALITY AS t (type, place)
$function$;

-- Whether a table has no columns but those of now. Nobody said of a later one that it may be ignored.
CREATE OR REPLACE FUNCTION crieur.known(target crieur.target, relation text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('%s = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = %s'
        || ' AND a.attnum > 0 AND NOT a.attisdropped)', pg_catalog.count(*), relation)
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = target.relation AND a.attnum > 0 AND NOT a.attisdropped
$function$;

-- Whether the row o became another one, n. Byte by byte: json, xml and point have no equality, and equal values may be
-- written otherwise. Only a column that is known can be ignored: while there are others, every change counts.
CREATE OR REPLACE FUNCTION crieur.changed(target crieur.target, relation text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT 'o.whole OPERATOR(pg_catalog.*<>) n.whole' || CASE WHEN target.ignore = '{}' THEN '' ELSE pg_catalog.format(
        ' AND (o.kept OPERATOR(pg_catalog.*<>) n.kept OR NOT %s)', crieur.known(target, relation)) END
$function$;

-- The images of a statement on one row; of an update that changed nothing, no old one. INTO STRICT refuses more rows:
-- nothing here counts them. LIMIT is for the planner: a plan made for a bulk statement would be compiled (jit) each time
-- that the session uses it again. Without the image that is "asked", the statement is to look at the outbox first: always
-- while that is full, or else one time in 256, as the WAL has it: random() would take from the sequence of a writer who
-- called setseed(), and gen_random_uuid() costs twice as much.
-- The fewer expressions there are, the better: setting them up, in each transaction anew, is most of what this costs.
CREATE OR REPLACE FUNCTION crieur.query_one(op text, target crieur.target, shape crieur.shape) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('SELECT %s AS old, %s AS new FROM %s LIMIT 2',
        CASE op
            WHEN 'INSERT' THEN 'NULL::pg_catalog.text[]'
            WHEN 'UPDATE' THEN pg_catalog.format(
                'CASE WHEN o.%1$s OPERATOR(pg_catalog.*<>) n.%1$s THEN ARRAY[%2$s] END',
                CASE WHEN target.ignore = '{}' THEN 'whole' ELSE 'kept' END, crieur.image(shape, 'o'))
            ELSE pg_catalog.format(asked.image, crieur.image(shape, 'o'))
        END,
        CASE op
            WHEN 'DELETE' THEN 'NULL::pg_catalog.text[]'
            ELSE pg_catalog.format(asked.image, crieur.image(shape, 'n'))
        END,
        pg_catalog.concat_ws(' CROSS JOIN ',
            CASE WHEN op <> 'INSERT' THEN pg_catalog.format('(%s) AS o', crieur.side(target, shape, 'old', '')) END,
            CASE WHEN op <> 'DELETE' THEN pg_catalog.format('(%s) AS n', crieur.side(target, shape, 'new', '')) END))
    FROM (SELECT 'CASE WHEN pg_catalog.pg_sequence_last_value(''crieur.overflowing'') IS NULL'
        || ' AND pg_catalog.pg_lsn_hash(pg_catalog.pg_current_wal_insert_lsn()) & 255 <> 0'
        || ' THEN ARRAY[%s] END') AS asked (image)
$function$;

-- The distinct images of the first rows, as many as "top" says. An update's rows are numbered: both tables get theirs
-- in one call (AfterTriggerSaveEvent in src/backend/commands/trigger.c), so the same number is the same row, before and
-- after. A full join cannot become a nested loop, whatever number of rows it was planned for. Images that hold the
-- primary key are distinct as they are.
CREATE OR REPLACE FUNCTION crieur.query_images(
    op text, target crieur.target, shape crieur.shape, top text, relation text
) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format(
        CASE WHEN pg_catalog.bool_and(a.attname = ANY (shape.columns))
            THEN 'SELECT p.old, p.new, p.paired FROM (%s) AS p'
            ELSE 'SELECT p.old, p.new, pg_catalog.bool_and(p.paired) AS paired FROM (%s) AS p GROUP BY p.old, p.new'
        END,
        CASE op
            WHEN 'UPDATE' THEN pg_catalog.format(
                'SELECT %2$s AS old, %3$s AS new, (o.place IS NOT NULL AND n.place IS NOT NULL) AS paired'
                || ' FROM (%4$s%1$s) AS o FULL JOIN (%5$s%1$s) AS n ON n.place = o.place WHERE (%6$s) IS NOT FALSE',
                top, crieur.image(shape, 'o'), crieur.image(shape, 'n'),
                crieur.side(target, shape, 'old', 'pg_catalog.row_number() OVER () AS place, '),
                crieur.side(target, shape, 'new', 'pg_catalog.row_number() OVER () AS place, '),
                crieur.changed(target, relation))
            WHEN 'INSERT' THEN pg_catalog.format('SELECT NULL::pg_catalog.text[] AS old, %s AS new, true AS paired'
                || ' FROM (%s%s) AS n', crieur.image(shape, 'n'), crieur.side(target, shape, 'new', ''), top)
            ELSE pg_catalog.format('SELECT %s AS old, NULL::pg_catalog.text[] AS new, true AS paired'
                || ' FROM (%s%s) AS o', crieur.image(shape, 'o'), crieur.side(target, shape, 'old', ''), top)
        END)
    FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = shape.relation AND i.indisprimary
$function$;

-- For more than one row. An old row without a new one was to move to a partition, and a trigger kept it from there:
-- then nothing says which are pairs.
CREATE OR REPLACE FUNCTION crieur.query_many(op text, images text, rows_max bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format(
        'SELECT CASE WHEN d.images = 0 THEN NULL WHEN d.paired AND d.images <= %s THEN ''%s'' ELSE ''S'' END::"char"'
        || ' AS op, d.old, d.new FROM (SELECT pg_catalog.count(*) AS images, pg_catalog.bool_and(i.paired) AS paired,'
        || ' %s AS old, %s AS new FROM (%s) AS i) AS d',
        rows_max, pg_catalog.left(op, 1),
        CASE op WHEN 'INSERT' THEN 'NULL::pg_catalog.text[]' ELSE 'pg_catalog.array_agg(i.old)' END,
        CASE op WHEN 'DELETE' THEN 'NULL::pg_catalog.text[]' ELSE 'pg_catalog.array_agg(i.new)' END, images)
$function$;

-- What says all with no image.
CREATE OR REPLACE FUNCTION crieur.query_none(op text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format(
        'SELECT %L::"char" AS op, NULL::pg_catalog.text[] AS old, NULL::pg_catalog.text[] AS new', op)
$function$;

-- The outbox is full: one row that says so for this table, unless there is one. The caller has a transaction id before
-- it looks at the round, so whoever ends the round afterwards finds it among the running transactions.
CREATE OR REPLACE FUNCTION crieur.overflow(shape integer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    INSERT INTO crieur.collapse (shape, round)
    SELECT overflow.shape, s.last_value
    FROM crieur.closings AS s
    WHERE NOT EXISTS (
        SELECT FROM crieur.collapse AS c WHERE c.shape = overflow.shape AND c.round = s.last_value AND NOT c.closing
    )
$function$;

-- Whether the outbox is full. Then a row of crieur.collapse says what a statement on this table would have said.
CREATE OR REPLACE FUNCTION crieur.full(shape integer, bytes_max bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    yes CONSTANT boolean := pg_catalog.pg_total_relation_size('crieur.outbox') > bytes_max;
BEGIN
    IF yes <> (pg_catalog.pg_sequence_last_value('crieur.overflowing') IS NOT NULL) THEN
        PERFORM pg_catalog.setval('crieur.overflowing', 1, yes);
    END IF;
    IF yes THEN
        PERFORM crieur.overflow(shape);
    END IF;
    RETURN yes;
END
$function$;

-- Writes the trigger function of a watched table anew, for its shape and the settings of now. One row, or none, takes
-- the first way, which is short. What that cannot tell takes the second one.
CREATE OR REPLACE FUNCTION crieur.generate(target crieur.target) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    setting CONSTANT crieur.setting := (SELECT s FROM crieur.setting AS s);
    shape CONSTANT crieur.shape := (SELECT s FROM crieur.shape AS s WHERE s.id = target.shape);
    function CONSTANT text := 'capture_' || target.id;
    notify CONSTANT text := CASE WHEN setting.notify THEN 'PERFORM pg_catalog.pg_notify(''crieur'', '''');' ELSE '' END;
    one text;
    many text;
BEGIN
    SELECT pg_catalog.string_agg(pg_catalog.format($text$%1$s tg_op = '%2$s' THEN
        BEGIN
            %3$s INTO STRICT seen;
        EXCEPTION
            WHEN no_data_found THEN
                -- An old row alone was to move to a partition, and a trigger kept it from there.
                IF %4$s THEN
                    RETURN NULL;
                END IF;
                %11$s INTO seen;
                unclear := true;
            WHEN OTHERS THEN
                %11$s INTO seen;
                unclear := true;
        END;
        IF %5$s <= %6$s THEN
            INSERT INTO crieur.outbox (op, shape, old, new) VALUES ('%7$s', %8$s, seen.old, seen.new);
            %9$s
            RETURN NULL;%10$s
        END IF;
    $text$,
        CASE op WHEN 'UPDATE' THEN 'IF' ELSE 'ELSIF' END, op, crieur.query_one(op, target, shape),
        CASE op WHEN 'UPDATE' THEN 'NOT EXISTS (SELECT FROM old_rows)' ELSE 'true' END,
        CASE op
            WHEN 'UPDATE' THEN 'pg_catalog.pg_column_size(seen.old) + pg_catalog.pg_column_size(seen.new)'
            WHEN 'INSERT' THEN 'pg_catalog.pg_column_size(seen.new)'
            ELSE 'pg_catalog.pg_column_size(seen.old)'
        END,
        -- Large ones all look at the outbox first, so few rows may be written before one does.
        least(setting.row_bytes_max, 65536), pg_catalog.left(op, 1), shape.id, notify,
        CASE op WHEN 'UPDATE' THEN pg_catalog.format($text$
        ELSIF seen.old IS NULL AND unclear IS NULL AND %s THEN
            RETURN NULL;$text$, CASE WHEN target.ignore = '{}' THEN 'true' ELSE crieur.known(target, 'tg_relid') END)
        ELSE '' END,
        crieur.query_none('S')
    ), ''), pg_catalog.string_agg(pg_catalog.format($text$%1$s tg_op = '%2$s' THEN
            SELECT pg_catalog.count(*) INTO rows FROM (SELECT FROM %3$s_rows LIMIT %4$s + 1) AS c;
            IF rows > %4$s THEN
                -- Many rows may still have few images. Planned for as many as there are.
                EXECUTE %5$L INTO rows USING tg_relid;
                IF rows <= 500 THEN
                    EXECUTE %6$L INTO seen USING tg_relid;
                ELSE
                    %7$s INTO seen;
                END IF;
            ELSE
                %8$s INTO seen;
            END IF;
        $text$,
        CASE op WHEN 'UPDATE' THEN 'IF' ELSE 'ELSIF' END, op,
        CASE op WHEN 'INSERT' THEN 'new' ELSE 'old' END, setting.rows_max,
        'SELECT pg_catalog.count(*) FROM (' || crieur.query_images(op, target, shape, ' LIMIT 1000', '$1') || ') AS i',
        crieur.query_many(op, crieur.query_images(op, target, shape, '', '$1'), setting.rows_max),
        crieur.query_none('S'),
        crieur.query_many(op, crieur.query_images(op, target, shape, '', 'tg_relid'), setting.rows_max)
    ), '')
    INTO one, many
    FROM pg_catalog.unnest('{UPDATE,INSERT,DELETE}'::text[]) AS op;
    EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION crieur.%I() RETURNS trigger LANGUAGE plpgsql'
        || ' SECURITY DEFINER SET search_path = pg_catalog, pg_temp%s AS %L', function, crieur.output_settings(shape.types),
        pg_catalog.format($text$
#variable_conflict use_column
DECLARE
    seen record;
    unclear boolean;
    rows bigint;
    jit text;
    said text;
BEGIN
    -- What became of the table since must not break its writer: where it cannot be read, all of it has changed.
    -- Nothing is written in a block that catches errors, so none takes a transaction id.
    %1$sEND IF;
    IF crieur.full(%3$s, %4$s) THEN
        %5$s
        RETURN NULL;
    END IF;
    BEGIN
        -- Plans are kept for statements on fewer rows, which compiling (jit) would cost far more than they take.
        jit := pg_catalog.current_setting('jit');
        PERFORM pg_catalog.set_config('jit', 'off', true);
        %2$sELSE
            %6$s INTO seen;
        END IF;
        PERFORM pg_catalog.set_config('jit', jit, true);
        IF seen.op IS NULL THEN
            IF NOT EXISTS (SELECT FROM old_rows) OR EXISTS (SELECT FROM new_rows) THEN
                RETURN NULL;
            END IF;
            seen.op := 'S';
        END IF;
    EXCEPTION WHEN OTHERS THEN
        %7$s INTO seen;
        -- Only these messages are sure to hold no value.
        said := CASE WHEN sqlstate LIKE '42%%' THEN sqlerrm ELSE sqlstate END;
    END;
    IF coalesce(pg_catalog.pg_column_size(seen.old), 0) + coalesce(pg_catalog.pg_column_size(seen.new), 0) > %8$s THEN
        %7$s INTO seen;
    END IF;
    INSERT INTO crieur.outbox (op, shape, old, new, note)
    SELECT seen.op, %3$s, CASE WHEN seen.op <> 'S' THEN seen.old END, CASE WHEN seen.op <> 'S' THEN seen.new END, said;
    %5$s
    RETURN NULL;
END
$text$, one, many, shape.id, setting.bytes_max, notify, crieur.query_none('T'), crieur.query_none('S'),
        setting.row_bytes_max));
    EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION crieur.%I() FROM PUBLIC', function);
    UPDATE crieur.target AS t SET made_of = crieur.made_of(t) WHERE t.id = target.id;
END
$function$;

-- A table as the triggers would capture it now. Columns that it no longer has are left out.
CREATE OR REPLACE FUNCTION crieur.described(relation oid, columns text[]) RETURNS crieur.shape
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT ROW(
        NULL, c.oid, n.nspname, c.relname,
        coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}'),
        coalesce(pg_catalog.array_agg(a.atttypid ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}'),
        coalesce(pg_catalog.array_agg(EXISTS (
            SELECT FROM pg_catalog.pg_index AS i
            WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)
        ) ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}')
    )::crieur.shape
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (described.columns IS NULL OR a.attname = ANY (described.columns))
    WHERE c.oid = described.relation
    GROUP BY c.oid, n.nspname
$function$;

-- What a trigger function was made of besides its shape, and by what: when this differs, it is out of date.
CREATE OR REPLACE FUNCTION crieur.made_of(target crieur.target) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.concat_ws('/', crieur.version(), s.notify, s.rows_max, s.row_bytes_max, s.bytes_max,
        CASE WHEN target.ignore <> '{}' THEN crieur.described(target.relation, NULL)::text END, (
            SELECT pg_catalog.md5(pg_catalog.string_agg(f.prosrc, '' ORDER BY f.proname COLLATE "C"))
            FROM pg_catalog.pg_proc AS f
            WHERE f.pronamespace = 'crieur'::pg_catalog.regnamespace AND f.proname IN (
                'written', 'output_settings', 'side', 'image', 'known', 'changed', 'query_one', 'query_images',
                'query_many', 'query_none', 'generate'
            )
        ))
    FROM crieur.setting AS s
$function$;

-- A table and what else holds its rows: partitions, and tables that inherit from it.
CREATE OR REPLACE FUNCTION crieur.carriers(relation oid) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE carrier (oid) AS (
        SELECT carriers.relation
        UNION
        SELECT i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
    )
    SELECT k.oid::pg_catalog.regclass
    FROM carrier AS c JOIN pg_catalog.pg_class AS k ON k.oid = c.oid
    WHERE k.relkind IN ('r', 'p')
$function$;

-- Which of the four triggers of a target a table has, and all of them fire whatever session_replication_role says.
CREATE OR REPLACE FUNCTION crieur.attached(relation oid, target integer) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT coalesce(pg_catalog.array_agg(t.tgname::text), '{}')
    FROM pg_catalog.pg_trigger AS t
    JOIN pg_catalog.pg_proc AS f ON f.oid = t.tgfoid
    WHERE t.tgrelid = attached.relation AND t.tgenabled = 'A'
        AND t.tgname IN ('crieur_insert', 'crieur_update', 'crieur_delete', 'crieur_truncate')
        AND f.pronamespace = 'crieur'::pg_catalog.regnamespace AND f.proname = 'capture_' || attached.target
$function$;

-- The watched tables, and whether the triggers on them are what they should be; crieur.refresh() brings them there.
CREATE OR REPLACE VIEW crieur.watched AS
SELECT
    t.relation, n.nspname AS schema, c.relname AS name, s.columns, t.ignore, t.shape, u.uncovered,
    -- Columns that were to be watched, and are no longer there: every statement sweeps the table.
    ARRAY(
        SELECT w.name FROM pg_catalog.unnest(t.columns) AS w (name)
        WHERE w.name <> ALL ((crieur.described(t.relation, t.columns)).columns)
    ) AS missing,
    u.uncovered <> '{}' OR t.made_of IS DISTINCT FROM crieur.made_of(t)
        OR (s.schema, s.name, s.columns, s.types, s.key) IS DISTINCT FROM (d.schema, d.name, d.columns, d.types, d.key)
        AS stale,
    (SELECT i.notify FROM crieur.setting AS i) AS notify,
    crieur.version() AS version
FROM crieur.target AS t
JOIN crieur.shape AS s ON s.id = t.shape
JOIN pg_catalog.pg_class AS c ON c.oid = t.relation
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL crieur.described(t.relation, t.columns) AS d
CROSS JOIN LATERAL (
    SELECT ARRAY(
        SELECT k.relation FROM crieur.carriers(t.relation) AS k (relation)
        WHERE pg_catalog.cardinality(crieur.attached(k.relation, t.id)) < 4
    ) AS uncovered
) AS u;

-- Puts the triggers on one table that lacks some. ALWAYS: a restore or a replication tool that works with
-- session_replication_role = replica changes values like anybody else.
CREATE OR REPLACE FUNCTION crieur.attach(relation regclass, target integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    attached CONSTANT text[] := crieur.attached(relation, target);
    event text;
    name text;
BEGIN
    FOREACH event IN ARRAY '{INSERT,UPDATE,DELETE,TRUNCATE}'::text[] LOOP
        name := 'crieur_' || pg_catalog.lower(event);
        CONTINUE WHEN name = ANY (attached);
        IF EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = relation AND t.tgname = name) THEN
            EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', name, relation);
        END IF;
        EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON %s%s FOR EACH STATEMENT EXECUTE FUNCTION crieur.%I()',
            name, event, relation, CASE event
                WHEN 'INSERT' THEN ' REFERENCING NEW TABLE AS new_rows'
                WHEN 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                WHEN 'DELETE' THEN ' REFERENCING OLD TABLE AS old_rows'
                ELSE ''
            END, 'capture_' || target);
        EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, name);
    END LOOP;
END
$function$;

-- Refuses what triggers with transition tables cannot do, or would do wrong.
CREATE OR REPLACE FUNCTION crieur.refuse("table" regclass, columns text[]) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    found record;
    unknown text;
BEGIN
    SELECT c.relkind, c.relpersistence, c.relispartition INTO found FROM pg_catalog.pg_class AS c WHERE c.oid = "table";
    IF found.relkind NOT IN ('r', 'p') OR found.relpersistence = 't' THEN
        RAISE EXCEPTION '% is not a table of rows that last', "table";
    END IF;
    IF found.relispartition THEN
        RAISE EXCEPTION '% is a partition', "table"
            USING HINT = pg_catalog.format('Watch %s: partitions come with it.', pg_catalog.pg_partition_root("table"));
    END IF;
    IF EXISTS (
        SELECT FROM pg_catalog.pg_partition_tree("table") AS p JOIN pg_catalog.pg_class AS c ON c.oid = p.relid
        WHERE c.relkind = 'f'
    ) THEN
        RAISE EXCEPTION '% has foreign partitions', "table" USING HINT = 'Writers of those would fail.';
    END IF;
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(w.name), ', ') INTO unknown
    FROM pg_catalog.unnest(columns) AS w (name)
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = "table" AND a.attname = w.name AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated <> 'v'
    );
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION '% stores no column %', "table", unknown;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS s WHERE s.srrelid = "table") THEN
        RAISE WARNING '% is replicated from elsewhere', "table"
            USING DETAIL = 'What a subscription applies fires no statement trigger: those changes will not be seen.';
    END IF;
END
$function$;

-- Watches a table, or watches it otherwise than before. "columns" are those that keys are made of (none given: all),
-- "ignore" those whose change alone is none. For the owner of the table and of this schema.
CREATE OR REPLACE FUNCTION crieur.watch("table" regclass, columns text[] DEFAULT NULL, ignore text[] DEFAULT '{}')
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_variable
DECLARE
    described crieur.shape;
    target crieur.target;
BEGIN
    PERFORM crieur.refuse("table", columns || ignore);
    LOCK TABLE crieur.target IN SHARE ROW EXCLUSIVE MODE;
    described := crieur.described("table", columns);
    SELECT s.id INTO described.id FROM crieur.shape AS s
    WHERE (s.relation, s.schema, s.name, s.columns, s.types, s.key)
        = (described.relation, described.schema, described.name, described.columns, described.types, described.key);
    IF described.id IS NULL THEN
        INSERT INTO crieur.shape (relation, schema, name, columns, types, key)
        VALUES (described.relation, described.schema, described.name, described.columns, described.types, described.key)
        RETURNING shape.id INTO described.id;
    END IF;
    INSERT INTO crieur.target AS t (relation, columns, ignore, shape)
    VALUES ("table", columns, coalesce(ignore, '{}'), described.id)
    ON CONFLICT (relation) DO UPDATE SET columns = excluded.columns, ignore = excluded.ignore, shape = excluded.shape
    RETURNING t.* INTO target;
    PERFORM crieur.generate(target);
    PERFORM crieur.attach(c.relation, target.id) FROM crieur.carriers("table") AS c (relation);
END
$function$;

-- Removes the triggers of a table. What it wrote to the outbox stays for the daemon.
CREATE OR REPLACE FUNCTION crieur.unwatch("table" regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    removed integer;
BEGIN
    DELETE FROM crieur.target AS t WHERE t.relation = "table" RETURNING t.id INTO removed;
    IF removed IS NOT NULL THEN
        EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS crieur.%I() CASCADE', 'capture_' || removed);
    END IF;
END
$function$;

-- Brings the triggers to what the tables are now: new partitions, other types, other names, another version of this
-- script. With the rights of whoever installed it, so that the daemon may call it; waits for no lock for long. A table
-- that cannot be helped is a warning, and stays as it was.
CREATE OR REPLACE FUNCTION crieur.refresh() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $function$
DECLARE
    target crieur.target;
BEGIN
    FOR target IN
        SELECT t.* FROM crieur.target AS t
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.relation)
    LOOP
        PERFORM crieur.unwatch(target.relation);
    END LOOP;
    FOR target IN
        SELECT t.* FROM crieur.target AS t JOIN crieur.watched AS w ON w.relation = t.relation WHERE w.stale
    LOOP
        BEGIN
            PERFORM crieur.watch(target.relation, target.columns, ARRAY(
                SELECT i.name FROM pg_catalog.unnest(target.ignore) AS i (name)
                WHERE i.name = ANY ((crieur.described(target.relation, NULL)).columns)
            ));
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING '% stays as it was: %', target.relation, sqlerrm;
        END;
    END LOOP;
END
$function$;

-- Whether a commit wakes the daemon. Without, it looks by itself, up to a second later when nothing was going on. With,
-- commits of the whole server queue at one lock, and PREPARE TRANSACTION refuses a transaction that wrote watched
-- tables.
CREATE OR REPLACE FUNCTION crieur.notify("on" boolean) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    UPDATE crieur.setting SET notify = "on";
    SELECT crieur.generate(t) FROM crieur.target AS t;
$function$;

-- Sets limits; NULL keeps one. See crieur.setting.
CREATE OR REPLACE FUNCTION crieur.limits(
    rows_max integer DEFAULT NULL, row_bytes_max bigint DEFAULT NULL, bytes_max bigint DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    UPDATE crieur.setting AS s SET rows_max = coalesce(limits.rows_max, s.rows_max),
        row_bytes_max = coalesce(limits.row_bytes_max, s.row_bytes_max),
        bytes_max = coalesce(limits.bytes_max, s.bytes_max);
    SELECT pg_catalog.setval('crieur.overflowing', 1);
    SELECT crieur.generate(t) FROM crieur.target AS t;
$function$;

-- For the daemon, before it sweeps: from now on no statement relies on a collapse row that is there. Gives their
-- tables. Once this is committed, wait for the transactions that run then; sweep; delete the rows.
CREATE OR REPLACE FUNCTION crieur.close_collapsed() RETURNS TABLE (id bigint, shape integer)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.nextval('crieur.closings');
    UPDATE crieur.collapse AS c SET closing = true RETURNING c.id, c.shape;
$function$;

-- Gives the disk back when the outbox is empty and its file is large, unless somebody writes just now. Says whether.
CREATE OR REPLACE FUNCTION crieur.shrink() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $function$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'crieur.shrink() must see what has just been committed: call it in read committed';
    END IF;
    IF pg_catalog.pg_total_relation_size('crieur.outbox')
            < (SELECT least(16777216, s.bytes_max) FROM crieur.setting AS s)
        OR EXISTS (SELECT FROM crieur.outbox) THEN
        RETURN false;
    END IF;
    LOCK TABLE crieur.outbox IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM crieur.outbox) THEN
        RETURN false;
    END IF;
    TRUNCATE crieur.outbox;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$function$;

-- The rights of the daemon's role, if that is not the one that installs.
CREATE OR REPLACE FUNCTION crieur.grant_worker(role name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    granted text;
BEGIN
    FOREACH granted IN ARRAY ARRAY[
        'USAGE ON SCHEMA crieur', 'SELECT ON crieur.setting, crieur.shape, crieur.target, crieur.watched',
        'SELECT, DELETE ON crieur.outbox, crieur.collapse', 'SELECT, INSERT, UPDATE, DELETE ON crieur.progress',
        'EXECUTE ON FUNCTION crieur.version(), crieur.described(oid, text[]), crieur.made_of(crieur.target), '
            || 'crieur.carriers(oid), crieur.attached(oid, integer), crieur.refresh(), crieur.close_collapsed(), '
            || 'crieur.shrink()'
    ] LOOP
        EXECUTE pg_catalog.format('GRANT %s TO %I', granted, role);
    END LOOP;
END
$function$;

-- Whoever may use the schema, for sql/invalidate.sql say, may call none of these.
REVOKE ALL ON FUNCTION
    crieur.version, crieur.written, crieur.output_settings, crieur.side, crieur.image, crieur.known,
    crieur.changed, crieur.query_one, crieur.query_images, crieur.query_many, crieur.query_none, crieur.overflow,
    crieur.full, crieur.generate, crieur.described,
    crieur.made_of, crieur.carriers, crieur.attached, crieur.attach, crieur.refuse, crieur.watch, crieur.unwatch,
    crieur.refresh, crieur.notify, crieur.limits, crieur.close_collapsed, crieur.shrink, crieur.grant_worker
FROM PUBLIC;

-- What an older version left. A table that cannot be brought up to date is a warning, and works as before.
SELECT crieur.refresh();

-- A migration may go on in this transaction, with the names of its own path.
DO $do$
BEGIN
    IF pg_catalog.current_setting('crieur.path', true) OPERATOR(pg_catalog.<>) '' THEN
        PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('crieur.path'), true);
    END IF;
END
$do$;
