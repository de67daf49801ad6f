-- Shapes by their numbers ($1): what triggers captured of which table. A domain's type is what it is made of.
WITH RECURSIVE part (id, place, oid) AS (
    SELECT s.id, k.place, k.oid
    FROM crieur.shape AS s CROSS JOIN LATERAL unnest(s.types) WITH ORDINALITY AS k (oid, place)
    WHERE s.id = ANY ($1::integer[])
    UNION ALL
    SELECT p.id, p.place, t.typbasetype
    FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.oid
    WHERE t.typtype = 'd'
)
SELECT s.id, s.relation, s.schema, s.name, s.columns, ARRAY(
    SELECT p.oid FROM part AS p
    WHERE p.id = s.id AND NOT EXISTS (SELECT FROM pg_catalog.pg_type AS t WHERE t.oid = p.oid AND t.typtype = 'd')
    ORDER BY p.place
)
FROM crieur.shape AS s
WHERE s.id = ANY ($1::integer[])
