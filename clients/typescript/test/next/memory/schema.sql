CREATE TABLE lignes (name text PRIMARY KEY, version int NOT NULL);
