-- A TOASTed value that an update leaves alone is not sent, unless the old row carries it.
CREATE TABLE by_default (id int PRIMARY KEY, tag text, note text);
CREATE TABLE by_full (id int PRIMARY KEY, tag text, note text);
ALTER TABLE by_default ALTER COLUMN tag SET STORAGE EXTERNAL;
ALTER TABLE by_full ALTER COLUMN tag SET STORAGE EXTERNAL;
ALTER TABLE by_full REPLICA IDENTITY FULL;
CREATE PUBLICATION crieur FOR TABLE by_default, by_full;
-- record
INSERT INTO by_default VALUES (1, repeat('d', 2100), 'x');
UPDATE by_default SET note = 'y' WHERE id = 1;
UPDATE by_default SET tag = 'short' WHERE id = 1;
INSERT INTO by_full VALUES (1, repeat('f', 2100), 'x');
UPDATE by_full SET note = 'y' WHERE id = 1;
UPDATE by_full SET tag = 'short' WHERE id = 1;
DELETE FROM by_full WHERE id = 1;
