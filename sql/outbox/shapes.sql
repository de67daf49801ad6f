-- Shapes by their numbers ($1): what triggers captured of which table.
SELECT s.id, s.relation, s.schema, s.name, s.columns, s.types
FROM crieur.shape AS s
WHERE s.id = ANY ($1::integer[])
