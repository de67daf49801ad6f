CREATE TABLE lignes (name text PRIMARY KEY, version int NOT NULL, tag text NOT NULL);
ALTER TABLE lignes REPLICA IDENTITY FULL;
