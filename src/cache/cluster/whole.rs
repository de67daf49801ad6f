//! The mark of the whole cluster, for readers: the least of what its shards' marks say. It proves nothing to this program.

use ::redis::{Cmd, Value};

use super::slot::slot_of;
use super::topology::Topology;
use crate::lsn::Lsn;
use crate::mark::Mark;

/// The least of all marks: its position, and the oldest time of writing; `None` while one is missing.
pub fn least<'a>(marks: impl IntoIterator<Item = Option<&'a [u8]>>) -> Option<Vec<u8>> {
    let mut least: Option<(Lsn, Mark)> = None;
    let mut at = u64::MAX;
    for text in marks {
        let mark: Mark = serde_json::from_slice(text?).ok()?;
        let lsn = mark.lsn.parse::<Lsn>().ok()?;
        at = at.min(mark.at);
        if least.as_ref().is_none_or(|(known, _)| lsn < *known) {
            least = Some((lsn, mark));
        }
    }
    let (_, mark) = least?;
    serde_json::to_vec(&Mark { at, ..mark }).ok()
}

/// A shard's mark was written: the mark of the whole follows, where the node that has it answers. It is written again with
/// each mark of any shard, so a failure only leaves it older.
pub(super) async fn tell(topology: &Topology, index: usize, name: &str, text: &[u8]) {
    let Some(whole) = topology.note_mark(index, text) else { return };
    let key = format!("crieur:mark:{name}");
    let Some((owner, node)) = topology.owner_of(slot_of(key.as_bytes())) else { return };
    // A node that does not answer is asked by its own shard alone.
    if owner != Some(index) && topology.is_away(owner) {
        return;
    }
    let mut command = Cmd::new();
    command.arg("SET").arg(key).arg(whole);
    match node.ask_one(command).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(lsn: &str, at: u64) -> Vec<u8> {
        let text = |text: &str| text.to_owned();
        let mark = Mark {
            system: text("7"),
            timeline: 1,
            slot: text("crieur"),
            lsn: text(lsn),
            at,
            nonce: text(lsn),
            rules: String::new(),
            run: String::new(),
            publication: String::new(),
        };
        serde_json::to_vec(&mark).expect("plain data")
    }

    #[test]
    fn the_whole_is_as_far_and_as_old_as_the_last_of_its_shards() {
        let (a, b) = (mark("0/20", 100), mark("0/30", 90));
        let whole = least([Some(a.as_slice()), Some(b.as_slice())]).expect("both are there");
        let whole: Mark = serde_json::from_slice(&whole).expect("a mark");
        assert_eq!((whole.lsn.as_str(), whole.at), ("0/20", 90));
        assert_eq!(least([Some(a.as_slice()), None]), None);
        assert_eq!(least([]), None);
        assert_eq!(least([Some(&b"x"[..])]), None);
    }
}
