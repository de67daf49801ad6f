-- Transactions that outgrow logical_decoding_work_mem are streamed while they are open. Where the server begins with
-- it is its own business, so what is rolled back has one key of its own and not many.
-- The database has the folder's name.
ALTER DATABASE streamed SET logical_decoding_work_mem = '64kB';
CREATE TABLE t (id int PRIMARY KEY, tag text);
CREATE TYPE mood AS ENUM ('fine');
CREATE TABLE u (id int PRIMARY KEY, tag text, mood mood);
CREATE PUBLICATION crieur FOR TABLE t, u;
-- record
BEGIN;
INSERT INTO t SELECT n, n % 7 FROM generate_series(1, 560) AS n;
-- wait
INSERT INTO u VALUES (1, 'late', 'fine');
COMMIT;
BEGIN;
INSERT INTO t SELECT n, 'aborted' FROM generate_series(1001, 1560) AS n;
-- wait
ROLLBACK;
BEGIN;
INSERT INTO u VALUES (2, 'kept', 'fine');
SAVEPOINT s;
INSERT INTO t SELECT n, 'rolled back' FROM generate_series(2001, 2560) AS n;
-- wait
ROLLBACK TO s;
INSERT INTO u VALUES (3, 'kept too', NULL);
TRUNCATE u;
-- wait
COMMIT;
INSERT INTO t VALUES (1, 'after') ON CONFLICT (id) DO UPDATE SET tag = 'after';
