-- TRUNCATE of one table, of several, and of one that takes others with it.
CREATE TABLE a (id int PRIMARY KEY);
CREATE TABLE b (id int PRIMARY KEY);
CREATE TABLE c (id int PRIMARY KEY REFERENCES b);
CREATE TABLE unpublished (id int PRIMARY KEY REFERENCES b);
CREATE TABLE without_rules (id int PRIMARY KEY);
CREATE PUBLICATION crieur FOR TABLE a, b, c, without_rules;
-- record
TRUNCATE a;
TRUNCATE a, without_rules, c;
TRUNCATE b RESTART IDENTITY CASCADE;
BEGIN;
INSERT INTO a VALUES (1);
TRUNCATE a, b, c, unpublished;
INSERT INTO b VALUES (2);
COMMIT;
TRUNCATE unpublished;
TRUNCATE without_rules;
