-- Updates that move keys under each replica identity: what the old row does not carry widens.
CREATE TABLE by_default (id int PRIMARY KEY, slug text NOT NULL, note text);
CREATE TABLE by_index (id int PRIMARY KEY, slug text NOT NULL, note text);
CREATE UNIQUE INDEX by_index_identity ON by_index (id, slug);
CREATE TABLE by_full (id int PRIMARY KEY, slug text, note text);
CREATE TABLE by_nothing (id int PRIMARY KEY, slug text, note text);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_identity;
ALTER TABLE by_full REPLICA IDENTITY FULL;
ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
CREATE PUBLICATION crieur FOR TABLE by_default, by_index, by_full, by_nothing;
-- record
INSERT INTO by_default VALUES (1, 'a', 'x'), (2, 'b', NULL);
UPDATE by_default SET slug = 'a2' WHERE id = 1;
UPDATE by_default SET note = 'y' WHERE id = 1;
UPDATE by_default SET id = 3, slug = 'c' WHERE id = 1;
DELETE FROM by_default WHERE id = 2;
INSERT INTO by_index VALUES (1, 'a', 'x'), (2, 'b', NULL);
UPDATE by_index SET slug = 'a2' WHERE id = 1;
UPDATE by_index SET note = 'y' WHERE id = 1;
UPDATE by_index SET id = 3 WHERE id = 1;
DELETE FROM by_index WHERE id = 2;
INSERT INTO by_full VALUES (1, 'a', 'x'), (2, NULL, NULL);
UPDATE by_full SET slug = 'a2' WHERE id = 1;
UPDATE by_full SET note = 'y' WHERE id = 1;
UPDATE by_full SET slug = 'b' WHERE id = 2;
DELETE FROM by_full WHERE id = 2;
INSERT INTO by_nothing VALUES (1, 'a', 'x');
-- The description changes: a column more, a column less, another name.
ALTER TABLE by_full ADD COLUMN more int DEFAULT 7;
UPDATE by_full SET slug = 'a3' WHERE id = 1;
ALTER TABLE by_full DROP COLUMN note;
UPDATE by_full SET slug = 'a4' WHERE id = 1;
ALTER TABLE by_full RENAME COLUMN slug TO path;
UPDATE by_full SET path = 'a5' WHERE id = 1;
