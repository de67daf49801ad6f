//! The mark of one shard: where it lies, what stands in it, and how it is replaced. Pure.
//!
//! A shard's mark is what any mark is, and behind it, in a line of its own, who wrote it and of which slots it speaks.
//! Only this program reads it; readers read the mark of the whole, which has no such line.

use ::redis::{Cmd, Pipeline};

use super::shards::Claim;
use super::slot::tag_of;
use crate::cache::identity::Identity;
use crate::lsn::Lsn;
use crate::mark::{Mark, deleted};

/// Writes the mark `ARGV[1]` where one of `ARGV[7..]` begins what is there, or where there is none and `ARGV[2]` allows
/// it, or where exactly `ARGV[5]` is there, or whatever is there if `ARGV[6]` says so. `ARGV[3]` and `ARGV[4]` are the
/// server's identity.
const SWAP: &str = "local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local function is(name, value) return value == '' or string.find(info, name .. ':' .. value, 1, true) end
if not (is('run_id', ARGV[3]) and is('master_replid', ARGV[4])) then return -1 end
local found = redis.call('GET', KEYS[1])
local expected = ARGV[6] ~= '' or (not found and ARGV[2] ~= '') or (found and ARGV[5] ~= '' and found == ARGV[5])
local first = found and string.match(found, '^[^\\n]*')
for i = 7, #ARGV do expected = expected or first == ARGV[i] end
if not expected then return 0 end
local written = redis.pcall('SET', KEYS[1], ARGV[1])
if written.err then return redis.error_reply(string.match(written.err, '%u+ .*') or written.err) end
return 1";

/// The key of the mark that lies in this slot.
pub fn key(name: &str, slot: u16) -> String {
    format!("crieur:mark:{name}:{{{}}}", tag_of(slot))
}

/// What stands in the cache.
pub fn stored(mark: &[u8], node: &str, claim: &Claim) -> Vec<u8> {
    [mark, b"\n", node.as_bytes(), b" ", claim.text().as_bytes()].concat()
}

/// The mark itself, who wrote it, and of which slots it speaks.
pub fn read(stored: &[u8]) -> (&[u8], Option<(String, Claim)>) {
    let Some(end) = stored.iter().position(|byte| *byte == b'\n') else { return (stored, None) };
    let behind = std::str::from_utf8(&stored[end + 1..]).ok();
    let about = behind.and_then(|behind| {
        let (node, claim) = behind.split_once(' ')?;
        Some((node.to_owned(), Claim::read(claim)?))
    });
    (&stored[..end], about)
}

/// What may be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced<'a> {
    /// Marks of ours, or none.
    pub(super) expected: &'a [Option<Vec<u8>>],
    /// What is there and counts for none.
    pub(super) disregarded: Option<&'a [u8]>,
    /// Anything: the mark was in another slot so far, which left the node.
    pub(super) anything: bool,
}

/// Compares and sets in one step.
pub(super) fn swap(key: &str, stored: &[u8], identity: Option<&Identity>, replaced: Replaced<'_>) -> Pipeline {
    let mut command = Cmd::new();
    command.arg("EVAL").arg(SWAP).arg(1).arg(key).arg(stored);
    command.arg(if replaced.expected.contains(&None) { "or nothing" } else { "" });
    let [run, history] = identity.map_or(["", ""], Identity::fields);
    command.arg(run).arg(history);
    let may_go = replaced.disregarded.filter(|_| replaced.expected.contains(&None));
    command.arg(may_go.unwrap_or_default()).arg(if replaced.anything { "anything" } else { "" });
    for text in replaced.expected.iter().flatten() {
        command.arg(text);
    }
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(command);
    pipeline
}

/// The least of all marks: its position, and the oldest time of writing; `None` while one is missing.
pub fn least<'a>(marks: impl IntoIterator<Item = Option<&'a [u8]>>) -> Option<Vec<u8>> {
    let mut least: Option<(Lsn, Mark)> = None;
    let (mut at, mut late_ms, mut gone) = (u64::MAX, 0, None::<Lsn>);
    for text in marks {
        let text = text?;
        let mark: Mark = serde_json::from_slice(text).ok()?;
        let deleted = deleted(text)?;
        gone = Some(gone.map_or(deleted, |gone| gone.min(deleted)));
        late_ms = late_ms.max(mark.late_ms);
        let lsn = mark.lsn.parse::<Lsn>().ok()?;
        at = at.min(mark.at);
        if least.as_ref().is_none_or(|(known, _)| lsn < *known) {
            least = Some((lsn, mark));
        }
    }
    let (_, mark) = least?;
    serde_json::to_vec(&Mark { at, late_ms, deleted: gone?.to_string(), ..mark }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::cluster::slot::{SlotSet, slot_of};

    #[test]
    fn a_mark_lies_in_its_slot_and_says_of_which_it_speaks() {
        for slot in [0, 77, 16_383] {
            assert_eq!(slot_of(key("crieur", slot).as_bytes()), slot);
        }
        let claim = Claim { owned: SlotSet::read("0-9").expect("ranges"), coming: SlotSet::default() };
        let stored = stored(b"{\"a\":1}", "aaaa", &claim);
        assert_eq!(read(&stored), (&b"{\"a\":1}"[..], Some(("aaaa".to_owned(), claim))));
        assert_eq!(read(b"{}"), (&b"{}"[..], None));
        assert_eq!(read(b"{}\nx y"), (&b"{}"[..], None));
    }

    fn mark_at(lsn: &str, at: u64) -> Vec<u8> {
        let text = |text: &str| text.to_owned();
        let mark = Mark {
            system: text("7"),
            timeline: 1,
            slot: text("crieur"),
            lsn: text(lsn),
            deleted: text(lsn),
            late_ms: at,
            at,
            nonce: text(lsn),
            rules: String::new(),
            run: String::new(),
            publication: String::new(),
            published: None,
        };
        serde_json::to_vec(&mark).expect("plain data")
    }

    #[test]
    fn the_whole_is_as_far_and_as_old_as_the_last_of_its_shards() {
        let (a, b) = (mark_at("0/20", 100), mark_at("0/30", 90));
        let whole = least([Some(a.as_slice()), Some(b.as_slice())]).expect("both are there");
        let whole: Mark = serde_json::from_slice(&whole).expect("a mark");
        assert_eq!((whole.lsn.as_str(), whole.at), ("0/20", 90));
        assert_eq!((whole.deleted.as_str(), whole.late_ms), ("0/20", 100));
        assert_eq!(least([Some(a.as_slice()), None]), None);
        assert_eq!(least([]), None);
        assert_eq!(least([Some(&b"x"[..])]), None);
    }
}
