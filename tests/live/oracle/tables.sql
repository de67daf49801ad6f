-- A small Dousell Immo, and what readers would cache of it. The oracle knows no rules: a key is affected by a
-- transaction when its value is another one afterwards.
CREATE TYPE state AS ENUM ('free', 'taken', 'draft');
CREATE TABLE owner (id int PRIMARY KEY, name text, team text, prefs jsonb);
CREATE TABLE property (
    id int PRIMARY KEY, owner_id int REFERENCES owner ON UPDATE CASCADE ON DELETE CASCADE, status state, price numeric,
    location jsonb, view_count int NOT NULL DEFAULT 0, updated_at timestamptz
);
CREATE TABLE lease (
    id int PRIMARY KEY, property_id int REFERENCES property ON UPDATE CASCADE ON DELETE CASCADE, tenant text
);
CREATE TABLE payment (
    id serial PRIMARY KEY, lease_id int REFERENCES lease ON UPDATE CASCADE ON DELETE CASCADE, amount numeric(10, 2),
    paid_at timestamptz, meta jsonb
);
ALTER TABLE owner REPLICA IDENTITY FULL;
ALTER TABLE property REPLICA IDENTITY FULL;
ALTER TABLE lease REPLICA IDENTITY FULL;
ALTER TABLE payment REPLICA IDENTITY FULL;
INSERT INTO owner SELECT i, 'n' || i, 'a*' FROM generate_series(1, 8) i;
INSERT INTO property SELECT i, 1 + i % 8, 'free', i, '{"city": "Dakar", "tags": ["sea"]}' FROM generate_series(1, 20) i;
INSERT INTO lease SELECT i, i, 't' FROM generate_series(1, 20) i;
INSERT INTO payment (lease_id, amount, paid_at) SELECT i, 1.5, '2024-05-05 00:00:00+00' FROM generate_series(1, 20) i;

CREATE SCHEMA oracle;
CREATE VIEW oracle.cached (key, value) AS
SELECT 'detail:' || n || suffix, (
    SELECT concat_ws('|', p.id, p.owner_id, p.status, p.price, p.location, o.name)
    FROM property p LEFT JOIN owner o ON o.id = p.owner_id WHERE p.id = n
) FROM generate_series(1, 30) n, unnest(ARRAY['', ':meta']) suffix
UNION ALL
SELECT 'city:' || city, (
    SELECT string_agg(concat_ws('|', id, price), ',' ORDER BY id) FROM property
    WHERE status = 'free' AND coalesce(lower(location ->> 'city'), 'none') = city
) FROM unnest(ARRAY['dakar', 'thiès', 'mbour *', 'sal[y]', 'c:\x', 'none']) city
UNION ALL
SELECT 'search:' || city || ':' || least, (
    SELECT count(*)::text FROM property
    WHERE status = 'free' AND coalesce(lower(location ->> 'city'), 'none') = city AND price >= least
) FROM unnest(ARRAY['dakar', 'thiès', 'mbour *', 'sal[y]', 'c:\x', 'none']) city, unnest(ARRAY[0, 40, 80]) least
UNION ALL
SELECT 'page:' || n, (
    SELECT string_agg(concat_ws('|', id, price), ',' ORDER BY id DESC)
    FROM (SELECT id, price FROM property WHERE status = 'free' ORDER BY id DESC LIMIT n) top
) FROM unnest(ARRAY[4, 8]) n
UNION ALL
SELECT 'tag:' || tag, (SELECT string_agg(id::text, ',' ORDER BY id) FROM property WHERE location -> 'tags' ->> 0 = tag)
FROM unnest(ARRAY['sea', '1.5', 'true', '']) tag
UNION ALL
SELECT 'dashboard:' || n, (
    SELECT concat_ws('|',
        (SELECT count(*) FROM property WHERE owner_id = n AND status = 'free'),
        (SELECT sum(amount) FROM payment JOIN lease ON lease.id = lease_id JOIN property ON property.id = property_id
         WHERE owner_id = n))
) FROM generate_series(1, 8) n
UNION ALL
SELECT 'team:' || team, (SELECT string_agg(name, ',' ORDER BY id) FROM owner WHERE owner.team = t.team)
FROM unnest(ARRAY['a*', 'b?', '', 'é']) t (team)
UNION ALL
SELECT 'stats:' || y || ':' || m, (
    SELECT concat_ws('|', count(*), sum(amount)) FROM payment
    WHERE extract(year FROM paid_at AT TIME ZONE 'UTC') = y AND extract(month FROM paid_at AT TIME ZONE 'UTC') = m
) FROM generate_series(2024, 2025) y, generate_series(1, 12) m
UNION ALL
SELECT 'amount:' || trim_scale(cents / 100.0), (SELECT count(*)::text FROM payment WHERE amount = cents / 100.0)
FROM unnest(ARRAY[100, 150, 1000, 25000, 5]) cents
UNION ALL
SELECT 'kind:' || kind || ':' || n, (
    SELECT string_agg(payment.id::text, ',' ORDER BY payment.id) FROM payment
    JOIN lease ON lease.id = lease_id JOIN property ON property.id = property_id
    WHERE owner_id = n AND coalesce(meta ->> 'kind', 'none') = kind
) FROM unnest(ARRAY['cash', 'none']) kind, generate_series(1, 8) n;

CREATE TABLE oracle.before AS TABLE oracle.cached;
CREATE TABLE oracle.affected (key text PRIMARY KEY);
-- Notes what the transactions since the last call affected.
CREATE FUNCTION oracle.note() RETURNS void LANGUAGE sql AS $$
    WITH now AS MATERIALIZED (SELECT key, value FROM oracle.cached),
    differing AS (
        SELECT key, now.value FROM now JOIN oracle.before USING (key) WHERE now.value IS DISTINCT FROM before.value
    ),
    noted AS (INSERT INTO oracle.affected SELECT key FROM differing ON CONFLICT DO NOTHING)
    UPDATE oracle.before SET value = differing.value FROM differing WHERE before.key = differing.key
$$;
