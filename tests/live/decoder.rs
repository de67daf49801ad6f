//! Messages that our own stream never asks for, from real servers: two-phase transactions (protocol 3) and the longer
//! Stream Abort of parallel streaming (protocol 4). The recordings of `tests/golden` hold all others.

use std::collections::BTreeMap;

use crieur::decode::{Assembler, Block, Message, decode};
use crieur::error::{Error, Exit};
use crieur::postgres::dsn::Dsn;
use crieur::source::Source;
use crieur::source::replication::{self, Replication};
use tokio_postgres::Client;

use super::harness::postgres::{Options, Postgres, Version};
use super::harness::wait::PATIENCE;

const SETUP: [&str; 2] = [
    "CREATE TABLE t (id int); CREATE PUBLICATION crieur FOR TABLE t",
    "SELECT pg_create_logical_replication_slot('two_phase', 'pgoutput', false, true)",
];

/// Statements between two reads of the slot: what was rolled back before anybody decoded it is not sent.
const WORKLOAD: [&[&str]; 4] = [
    &["BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'a'", "COMMIT PREPARED 'a'"],
    &["BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'b'"],
    &[
        "ROLLBACK PREPARED 'b'",
        "BEGIN; INSERT INTO t SELECT generate_series(1, 2000); PREPARE TRANSACTION 'c'",
        "COMMIT PREPARED 'c'",
        "BEGIN; INSERT INTO t SELECT generate_series(1, 2000); SAVEPOINT s; INSERT INTO t SELECT generate_series(1, 2000);
         ROLLBACK TO s; INSERT INTO t SELECT generate_series(1, 2000); COMMIT",
    ],
    &["SELECT pg_replication_origin_create('elsewhere')", "SELECT pg_replication_origin_session_setup('elsewhere')",
      "INSERT INTO t VALUES (3)"],
];

async fn payloads(client: &Client, options: &str) -> Vec<Vec<u8>> {
    let sql = format!(
        "SELECT data FROM pg_logical_slot_get_binary_changes('two_phase', NULL, NULL, \
         'publication_names', 'crieur', 'messages', 'on', {options})"
    );
    let rows = client.query(&sql, &[]).await.expect("the slot is there");
    rows.iter().map(|row| row.get(0)).collect()
}

/// How often each kind of message came.
fn tags(payloads: &[Vec<u8>]) -> BTreeMap<char, usize> {
    let mut tags = BTreeMap::new();
    let mut block = Block::Outside;
    for payload in payloads {
        let message = decode(payload, block).unwrap_or_else(|error| panic!("{error}: {payload:?}"));
        block = match message {
            Message::StreamStart { .. } => Block::Stream,
            Message::StreamStop => Block::Outside,
            _ => block,
        };
        if let Message::BeginPrepare(prepared) | Message::CommitPrepared(prepared) = message {
            assert!([&b"a"[..], b"b", b"c"].contains(&prepared.gid) && prepared.end_lsn > prepared.lsn);
        }
        *tags.entry(char::from(payload[0])).or_insert(0) += 1;
    }
    tags
}

#[tokio::test]
async fn two_phase_and_parallel_streams_of_every_server_decode_and_stop_the_assembler() {
    let newest = "'proto_version', '4', 'streaming', 'parallel', 'two_phase', 'on'";
    let oldest = "'proto_version', '3', 'streaming', 'on', 'two_phase', 'on'";
    for (version, options) in [(Version::System, oldest), (Version::V17, newest), (Version::V18, newest)] {
        let conf = ["logical_decoding_work_mem = '64kB'", "max_prepared_transactions = 5"].map(str::to_owned).to_vec();
        let server = Postgres::start(Options { version, conf, ..Default::default() });
        let client = server.client().await;
        for statement in SETUP {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        let mut all = Vec::new();
        for statements in WORKLOAD {
            for statement in statements {
                client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            }
            all.extend(payloads(&client, options).await);
        }
        let tags = tags(&all);
        for (tag, least) in [('b', 2), ('P', 2), ('K', 2), ('r', 1), ('p', 1), ('c', 1), ('A', 1), ('O', 1), ('B', 1)] {
            assert!(tags.get(&tag).is_some_and(|count| *count >= least), "{version:?}: {tag} in {tags:?}");
        }
        let mut assembler = Assembler::default();
        let stopped = all.iter().find_map(|payload| assembler.step(payload).err()).expect("two-phase");
        assert_eq!(stopped.exit(), Exit::Unavailable, "{stopped}");
        let refused = refused(&server).await;
        assert_eq!((Exit::Unavailable, true), (refused.exit(), refused.message.contains("two_phase")), "{refused}");
    }
}

/// What the daemon's source says to the slot before it streams.
async fn refused(server: &Postgres) -> Error {
    let mut source = Replication::new(replication::SlotOptions {
        dsn: Dsn::parse(&server.url()).expect("a URL"),
        slot: "two_phase".to_owned(),
        standby: false,
        publication: "crieur".to_owned(),
        connect_timeout: PATIENCE,
        liveness_timeout: PATIENCE,
    });
    source.ready().await.expect_err("the slot loses keys")
}
