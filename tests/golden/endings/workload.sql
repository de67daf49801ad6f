-- Transactions that end in every way: what was rolled back deletes nothing.
CREATE TABLE t (id int PRIMARY KEY);
CREATE PUBLICATION crieur FOR TABLE t;
-- record
BEGIN;
INSERT INTO t VALUES (1);
ROLLBACK;
BEGIN;
INSERT INTO t VALUES (2);
SAVEPOINT s;
INSERT INTO t VALUES (3);
ROLLBACK TO s;
INSERT INTO t VALUES (4);
SAVEPOINT s2;
INSERT INTO t VALUES (5);
RELEASE s2;
COMMIT;
BEGIN;
INSERT INTO t VALUES (6);
PREPARE TRANSACTION 'committed later';
BEGIN;
INSERT INTO t VALUES (7);
PREPARE TRANSACTION 'rolled back later';
INSERT INTO t VALUES (8);
COMMIT PREPARED 'committed later';
ROLLBACK PREPARED 'rolled back later';
-- A row that comes and goes in one transaction; an empty one.
BEGIN;
INSERT INTO t VALUES (9);
DELETE FROM t WHERE id = 9;
COMMIT;
BEGIN;
COMMIT;
SELECT pg_logical_emit_message(false, 'somebody', 'else');
-- A transaction that was replicated here from elsewhere.
SELECT pg_replication_origin_create('elsewhere');
SELECT pg_replication_origin_session_setup('elsewhere');
INSERT INTO t VALUES (10);
SELECT pg_replication_origin_session_reset();
