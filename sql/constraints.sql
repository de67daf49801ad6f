-- What the CHECK constraints of one column, and of its domain, allow: for each of them that says it of this column alone,
-- in the server's own functions whose value depends on nothing else. What holds for other rows (NOT VALID, NO INHERIT),
-- calls a function of somebody, or compares by a collation that makes different texts equal, is left out.
-- By hand: psql -XAt -v schema=public -v table=t -v column=c -f sql/constraints.sql
WITH RECURSIVE columned AS (
    SELECT a.attrelid, a.attnum, a.atttypid, a.atttypmod, a.attname, a.attcollation
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = :'schema' AND c.relname = :'table' AND a.attname = :'column'
        AND a.attnum > 0 AND NOT a.attisdropped
),
-- The column's type, and the types beneath where it is a domain.
chain (oid, typmod) AS (
    SELECT c.atttypid, c.atttypmod FROM columned AS c
    UNION ALL
    SELECT t.typbasetype, t.typtypmod FROM chain AS c JOIN pg_type AS t ON t.oid = c.oid WHERE t.typtype = 'd'
),
-- Types of which equal values look the same to every function: not numeric (1.0 = 1), not a type of somebody.
base AS (
    SELECT format_type(c.oid, c.typmod) AS name
    FROM chain AS c JOIN pg_type AS t ON t.oid = c.oid
    WHERE t.typtype = 'e' OR t.oid = ANY (ARRAY['text', 'varchar', 'bpchar', 'int2', 'int4', 'int8', 'bool', 'uuid']::regtype[])
),
found AS (
    SELECT k.oid, k.conname, k.conbin, k.conrelid, c.attname, c.attcollation AS collated
    FROM columned AS c JOIN pg_constraint AS k ON k.conrelid = c.attrelid
    WHERE k.contype = 'c' AND k.conkey = ARRAY[c.attnum] AND k.convalidated AND NOT k.connoinherit
    UNION ALL
    SELECT k.oid, k.conname, k.conbin, 0, 'value', t.typcollation
    FROM chain AS c JOIN pg_type AS t ON t.oid = c.oid JOIN pg_constraint AS k ON k.contypid = c.oid
    WHERE k.contype = 'c' AND k.convalidated
)
SELECT jsonb_build_object(
    'name', f.conname,
    'definition', pg_get_constraintdef(f.oid),
    'test', pg_get_expr(f.conbin, f.conrelid),
    'column', f.attname,
    'kind', b.name,
    'collation', (
        SELECT format('%I.%I', n.nspname, l.collname)
        FROM pg_collation AS l JOIN pg_namespace AS n ON n.oid = l.collnamespace WHERE l.oid = f.collated
    )
)::text
FROM found AS f CROSS JOIN base AS b
WHERE NOT EXISTS (SELECT FROM pg_collation AS l WHERE l.oid = f.collated AND NOT l.collisdeterministic)
    AND NOT EXISTS (
        SELECT FROM regexp_matches(f.conbin::text, '\{([A-Z]+)', 'g') AS node (name)
        WHERE node.name[1] <> ALL (ARRAY['VAR', 'CONST', 'OPEXPR', 'SCALARARRAYOPEXPR', 'ARRAY', 'ARRAYEXPR', 'BOOLEXPR',
            'RELABELTYPE', 'FUNCEXPR', 'NULLTEST', 'BOOLEANTEST', 'CASETESTEXPR', 'ARRAYCOERCEEXPR', 'COERCETODOMAINVALUE'])
    )
    AND NOT EXISTS (
        SELECT FROM regexp_matches(f.conbin::text, ':(?:func|opfunc)id ([0-9]+)', 'g') AS called (oid)
        LEFT JOIN pg_proc AS p ON p.oid = called.oid[1]::oid
        WHERE p.oid IS NULL OR p.oid >= 16384 OR p.provolatile <> 'i'
    )
ORDER BY f.conname;
