-- The invalidation table of Dousell Immo: properties, and payments with a lookup of their owner.
CREATE TABLE properties (id int PRIMARY KEY, owner_id int NOT NULL, city text, price numeric(12, 2), listed bool);
CREATE TABLE leases (id int PRIMARY KEY, property_id int NOT NULL REFERENCES properties ON DELETE CASCADE);
CREATE TABLE rental_payments (id int PRIMARY KEY, lease_id int NOT NULL REFERENCES leases ON DELETE CASCADE, paid text);
ALTER TABLE properties REPLICA IDENTITY FULL;
ALTER TABLE rental_payments REPLICA IDENTITY FULL;
CREATE PUBLICATION crieur FOR TABLE properties, rental_payments;
-- record
INSERT INTO properties VALUES (1, 71, 'Dakar', 250000.00, true), (2, 72, 'Thiès', 1.50, false), (3, 73, NULL, NULL, NULL);
UPDATE properties SET city = 'Saint-Louis', price = 90000.10 WHERE id = 1;
UPDATE properties SET price = price + 1 WHERE id = 2;
-- A lease and its first payment in one transaction: the lookup must see both.
BEGIN;
INSERT INTO leases VALUES (10, 1), (11, 2);
INSERT INTO rental_payments VALUES (100, 10, 'May');
COMMIT;
INSERT INTO rental_payments VALUES (101, 11, 'June'), (102, 10, 'June');
-- wait
UPDATE rental_payments SET lease_id = 11 WHERE id = 102;
UPDATE rental_payments SET paid = 'late' WHERE id = 100;
DELETE FROM rental_payments WHERE id = 101;
-- The parents go first: their lookups find nothing.
-- wait
DELETE FROM properties WHERE id = 1;
DELETE FROM properties WHERE id = 3;
