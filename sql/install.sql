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
        IF installed > 3 THEN
            RAISE EXCEPTION 'version % of crieur is installed, which is later than this script', installed;
        END IF;
    END IF;
END
$do$;

-- Of this script. Types are looked for among the caller's temporary ones, whose checks are code, unless the path of a
-- function names pg_temp, and last.
CREATE OR REPLACE FUNCTION crieur.version() RETURNS integer
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$ SELECT 3 $function$;

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

-- Not compressed: what a page of rows takes in the daemon's memory is then known without reading them. Where somebody may
-- be writing just now, crieur.shrink() does it.
DO $do$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = 'crieur.outbox'::pg_catalog.regclass AND a.attname IN ('old', 'new') AND a.attstorage <> 'e'
            -- The writers of tables that are watched already would wait for the end of this transaction.
            AND NOT EXISTS (SELECT FROM crieur.target)
    ) THEN
        PERFORM pg_catalog.set_config('crieur.lock_timeout', pg_catalog.current_setting('lock_timeout'), true),
            pg_catalog.set_config('lock_timeout', '200ms', true);
        ALTER TABLE crieur.outbox ALTER old SET STORAGE EXTERNAL, ALTER new SET STORAGE EXTERNAL;
        PERFORM pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('crieur.lock_timeout'), true);
    END IF;
EXCEPTION WHEN lock_not_available THEN
    NULL;
END
$do$;

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

-- Called while the outbox is full (1) or refuses rows (2): then each statement looks, and otherwise one of 256 does. No
-- more than a hint, since a sequence knows no rollback.
CREATE SEQUENCE IF NOT EXISTS crieur.overflowing;

-- When a change could be noted nowhere: the daemon sweeps when this moves. Microseconds since 1970.
CREATE SEQUENCE IF NOT EXISTS crieur.missed;

-- The daemon's position, and which daemon is at work.
CREATE TABLE IF NOT EXISTS crieur.progress (
    slot text PRIMARY KEY,
    confirmed bigint NOT NULL DEFAULT 0,
    owner text,
    owner_until timestamptz,
    -- Counts the daemons that took over: positions of one mean nothing to the next.
    era bigint NOT NULL DEFAULT 0
);

-- The names of the types that a value of these is made of: elements, members, what domains are made of. One that is not
-- of the server is 'another'.
CREATE OR REPLACE FUNCTION crieur.parts(types oid[]) RETURNS SETOF text
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
    )
    SELECT CASE WHEN t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN t.typname ELSE 'another' END
    FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
    WHERE t.typtype = 'b' AND (t.typcategory <> 'A' OR t.typelem = 0)
$function$;

-- Whether how these are written depends on settings that an application has of its own: its path, its currency. They
-- cannot be pinned to a value that is the same everywhere, as the others are.
CREATE OR REPLACE FUNCTION crieur.depends_on_readers(types oid[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT EXISTS (
        SELECT FROM crieur.parts(types) AS p (name)
        WHERE p.name IN (
            'money', 'regclass', 'regtype', 'regproc', 'regprocedure', 'regoper', 'regoperator', 'regconfig',
            'regdictionary', 'regcollation', 'regnamespace', 'regrole'
        )
    )
$function$;

-- A setting as a new session of the owner of schema crieur has it in this database: what ALTER ROLE and ALTER DATABASE
-- say, or else what the server says to this session.
CREATE OR REPLACE FUNCTION crieur.reader_setting(name text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT coalesce((
        SELECT pg_catalog.substr(c.line, pg_catalog.length(name) + 2)
        FROM pg_catalog.pg_db_role_setting AS s
        CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c (line)
        WHERE pg_catalog.starts_with(pg_catalog.lower(c.line), name || '=')
            AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = current_database()))
            AND s.setrole IN (
                0, (SELECT n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'crieur')
            )
        ORDER BY s.setrole = 0, s.setdatabase = 0
        LIMIT 1
    ), (SELECT s.reset_val FROM pg_catalog.pg_settings AS s WHERE s.name = reader_setting.name))
$function$;

-- A value as readers see it. The settings end with the function, and nothing in it is looked for by the path. Temporary
-- objects of the writer hide none of the names.
CREATE OR REPLACE FUNCTION crieur.as_readers(value anyelement, path text, money text, quoted text) RETURNS text
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp SET lc_monetary = 'C' SET quote_all_identifiers = off
AS $function$
BEGIN
    PERFORM pg_catalog.set_config('lc_monetary', money, true), pg_catalog.set_config('quote_all_identifiers', quoted, true),
        pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', nullif(path, ''), 'pg_temp'), true);
    RETURN pg_catalog.format('%s', value);
END
$function$;

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
        WHEN crieur.depends_on_readers(ARRAY[type])
            THEN pg_catalog.format('crieur.as_readers(%s, %L, %L, %L)', expression, crieur.reader_setting('search_path'),
                crieur.reader_setting('lc_monetary'), crieur.reader_setting('quote_all_identifiers'))
        ELSE pg_catalog.format('pg_catalog.textin(%I.%I(%s%s))', n.nspname, f.proname, expression, b.cast_to)
    END
    FROM base AS b
    JOIN pg_catalog.pg_proc AS f ON f.oid = b.output
    JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
    WHERE b.basetype = 0
$function$;

-- The SET clauses without which values of these types would be written otherwise for one writer than for another. None
-- of them can fail, as a currency that the machine does not know would.
CREATE OR REPLACE FUNCTION crieur.output_settings(types oid[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    -- Of a type that no one here knows, anything may count.
    WITH needed (setting) AS (
        SELECT DISTINCT s.setting
        FROM crieur.parts(types) AS n (name)
        CROSS JOIN LATERAL pg_catalog.unnest(CASE
            WHEN n.name IN (
                'bool', 'char', 'name', 'int2', 'int4', 'int8', 'numeric', 'oid', 'xid', 'xid8', 'cid', 'tid', 'text',
                'bpchar', 'varchar', 'json', 'jsonb', 'jsonpath', 'xml', 'uuid', 'bit', 'varbit', 'inet', 'cidr',
                'macaddr', 'macaddr8', 'money', 'pg_lsn', 'tsvector', 'tsquery', 'int2vector', 'oidvector'
            ) OR n.name LIKE 'reg%' THEN '{}'::pg_catalog.text[]
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

-- The columns of a row whose change counts, where others are ignored.
CREATE OR REPLACE FUNCTION crieur.kept(target crieur.target, alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.string_agg(pg_catalog.format('%s.%I', alias, a.attname), ', ' ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid = target.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL (target.ignore)
$function$;

-- A transition table with its columns as c1, c2 and so on: whatever a user calls them, none is taken for a name of ours.
CREATE OR REPLACE FUNCTION crieur.side(target crieur.target, shape crieur.shape, name text, place text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('SELECT %sROW(r.*)::pg_catalog.record AS whole', place)
        || CASE WHEN target.ignore = '{}' THEN ''
            ELSE pg_catalog.format(', ROW(%s)::pg_catalog.record AS kept', crieur.kept(target, 'r')) END
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

-- The same of a row with its columns by their own names.
CREATE OR REPLACE FUNCTION crieur.image_of(shape crieur.shape, alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format('ARRAY[%s]::pg_catalog.text[] COLLATE "C"', coalesce(pg_catalog.string_agg(
        crieur.written(pg_catalog.format('%s.%I', alias, t.name), t.type), ', ' ORDER BY t.place), 'NULL'))
    FROM ROWS FROM (pg_catalog.unnest(shape.columns), pg_catalog.unnest(shape.types)) WITH ORDINALITY AS t (name, type, place)
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

-- Whether a row may be written to the outbox without a look at it.
CREATE OR REPLACE FUNCTION crieur.query_asked() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT 'pg_catalog.pg_sequence_last_value(''crieur.overflowing'') IS NULL'
        || ' AND pg_catalog.pg_lsn_hash(pg_catalog.pg_current_wal_insert_lsn()) & 255 <> 0'
$function$;

-- The images of a statement on one row; of an update that changed nothing, no old one. INTO STRICT refuses more rows:
-- nothing here counts them. LIMIT is for the planner: a plan made for a bulk statement would be compiled (jit) each time
-- that the session uses it again. Without the image that is "asked", the statement is to look at the outbox first: always
-- while that is full or refuses rows, or else one time in 256, as the WAL has it: random() would take
-- from the sequence of a writer who called setseed(), and gen_random_uuid() costs twice as much.
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
    FROM (SELECT 'CASE WHEN ' || crieur.query_asked() || ' THEN ARRAY[%s] END') AS asked (image)
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
-- it looks at the round, so whoever ends the round afterwards finds it among the running transactions. Serializable
-- transactions that had read here would conflict with each other: they do not look while the table is small.
CREATE OR REPLACE FUNCTION crieur.overflow(shape integer) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $function$
    INSERT INTO crieur.collapse (shape, round)
    SELECT overflow.shape, s.last_value
    FROM crieur.closings AS s
    WHERE CASE
        WHEN pg_catalog.current_setting('transaction_isolation') = 'serializable'
            AND pg_catalog.pg_relation_size('crieur.collapse') < 8388608 THEN true
        ELSE NOT EXISTS (
            SELECT FROM crieur.collapse AS c WHERE c.shape = overflow.shape AND c.round = s.last_value AND NOT c.closing
        )
    END
$function$;

-- Whether the outbox is full. Then a row of crieur.collapse says what a statement on this table would have said. Fails
-- where the outbox would refuse a row: it is not there, has another shape, its owner may not write, somebody holds it.
CREATE OR REPLACE FUNCTION crieur.looked(shape integer, bytes_max bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $function$
DECLARE
    flag bigint;
    yes boolean;
BEGIN
    flag := pg_catalog.pg_sequence_last_value('crieur.overflowing');
    -- Ahead of the statement below, which would wait for whoever holds the outbox, for each row of a statement anew.
    IF flag = 2 THEN
        RAISE EXCEPTION 'crieur.outbox refuses rows';
    END IF;
    -- No row, and so no transaction id in the block of the caller that catches errors.
    INSERT INTO crieur.outbox (op, shape, old, new, note) SELECT 'S', 0, NULL, NULL, NULL WHERE false;
    yes := pg_catalog.pg_total_relation_size('crieur.outbox') > bytes_max;
    IF yes <> (flag IS NOT NULL) THEN
        PERFORM pg_catalog.setval('crieur.overflowing', 1, yes);
    END IF;
    IF yes THEN
        PERFORM crieur.overflow(shape);
    END IF;
    RETURN yes;
END
$function$;

-- A change that cannot be written to the outbox: its table is to be swept, and where that cannot be said either,
-- everything. While somebody holds the outbox, the next rows do not wait: crieur.refuses() says when that is over. setval()
-- leaves the writer's lastval() alone.
CREATE OR REPLACE FUNCTION crieur.cannot(shape integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $function$
BEGIN
    BEGIN
        LOCK TABLE crieur.outbox IN ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION
        WHEN lock_not_available THEN
            IF pg_catalog.pg_sequence_last_value('crieur.overflowing') IS DISTINCT FROM 2 THEN
                PERFORM pg_catalog.setval('crieur.overflowing', 2);
            END IF;
        WHEN OTHERS THEN
            NULL; -- What is wrong otherwise makes nobody wait.
    END;
    PERFORM crieur.overflow(shape);
EXCEPTION WHEN OTHERS THEN
    PERFORM pg_catalog.setval('crieur.missed',
        (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint);
END
$function$;

-- Of version 2: triggers that this version has not reached yet call it, outside of any block that catches errors. Where
-- it says yes, they write nothing.
CREATE OR REPLACE FUNCTION crieur.full(shape integer, bytes_max bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    RETURN crieur.looked(shape, bytes_max);
EXCEPTION WHEN OTHERS THEN
    BEGIN
        PERFORM crieur.cannot(shape);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'crieur cannot note that a table changed (%): cached values of it may be stale', sqlstate;
    END;
    RETURN true;
END
$function$;

-- For the daemon: why the outbox refuses a row; NULL when it takes one. While it does, statements do not try.
CREATE OR REPLACE FUNCTION crieur.refuses() RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms' AS $function$
DECLARE
    why text;
BEGIN
    BEGIN
        INSERT INTO crieur.outbox (op, shape, old, new, note) VALUES ('M', NULL, NULL, NULL, '');
        RAISE EXCEPTION 'it takes rows' USING ERRCODE = 'CRI00';
    EXCEPTION
        WHEN SQLSTATE 'CRI00' THEN
            NULL;
        WHEN OTHERS THEN
            why := sqlerrm;
    END;
    IF why IS NOT NULL AND pg_catalog.pg_sequence_last_value('crieur.overflowing') IS DISTINCT FROM 2 THEN
        PERFORM pg_catalog.setval('crieur.overflowing', 2);
    ELSIF why IS NULL AND pg_catalog.pg_sequence_last_value('crieur.overflowing') = 2 THEN
        -- The next statement looks.
        PERFORM pg_catalog.setval('crieur.overflowing', 1);
    END IF;
    RETURN why;
END
$function$;

-- The body of the trigger function of single rows: of tables whose statements may name one that has no trigger of ours,
-- or whose transition tables the server refuses. OLD and NEW are the images.
CREATE OR REPLACE FUNCTION crieur.query_row(
    target crieur.target, shape crieur.shape, row_bytes_max bigint, look text, notify text
) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format($text$
DECLARE
    seen_old text[];
    seen_new text[];
    changed boolean := true;
    surely boolean;
    said text;
BEGIN
    BEGIN
        IF tg_op <> 'INSERT' THEN
            seen_old := ARRAY[%1$s];
        END IF;
        IF tg_op <> 'DELETE' THEN
            seen_new := ARRAY[%2$s];
        END IF;
        IF tg_op = 'UPDATE' THEN
            changed := %3$s;
        END IF;
        surely := pg_catalog.pg_column_size(seen_old) <= %4$s IS NOT FALSE
            AND pg_catalog.pg_column_size(seen_new) <= %4$s IS NOT FALSE AND %5$s;
        IF changed AND surely THEN
            LOCK TABLE crieur.outbox IN ROW EXCLUSIVE MODE NOWAIT;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        seen_old := NULL;
        seen_new := NULL;
        changed := true;
        surely := false;
        said := CASE WHEN sqlstate LIKE '42%%' THEN sqlerrm ELSE sqlstate END;
    END;
    IF NOT changed THEN
        RETURN NULL;
    END IF;
    IF NOT surely THEN%6$s
        IF said IS NULL AND coalesce(pg_catalog.pg_column_size(seen_old), 0)
            + coalesce(pg_catalog.pg_column_size(seen_new), 0) > %7$s
        THEN
            seen_old := NULL;
            seen_new := NULL;
        END IF;
    END IF;
    INSERT INTO crieur.outbox (op, shape, old, new, note) VALUES (
        CASE WHEN coalesce(seen_old, seen_new) IS NULL THEN 'S' ELSE pg_catalog.left(tg_op, 1) END::"char", %8$s,
        seen_old, seen_new, said
    );
    %9$s
    RETURN NULL;
END
$text$, crieur.image_of(shape, 'old'), crieur.image_of(shape, 'new'),
        CASE WHEN target.ignore = '{}' THEN 'old OPERATOR(pg_catalog.*<>) new' ELSE pg_catalog.format(
            'ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(%s)::pg_catalog.record OR NOT %s',
            crieur.kept(target, 'old'), crieur.kept(target, 'new'), crieur.known(target, 'tg_relid')) END,
        least(row_bytes_max, 65536) / 2, crieur.query_asked(), look, row_bytes_max, shape.id, notify)
$function$;

-- What a trigger function does when one row was not written at once: it looks whether the outbox takes rows, and has
-- room. A writer must not fail because it does not.
CREATE OR REPLACE FUNCTION crieur.query_look(shape integer, bytes_max bigint, notify text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.format($text$
    BEGIN
        IF crieur.looked(%1$s, %2$s) THEN
            %3$s
            RETURN NULL;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            PERFORM crieur.cannot(%1$s);
            %3$s
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'crieur cannot note that %% changed (%%): cached values of it may be stale',
                tg_relid::pg_catalog.regclass, sqlstate;
        END;
        RETURN NULL;
    END;$text$, shape, bytes_max, notify)
$function$;

-- Makes a trigger function.
CREATE OR REPLACE FUNCTION crieur.make(name text, types oid[], body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION crieur.%I() RETURNS trigger LANGUAGE plpgsql'
        || ' SECURITY DEFINER SET search_path = pg_catalog, pg_temp%s AS %L', name, crieur.output_settings(types), body);
    EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION crieur.%I() FROM PUBLIC', name);
END
$function$;

-- Writes the trigger functions of a watched table anew, for its shape and the settings of now: that of statements, and
-- that of single rows. Of a statement one row, or none, takes the first way, which is short. What that cannot tell
-- takes the second one.
CREATE OR REPLACE FUNCTION crieur.generate(target crieur.target) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    setting CONSTANT crieur.setting := (SELECT s FROM crieur.setting AS s);
    shape CONSTANT crieur.shape := (SELECT s FROM crieur.shape AS s WHERE s.id = target.shape);
    notify CONSTANT text := CASE WHEN setting.notify THEN 'PERFORM pg_catalog.pg_notify(''crieur'', '''');' ELSE '' END;
    look CONSTANT text := crieur.query_look(shape.id, setting.bytes_max, notify);
    one text;
    many text;
BEGIN
    SELECT pg_catalog.string_agg(pg_catalog.format($text$%1$s tg_op = '%2$s' THEN
        BEGIN
            %3$s INTO STRICT seen;
            LOCK TABLE crieur.outbox IN ROW EXCLUSIVE MODE NOWAIT;
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
    PERFORM crieur.make('capture_' || target.id, shape.types, pg_catalog.format($text$
#variable_conflict use_column
DECLARE
    seen record;
    unclear boolean;
    rows bigint;
    jit text;
    said text;
BEGIN
    -- What became of the table since must not break its writer: where it cannot be read, all of it has changed. Nor must
    -- what became of the outbox: the lock shows that it is there, that its owner may write, and that nobody holds it.
    -- No row is written in a block that catches errors, so none takes a transaction id.
    %1$sEND IF;%4$s
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
$text$, one, many, shape.id, look, notify, crieur.query_none('T'), crieur.query_none('S'), setting.row_bytes_max));
    PERFORM crieur.make('row_' || target.id, shape.types, crieur.query_row(target, shape, setting.row_bytes_max, look, notify));
    UPDATE crieur.target AS t SET made_of = crieur.made_of(t) WHERE t.id = target.id;
END
$function$;

-- A table as the triggers would capture it now. Columns that it no longer has are left out, and so are virtual ones: of
-- these a transition table holds NULL.
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
        AND a.attgenerated <> 'v' AND (described.columns IS NULL OR a.attname = ANY (described.columns))
    WHERE c.oid = described.relation
    GROUP BY c.oid, n.nspname
$function$;

-- What a trigger function was made of besides its shape, and by what: when this differs, it is out of date.
CREATE OR REPLACE FUNCTION crieur.made_of(target crieur.target) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT pg_catalog.concat_ws('/', crieur.version(), s.notify, s.rows_max, s.row_bytes_max, s.bytes_max,
        CASE WHEN target.ignore <> '{}' THEN crieur.described(target.relation, NULL)::text END, (
            SELECT pg_catalog.concat_ws('/', crieur.reader_setting('search_path'), crieur.reader_setting('lc_monetary'),
                crieur.reader_setting('quote_all_identifiers'))
            FROM crieur.shape AS p
            WHERE p.id = target.shape AND crieur.depends_on_readers(p.types)
        ), (
            SELECT pg_catalog.md5(pg_catalog.string_agg(f.prosrc, '' ORDER BY f.proname COLLATE "C"))
            FROM pg_catalog.pg_proc AS f
            WHERE f.pronamespace = 'crieur'::pg_catalog.regnamespace AND f.proname IN (
                'parts', 'depends_on_readers', 'written', 'output_settings', 'kept', 'side', 'image', 'image_of', 'known',
                'changed', 'query_asked', 'query_one', 'query_images', 'query_many', 'query_none', 'query_row', 'query_look',
                'make', 'generate'
            )
        ))
    FROM crieur.setting AS s
$function$;

-- A table and what else holds its rows: partitions, and tables that inherit from it. Foreign ones may be among them.
CREATE OR REPLACE FUNCTION crieur.carriers(relation oid) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE carrier (oid) AS (
        SELECT carriers.relation
        UNION
        SELECT i.inhrelid FROM carrier AS c JOIN pg_catalog.pg_inherits AS i ON i.inhparent = c.oid
    )
    SELECT k.oid::pg_catalog.regclass
    FROM carrier AS c JOIN pg_catalog.pg_class AS k ON k.oid = c.oid
    WHERE k.relkind IN ('r', 'p', 'f')
$function$;

-- The triggers that a target needs on the tables that hold its rows. A table may hold those of several targets: a child
-- of two parents, a child that is watched itself. So there, names tell whose they are. Triggers of statements do,
-- with two exceptions that take triggers of rows. A statement fires the triggers of the table that it names only: where
-- that may be a parent outside, updates and deletes would be missed. And the server refuses transition tables as soon
-- as a row of a foreign table is among them: the writer would fail.
CREATE OR REPLACE FUNCTION crieur.needed(relation oid, target integer)
RETURNS TABLE (carrier oid, name text, event text, level text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH RECURSIVE holder AS (
        SELECT c.oid, c.relkind, c.relispartition
        FROM crieur.carriers(needed.relation) AS k (relation) JOIN pg_catalog.pg_class AS c ON c.oid = k.relation
    ),
    above (oid, parent) AS (
        SELECT h.oid, i.inhparent FROM holder AS h JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = h.oid
        UNION
        SELECT a.oid, i.inhparent FROM above AS a JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = a.parent
    ),
    asked AS (
        SELECT h.oid, h.relkind, h.relispartition, e.event,
            CASE WHEN e.event <> 'TRUNCATE' AND (
                EXISTS (SELECT FROM holder AS f WHERE f.relkind = 'f')
                OR e.event <> 'INSERT' AND EXISTS (
                    SELECT FROM above AS a WHERE a.oid = h.oid AND a.parent NOT IN (SELECT o.oid FROM holder AS o)
                )
            ) THEN 'ROW' ELSE 'STATEMENT' END AS level
        FROM holder AS h CROSS JOIN pg_catalog.unnest('{INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) AS e (event)
    )
    SELECT a.oid, 'crieur_' || pg_catalog.lower(a.event)
            || CASE WHEN a.oid = needed.relation OR a.relispartition THEN '' ELSE '_' || needed.target END,
        a.event, a.level
    FROM asked AS a
    WHERE NOT (a.level = 'ROW' AND a.relkind = 'p')
        -- Triggers tell that a foreign table is truncated since version 16.
        AND NOT (a.event = 'TRUNCATE' AND a.relkind = 'f' AND pg_catalog.current_setting('server_version_num')::integer < 160000)
$function$;

-- The triggers of a target that are there and fire whatever session_replication_role says, as crieur.needed() names them.
CREATE OR REPLACE FUNCTION crieur.placed(target integer)
RETURNS TABLE (carrier oid, name text, event text, level text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    SELECT t.tgrelid, t.tgname::text,
        CASE t.tgtype & 60 WHEN 4 THEN 'INSERT' WHEN 8 THEN 'DELETE' WHEN 16 THEN 'UPDATE' WHEN 32 THEN 'TRUNCATE' END,
        CASE WHEN t.tgenabled <> 'A' THEN 'disabled' WHEN t.tgtype & 1 = 1 THEN 'ROW' ELSE 'STATEMENT' END
    FROM pg_catalog.pg_proc AS f
    JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = f.oid
    WHERE f.pronamespace = 'crieur'::pg_catalog.regnamespace AND NOT t.tgisinternal
        AND f.proname IN ('capture_' || placed.target, 'row_' || placed.target)
$function$;

-- The tables on which a target's triggers are not those that it needs.
CREATE OR REPLACE FUNCTION crieur.unfit(relation oid, target integer) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $function$
    WITH needed AS (SELECT n.* FROM crieur.needed(unfit.relation, unfit.target) AS n),
    placed AS (SELECT p.* FROM crieur.placed(unfit.target) AS p)
    SELECT d.carrier::pg_catalog.regclass
    FROM ((TABLE needed EXCEPT TABLE placed) UNION (TABLE placed EXCEPT TABLE needed)) AS d
    GROUP BY d.carrier
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
    SELECT ARRAY(SELECT f.relation FROM crieur.unfit(t.relation, t.id) AS f (relation)) AS uncovered
) AS u;

-- Of version 2.
DROP FUNCTION IF EXISTS crieur.attached(oid, integer);

-- Brings the triggers of a target to what it needs. ALWAYS: a restore or a replication tool that works with
-- session_replication_role = replica changes values like anybody else.
CREATE OR REPLACE FUNCTION crieur.attach(relation regclass, target integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT p.carrier::pg_catalog.regclass AS carrier, p.name FROM crieur.placed(target) AS p
        WHERE (p.carrier, p.name, p.event, p.level) NOT IN (SELECT n.* FROM crieur.needed(relation, target) AS n)
    LOOP
        EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', one.name, one.carrier);
    END LOOP;
    FOR one IN
        SELECT n.carrier::pg_catalog.regclass AS carrier, n.name, n.event, n.level
        FROM crieur.needed(relation, target) AS n
        WHERE (n.carrier, n.name, n.event, n.level) NOT IN (SELECT p.* FROM crieur.placed(target) AS p)
    LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = one.carrier AND t.tgname = one.name) THEN
            EXECUTE pg_catalog.format('DROP TRIGGER %I ON %s', one.name, one.carrier);
        END IF;
        BEGIN
            EXECUTE pg_catalog.format('CREATE TRIGGER %I AFTER %s ON %s%s FOR EACH %s EXECUTE FUNCTION crieur.%I()',
                one.name, one.event, one.carrier, CASE WHEN one.level = 'STATEMENT' THEN CASE one.event
                    WHEN 'INSERT' THEN ' REFERENCING NEW TABLE AS new_rows'
                    WHEN 'UPDATE' THEN ' REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows'
                    WHEN 'DELETE' THEN ' REFERENCING OLD TABLE AS old_rows'
                    ELSE ''
                END ELSE '' END, one.level, CASE one.level WHEN 'ROW' THEN 'row_' ELSE 'capture_' END || target);
            EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', one.carrier, one.name);
        EXCEPTION WHEN insufficient_privilege THEN
            -- A foreign partition of somebody else's: it stays uncovered, which is told. That the other tables keep
            -- triggers of statements because of it would make its writers fail.
            IF (SELECT c.relkind FROM pg_catalog.pg_class AS c WHERE c.oid = one.carrier) <> 'f' THEN
                RAISE;
            END IF;
            RAISE WARNING '% has no trigger %: %', one.carrier, one.name, sqlerrm;
        END;
    END LOOP;
END
$function$;

-- The server refuses rows of foreign tables to triggers that see the rows of a statement (ExecARInsertTriggers and its
-- like in src/backend/commands/trigger.c), before any function of ours runs. So a foreign partition or child that comes to
-- a watched table changes the triggers in the transaction that it comes with. What cannot be changed at once is a warning,
-- and crieur.refresh() does it later.
CREATE OR REPLACE FUNCTION crieur.mend_foreign() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
DECLARE
    target crieur.target;
BEGIN
    -- What it does to triggers is DDL as well.
    IF pg_catalog.current_setting('crieur.mending', true) = 'on'
        OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_foreign_table AS f JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = f.ftrelid
        )
    THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('crieur.mending', 'on', true);
    FOR target IN
        SELECT t.* FROM crieur.target AS t
        WHERE EXISTS (
            SELECT FROM crieur.carriers(t.relation) AS k (relation)
            JOIN pg_catalog.pg_foreign_table AS f ON f.ftrelid = k.relation
        ) AND EXISTS (
            SELECT FROM crieur.placed(t.id) AS p WHERE p.level = 'STATEMENT' AND p.event <> 'TRUNCATE'
        )
    LOOP
        BEGIN
            PERFORM crieur.attach(target.relation, target.id);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'writes to foreign tables of % fail until crieur.refresh(): %', target.relation, sqlerrm;
        END;
    END LOOP;
    PERFORM pg_catalog.set_config('crieur.mending', '', true);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'writes to foreign tables may fail until crieur.refresh(): %', sqlerrm;
END
$function$;

-- Where this role may. Restores and replication tools make tables, too, with session_replication_role = replica.
DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger AS e WHERE e.evtname = 'crieur_foreign') THEN
        CREATE EVENT TRIGGER crieur_foreign ON ddl_command_end
            WHEN tag IN ('CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA', 'ALTER TABLE')
            EXECUTE FUNCTION crieur.mend_foreign();
        ALTER EVENT TRIGGER crieur_foreign ENABLE ALWAYS;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL; -- The daemon calls crieur.refresh() within seconds.
END
$do$;

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
    IF EXISTS (
        SELECT FROM crieur.carriers("table") AS k (relation) JOIN pg_catalog.pg_class AS c ON c.oid = k.relation
        WHERE c.relkind = 'f'
    ) THEN
        RAISE WARNING 'rows of % are in foreign tables', "table"
            USING DETAIL = 'What is changed there, and not through this server, will not be seen.';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_subscription_rel AS s WHERE s.srrelid = "table") THEN
        RAISE WARNING '% is replicated from elsewhere', "table"
            USING DETAIL = 'What a subscription applies fires no statement trigger: those changes will not be seen.';
    END IF;
END
$function$;

-- Makes the trigger functions of a table that is to be watched, or to be watched otherwise than before. It takes no lock on
-- the table: triggers that are there run the new functions at once. Gives the number of the target.
CREATE OR REPLACE FUNCTION crieur.follow("table" regclass, columns text[], ignore text[]) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
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
    RETURN target.id;
END
$function$;

-- Watches a table, or watches it otherwise than before. "columns" are those that keys are made of (none given: all),
-- "ignore" those whose change alone is none. For the owner of the table and of this schema.
CREATE OR REPLACE FUNCTION crieur.watch("table" regclass, columns text[] DEFAULT NULL, ignore text[] DEFAULT '{}')
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM crieur.attach("table", crieur.follow("table", columns, ignore));
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
        EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS crieur.%I(), crieur.%I() CASCADE', 'capture_' || removed,
            'row_' || removed);
    END IF;
END
$function$;

-- Brings the triggers to what the tables are now: new partitions, other types, other names, another version of this
-- script. With the rights of whoever installed it, so that the daemon may call it. The functions come first, for all
-- tables: no table is locked for them, so nobody who holds one can keep the functions of an older version at work. Then
-- the triggers. Writers queue behind a lock that waits, and behind those that it has: so it waits for none for long, and
-- the first table that cannot be helped is the last of this round. The order is another in each. What cannot be helped is
-- a warning, and stays as it was.
CREATE OR REPLACE FUNCTION crieur.refresh() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $function$
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
            PERFORM crieur.follow(target.relation, target.columns, ARRAY(
                SELECT i.name FROM pg_catalog.unnest(target.ignore) AS i (name)
                WHERE i.name = ANY ((crieur.described(target.relation, NULL)).columns)
            ));
        EXCEPTION
            WHEN lock_not_available THEN
                RAISE WARNING '% stays as it was: %', target.relation, sqlerrm;
                RETURN;
            WHEN OTHERS THEN
                RAISE WARNING '% stays as it was: %', target.relation, sqlerrm;
        END;
    END LOOP;
    FOR target IN
        SELECT t.* FROM crieur.target AS t JOIN crieur.watched AS w ON w.relation = t.relation WHERE w.uncovered <> '{}'
        ORDER BY pg_catalog.gen_random_uuid()
    LOOP
        BEGIN
            PERFORM crieur.attach(target.relation, target.id);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING '% stays as it was: %', target.relation, sqlerrm;
            EXIT;
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

-- Gives the disk back when the outbox is empty and its file is large, unless somebody writes just now. Says whether. And an
-- outbox that an older version made compresses its rows until here.
CREATE OR REPLACE FUNCTION crieur.shrink() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $function$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'crieur.shrink() must see what has just been committed: call it in read committed';
    END IF;
    IF EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = 'crieur.outbox'::pg_catalog.regclass AND a.attname IN ('old', 'new') AND a.attstorage <> 'e'
    ) THEN
        ALTER TABLE crieur.outbox ALTER old SET STORAGE EXTERNAL, ALTER new SET STORAGE EXTERNAL;
        -- The lock is not kept for more.
        RETURN false;
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
            || 'crieur.carriers(oid), crieur.needed(oid, integer), crieur.placed(integer), crieur.unfit(oid, integer), '
            || 'crieur.parts(oid[]), crieur.depends_on_readers(oid[]), crieur.reader_setting(text), '
            || 'crieur.refuses(), crieur.refresh(), crieur.close_collapsed(), crieur.shrink()',
        'SELECT ON SEQUENCE crieur.missed'
    ] LOOP
        EXECUTE pg_catalog.format('GRANT %s TO %I', granted, role);
    END LOOP;
END
$function$;

-- Whoever may use the schema, for sql/invalidate.sql say, may call none of these.
REVOKE ALL ON FUNCTION
    crieur.version, crieur.parts, crieur.depends_on_readers, crieur.reader_setting, crieur.as_readers, crieur.written,
    crieur.output_settings, crieur.kept, crieur.side, crieur.image, crieur.image_of, crieur.known, crieur.changed,
    crieur.query_asked, crieur.query_one, crieur.query_images, crieur.query_many, crieur.query_none, crieur.query_row,
    crieur.query_look, crieur.make, crieur.overflow, crieur.looked, crieur.full, crieur.cannot, crieur.refuses,
    crieur.generate, crieur.described, crieur.made_of, crieur.carriers, crieur.needed, crieur.placed, crieur.unfit,
    crieur.attach, crieur.mend_foreign, crieur.refuse, crieur.follow, crieur.watch, crieur.unwatch, crieur.refresh,
    crieur.notify, crieur.limits, crieur.close_collapsed, crieur.shrink, crieur.grant_worker
FROM PUBLIC;

-- Whoever worked with an older version may work with this one.
SELECT crieur.grant_worker(r.rolname)
FROM pg_catalog.pg_proc AS f
CROSS JOIN LATERAL pg_catalog.aclexplode(f.proacl) AS a
JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee
WHERE f.oid = 'crieur.refresh()'::pg_catalog.regprocedure AND a.grantee <> f.proowner;

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
