//! The real source: pgoutput over START_REPLICATION.
