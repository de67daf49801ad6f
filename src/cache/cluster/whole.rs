//! The mark of the whole cluster, for readers: the least of what its shards' marks say. It proves nothing to this program.

use std::time::Duration;

use ::redis::{Cmd, Value};
use tokio::time::timeout;

use super::slot::slot_of;
use super::topology::Topology;
use crate::cache::{reply, speak};
use crate::error::{Error, Result};

/// A shard's mark does not wait longer for that of the whole.
const PATIENCE: Duration = Duration::from_secs(1);

fn key(name: &str) -> String {
    format!("crieur:mark:{name}")
}

/// What stands there.
pub(super) async fn read(topology: &Topology, name: &str) -> Result<Option<Vec<u8>>> {
    let key = key(name);
    let Some((_, node)) = topology.owner_of(slot_of(key.as_bytes())) else {
        return Err(reply::in_cluster("GET", "CLUSTERDOWN", "Hash slot not served"));
    };
    match node.ask_one(speak::read(&key)).await? {
        Value::ServerError(error) if error.code() != "WRONGTYPE" => {
            Err(reply::in_cluster("GET", error.code(), error.details().unwrap_or_default()))
        }
        // What is no text, somebody else wrote.
        value => speak::mark("GET", value).or_else(|error| error.map_or(Ok(None), Err)),
    }
}

/// A shard's mark was written: the mark of the whole follows, where the node that has it answers. It is written again with
/// each mark of any shard, so a failure only leaves it older.
pub(super) async fn tell(topology: &Topology, index: usize, name: &str, text: &[u8]) {
    let Some(whole) = topology.note_mark(index, text) else { return };
    let key = key(name);
    let Some((owner, node)) = topology.owner_of(slot_of(key.as_bytes())) else { return };
    // A node that does not answer is asked by its own shard alone.
    if owner != Some(index) && topology.is_away(owner) {
        return;
    }
    let mut command = Cmd::new();
    command.arg("SET").arg(key).arg(whole);
    let silent = |_| Err(Error::transient("the cache did not answer in time"));
    match timeout(PATIENCE.min(topology.settings().timeout), node.ask_one(command)).await.unwrap_or_else(silent) {
        Ok(Value::Okay) => {}
        Ok(Value::ServerError(error)) => {
            tracing::debug!(code = error.code(), "the mark of the whole is not written");
            topology.doubt();
        }
        Ok(_) => tracing::debug!("the mark of the whole is not written"),
        Err(error) => {
            tracing::debug!("the mark of the whole is not written: {}", error.chain());
            if let Some(owner) = owner {
                topology.note(owner, false);
            }
        }
    }
}
