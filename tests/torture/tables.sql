-- The schema of the torture test: a row per item, a join over two tables, a document with a TOASTed body, a bulk table.
CREATE SCHEMA torture;
CREATE TABLE torture.items (id int PRIMARY KEY, owner int NOT NULL, city int NOT NULL, version bigint NOT NULL);
CREATE TABLE torture.leases (id int PRIMARY KEY, item int NOT NULL);
CREATE TABLE torture.payments (id int PRIMARY KEY, lease int NOT NULL, amount bigint NOT NULL);
CREATE INDEX ON torture.payments (lease);
CREATE TABLE torture.docs (id int PRIMARY KEY, version bigint NOT NULL, body jsonb NOT NULL);
CREATE TABLE torture.events (id bigserial PRIMARY KEY, bucket int NOT NULL, version bigint NOT NULL);
CREATE INDEX ON torture.events (bucket);
-- Not published: a commit here only moves the position.
CREATE TABLE torture.fence (n int);
ALTER TABLE torture.docs ALTER body SET STORAGE EXTERNAL;

INSERT INTO torture.items SELECT i, i % 12, i % 8, 0 FROM generate_series(0, 199) AS i;
INSERT INTO torture.leases SELECT i, i * 2 FROM generate_series(0, 99) AS i;
INSERT INTO torture.payments SELECT i, i % 100, i FROM generate_series(0, 299) AS i;
INSERT INTO torture.docs
    SELECT i, 0, jsonb_build_object('tags', jsonb_build_array((i % 10)::text, (i % 7)::text), 'pad', repeat(i::text, 3000))
    FROM generate_series(0, 59) AS i;
INSERT INTO torture.events (bucket, version) SELECT i % 30, 0 FROM generate_series(1, 3000) AS i;
