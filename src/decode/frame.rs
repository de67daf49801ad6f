//! CopyData payloads of a replication stream: XLogData and keepalives.
