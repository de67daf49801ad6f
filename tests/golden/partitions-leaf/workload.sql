-- Partitions, published as themselves: rules name the topmost table either way.
CREATE TABLE event (id int, day int, city text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
CREATE TABLE event_2 PARTITION OF event FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (day);
CREATE TABLE event_2a PARTITION OF event_2 FOR VALUES FROM (10) TO (15);
CREATE TABLE event_2b (city text, dropped int, day int NOT NULL, id int NOT NULL);
ALTER TABLE event_2b DROP COLUMN dropped;
ALTER TABLE event_2 ATTACH PARTITION event_2b FOR VALUES FROM (15) TO (20);
ALTER TABLE event REPLICA IDENTITY FULL;
ALTER TABLE event_1 REPLICA IDENTITY FULL;
ALTER TABLE event_2a REPLICA IDENTITY FULL;
ALTER TABLE event_2b REPLICA IDENTITY FULL;
CREATE PUBLICATION crieur FOR TABLE event WITH (publish_via_partition_root = false);
-- record
INSERT INTO event VALUES (1, 1, 'Dakar'), (2, 11, 'Mbour'), (3, 16, 'Touba');
UPDATE event SET city = 'Kaolack' WHERE id = 1;
-- The row moves to another partition.
UPDATE event SET day = 17 WHERE id = 1;
DELETE FROM event WHERE id = 2;
TRUNCATE event_2;
TRUNCATE event;
