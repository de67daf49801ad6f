-- Values are data, whatever they look like; so are names.
CREATE SCHEMA "Odd ""schema""";
CREATE DOMAIN "Odd ""schema""".short AS text;
CREATE TABLE "Odd ""schema"""."tâble *" (id int PRIMARY KEY, "column" "Odd ""schema""".short, raw bytea);
CREATE TABLE t (id int PRIMARY KEY, "Case" text, tags text[], at timestamptz, much float8);
CREATE PUBLICATION crieur FOR TABLE t, "Odd ""schema"""."tâble *";
-- record
INSERT INTO t VALUES (1, 'a*b?c[d]e\f', '{a,"b c"}', '2026-01-02 03:04:05+00', 0.1);
INSERT INTO t VALUES (2, E'new\nline\ttab', '{}', 'infinity', 'NaN');
INSERT INTO t VALUES (3, 'Thiès 😀', NULL, '-infinity', 1e300);
INSERT INTO t VALUES (4, '', '{NULL}', NULL, -0.0);
INSERT INTO t VALUES (5, ' "quoted" ', NULL, NULL, NULL);
INSERT INTO t VALUES (6, '{id}', NULL, NULL, NULL);
INSERT INTO "Odd ""schema"""."tâble *" VALUES (1, 'domain', '\x00ff');
