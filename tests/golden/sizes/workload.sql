-- One row, and a thousand rows, in one transaction each.
CREATE TABLE t (id int PRIMARY KEY);
CREATE PUBLICATION crieur FOR TABLE t;
-- record
INSERT INTO t VALUES (0);
INSERT INTO t SELECT generate_series(1, 1000);
