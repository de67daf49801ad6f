//! The mark: the cache carries its own position. Pure.
//!
//! One small key in the cache says up to which position its deletes were done. It is written behind those deletes and
//! before the position is confirmed to the server, so a mark that is missing, foreign or older than the slot's
//! `confirmed_flush_lsn` proves that the cache may hold keys whose invalidation it never saw: a gap.

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::rules::about::digest::holds;
use crate::seen;
use crate::start::{SlotOrigin, Start};
use crate::words::Words;

/// What the mark says, as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// The server and its database, as in [`Start::system`].
    pub system: String,
    /// Its timeline.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// Every delete up to here was answered; PostgreSQL's text form.
    pub lsn: String,
    /// The first delete of everything up to here was answered, echoes aside: never before `lsn`. Empty in a mark of an older
    /// crieur: then it is `lsn`.
    #[serde(default)]
    pub deleted: String,
    /// How old the oldest change was, in milliseconds, that had come and was not deleted when the mark was written; 0 when
    /// there was none.
    #[serde(default)]
    pub late_ms: u64,
    /// Wall clock of writing, seconds since 1970: a reader that finds it old knows that the crier is silent.
    pub at: u64,
    /// Makes every mark another text: two copies of a cache that hold the same mark had the same deletes before it.
    #[serde(default)]
    pub nonce: String,
    /// Hashes of the rules (`rules/about/digest.rs`).
    pub rules: String,
    /// The run of the server, as in [`Start::run`].
    #[serde(default)]
    pub run: String,
    /// The publication, as in [`Start::publication`].
    #[serde(default)]
    pub publication: String,
    /// The last message to readers with a memory tier (`cache.publish`) that was answered before this mark was sent; absent
    /// where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
}

/// A message to readers with a memory tier.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// In which sequence.
    pub epoch: String,
    /// Its number there.
    pub n: u64,
}

/// The nonce of a mark's text, if it has one.
pub fn nonce(text: &[u8]) -> Option<String> {
    serde_json::from_slice::<Mark>(text).ok().map(|mark| mark.nonce).filter(|nonce| !nonce.is_empty())
}

/// Up to where the cache with this mark has had the first delete of everything; `None` where the text is no mark.
pub fn deleted(text: &[u8]) -> Option<Lsn> {
    let mark = serde_json::from_slice::<Mark>(text).ok()?;
    let lsn = mark.lsn.parse::<Lsn>().ok()?;
    Some(mark.deleted.parse().map_or(lsn, |deleted: Lsn| deleted.max(lsn)))
}

/// What a mark's text says of the rules; nothing where it cannot be read.
pub fn rules(text: &[u8]) -> String {
    serde_json::from_slice::<Mark>(text).map(|mark| mark.rules).unwrap_or_default()
}

/// Why the cache may hold stale keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gap {
    /// No mark: a first start, a flushed cache, an evicted key.
    Missing,
    /// No mark: a sink keeps none beyond a process.
    Unproven,
    /// Not a mark that this version reads.
    Unreadable,
    /// The mark is of another server or timeline: restored, failed over, or the configuration points elsewhere.
    OtherServer,
    /// The mark does not name this database: it is of another one of the server, or of what this one is a copy of.
    OtherDatabase,
    /// The slot is ahead of the cache: the cache went back in time, or somebody advanced the slot.
    Behind {
        /// Position of the mark.
        mark: Lsn,
        /// Position of the slot.
        confirmed: Lsn,
    },
    /// The mark is not what was written last: restored, flushed, evicted, or a replica that never had it.
    WentBack,
    /// There are rules that were others, or none, when the mark was written.
    OtherRules,
    /// The server was started again, or crashed and recovered: it may have forgotten transactions that were seen.
    Restarted,
    /// The publication was altered: changes may never have come.
    OtherPublication,
    /// Watched tables, or the triggers on them, are others than they were, and nothing else is.
    OtherTables,
    /// The slot is a new one: what was written before it never came.
    NewSlot,
}

impl Gap {
    /// Every kind, with positions that mean nothing.
    pub const ALL: [Gap; 12] = [
        Gap::Missing,
        Gap::Unproven,
        Gap::Unreadable,
        Gap::OtherServer,
        Gap::OtherDatabase,
        Gap::Behind { mark: Lsn(0), confirmed: Lsn(0) },
        Gap::WentBack,
        Gap::OtherRules,
        Gap::Restarted,
        Gap::OtherPublication,
        Gap::OtherTables,
        Gap::NewSlot,
    ];

    /// One word, for a metric.
    pub fn kind(&self) -> &'static str {
        match self {
            Gap::Missing => "missing",
            Gap::Unproven => "unproven",
            Gap::Unreadable => "unreadable",
            Gap::OtherServer => "other_server",
            Gap::OtherDatabase => "other_database",
            Gap::Behind { .. } => "behind",
            Gap::WentBack => "went_back",
            Gap::OtherRules => "other_rules",
            Gap::Restarted => "restarted",
            Gap::OtherPublication => "other_publication",
            Gap::OtherTables => "other_tables",
            Gap::NewSlot => "new_slot",
        }
    }
}

impl Gap {
    /// In the words of the source.
    pub fn said(&self, words: Words) -> String {
        match self {
            Gap::NewSlot => format!("{} is a new one", words.slot),
            Gap::OtherPublication => format!("{} changed since the mark was written", words.watched),
            Gap::Behind { mark, confirmed } => format!("the cache is at {mark}, {} at {confirmed}", words.slot),
            _ => self.to_string(),
        }
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Gap::Missing => f.write_str("the cache holds no mark"),
            Gap::Unproven => f.write_str("a sink keeps no mark of what it purged before this start"),
            Gap::Unreadable => f.write_str("the mark in the cache cannot be read"),
            Gap::OtherServer => f.write_str("the mark in the cache is of another server or timeline"),
            Gap::OtherDatabase => f.write_str(
                "the mark in the cache does not name this database: it is of another, of a copy, or of an older crieur",
            ),
            Gap::Behind { mark, confirmed } => write!(f, "the cache is at {mark}, the slot at {confirmed}"),
            Gap::WentBack => f.write_str("the cache does not hold the mark that was written last"),
            Gap::OtherRules => f.write_str("the rules changed since the mark was written"),
            Gap::Restarted => f.write_str("the server started again since the mark was written"),
            Gap::NewSlot => f.write_str("the replication slot is a new one"),
            Gap::OtherPublication => f.write_str("the publication changed since the mark was written"),
            Gap::OtherTables => f.write_str("watched tables changed since the mark was written"),
        }
    }
}

/// The server in [`Start::system`].
fn server(system: &str) -> Option<&str> {
    system.split('/').next()
}

/// The database in [`Start::system`].
fn database(system: &str) -> Option<&str> {
    system.split('/').nth(1)
}

/// The same as [`gap`] before this stream wrote a mark. One past what was given out before the stream began is of a database
/// that went back: a copy that was made before that mark, under the number of its original.
pub fn gap_at_first(mark: Option<&[u8]>, start: &Start, rules: &str) -> Option<Gap> {
    let gap = gap(mark, start, rules);
    let SlotOrigin::Counted(from) = start.slot else { return gap };
    let lsn = mark.and_then(|text| serde_json::from_slice::<Mark>(text).ok()?.lsn.parse::<Lsn>().ok());
    match gap {
        None | Some(Gap::OtherTables) if lsn > Some(from) => Some(Gap::OtherDatabase),
        gap => gap,
    }
}

/// Whether a mark is of this server from before a failover: a cache that went back holds our own, and nobody intruded.
pub fn is_elder(mark: &[u8], start: &Start) -> bool {
    let mark = serde_json::from_slice::<Mark>(mark);
    mark.is_ok_and(|mark| mark.system == start.system && mark.timeline < start.timeline)
}

/// What a mark's text says of the publication; nothing where it cannot be read.
pub fn publication(text: &[u8]) -> String {
    serde_json::from_slice::<Mark>(text).map(|mark| mark.publication).unwrap_or_default()
}

/// Whether a cache with this mark may have missed invalidations before `start`.
pub fn gap(mark: Option<&[u8]>, start: &Start, rules: &str) -> Option<Gap> {
    let Some(text) = mark else { return Some(Gap::Missing) };
    let Some((mark, lsn)) = serde_json::from_slice::<Mark>(text).ok().and_then(|mark| {
        let lsn = mark.lsn.parse::<Lsn>().ok()?;
        Some((mark, lsn))
    }) else {
        return Some(Gap::Unreadable);
    };
    if mark.timeline != start.timeline || server(&mark.system) != server(&start.system) {
        Some(Gap::OtherServer)
    } else if mark.system != start.system {
        Some(if database(&mark.system) == database(&start.system) { Gap::OtherServer } else { Gap::OtherDatabase })
    } else if lsn < start.confirmed {
        Some(Gap::Behind { mark: lsn, confirmed: start.confirmed })
    } else if lsn == start.confirmed && start.slot == SlotOrigin::Created {
        // A mark past it was written by this very stream: its sweep is done.
        Some(Gap::NewSlot)
    } else if !seen::is_same(&mark.publication, &start.publication) {
        // Before the run: its sweep waits for what was open, which that of a restart does not.
        let only = mark.run == start.run && holds(&mark.rules, rules);
        let told = seen::changed(&mark.publication, &start.publication).is_some();
        Some(if only && told { Gap::OtherTables } else { Gap::OtherPublication })
    } else if mark.run != start.run {
        Some(Gap::Restarted)
    } else if !holds(&mark.rules, rules) {
        Some(Gap::OtherRules)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start {
            system: "7".into(),
            timeline: 1,
            confirmed: Lsn(0x20),
            run: "r1".into(),
            publication: "p1".into(),
            slot: SlotOrigin::Found,
        }
    }

    #[test]
    fn a_mark_from_before_a_failover_is_our_own() {
        let promoted = Start { timeline: 2, ..start() };
        assert!(is_elder(&text("7", "0/20"), &promoted));
        assert!(!is_elder(&text("7", "0/20"), &start()) && !is_elder(&text("8", "0/20"), &promoted));
        assert!(!is_elder(b"no mark", &promoted));
    }

    /// A mark in the cache.
    fn text(system: &str, lsn: &str) -> Vec<u8> {
        let mark = Mark {
            system: system.into(),
            timeline: 1,
            slot: "crieur".into(),
            lsn: lsn.into(),
            deleted: String::new(),
            late_ms: 0,
            at: 0,
            nonce: String::new(),
            rules: "r".into(),
            run: "r1".into(),
            publication: "p1".into(),
            published: None,
        };
        serde_json::to_vec(&mark).expect("plain data")
    }

    #[test]
    fn a_mark_names_the_server_and_the_database() {
        let start = start();
        for (marked, started, expected) in [
            ("7/5", "7/5", None),
            ("7/5", "8/5", Some(Gap::OtherServer)),
            ("7/6", "7/5", Some(Gap::OtherDatabase)),
            ("7", "7/5", Some(Gap::OtherDatabase)),
            ("7/outbox/a", "7/5/outbox/a", Some(Gap::OtherDatabase)),
            ("7/6/outbox/a", "7/5/outbox/a", Some(Gap::OtherDatabase)),
            ("7/5/outbox/b", "7/5/outbox/a", Some(Gap::OtherServer)),
        ] {
            let start = Start { system: started.into(), ..start.clone() };
            assert_eq!(gap(Some(&text(marked, "0/20")), &start, "r"), expected, "{marked} {started}");
        }
        let counted = Start { slot: SlotOrigin::Counted(Lsn(0x30)), ..start.clone() };
        for (lsn, expected) in [("0/20", None), ("0/30", None), ("0/31", Some(Gap::OtherDatabase))] {
            assert_eq!(gap_at_first(Some(&text("7", lsn)), &counted, "r"), expected, "{lsn}");
            assert_eq!(gap(Some(&text("7", lsn)), &counted, "r"), None, "this stream may have written it: {lsn}");
        }
    }

    #[test]
    fn a_mark_of_an_older_crieur_says_of_deletes_what_it_says_of_all() {
        let mut mark: Mark = serde_json::from_slice(&text("7", "0/20")).expect("a mark");
        let said = |mark: &Mark| deleted(&serde_json::to_vec(mark).expect("plain data"));
        assert_eq!(said(&mark), Some(Lsn(0x20)));
        mark.deleted = "0/31".into();
        assert_eq!(said(&mark), Some(Lsn(0x31)));
        let old = br#"{"system":"7","timeline":1,"slot":"s","lsn":"0/20","at":1,"rules":"r"}"#;
        assert_eq!((deleted(old), deleted(b"{}")), (Some(Lsn(0x20)), None));
    }

    #[test]
    fn a_mark_that_speaks_of_tables_tells_which_are_others() {
        let start = start();
        // Where the mark speaks of tables, only those are others, as long as nothing else is.
        let tables = |look: &str| {
            let tables = serde_json::json!([{
                "schema": "s", "name": "t", "look": look, "files": "f", "versions": "v", "labels": []
            }]);
            seen::spelled(&tables.to_string())
        };
        let marked = |publication: String, start: &Start| {
            let mut mark: Mark = serde_json::from_slice(&text("7", "0/31")).expect("a mark");
            mark.publication = publication;
            let text = serde_json::to_vec(&mark).expect("plain data");
            (gap(Some(&text), start, "r"), gap_at_first(Some(&text), start, "r"))
        };
        let altered = Start { publication: tables("b"), ..start.clone() };
        let only = Some(Gap::OtherTables);
        assert_eq!(marked(tables("b"), &altered), (None, None));
        assert_eq!(marked(tables("a"), &altered), (only.clone(), only.clone()));
        assert_eq!(marked("digest".into(), &altered).0, Some(Gap::OtherPublication));
        assert_eq!(marked(tables("a"), &Start { run: "r2".into(), ..altered.clone() }).0, Some(Gap::OtherPublication));
        let copy = Start { slot: SlotOrigin::Counted(Lsn(0x30)), ..altered };
        assert_eq!(marked(tables("a"), &copy), (only, Some(Gap::OtherDatabase)), "written past its beginning");
    }

    #[test]
    fn only_a_mark_at_or_past_the_slot_proves_the_cache() {
        let start = start();
        let mark = |system: &str, timeline, lsn: &str, rules: &str| {
            let mark = Mark {
                run: "r1".into(),
                publication: "p1".into(),
                published: None,
                system: system.into(),
                timeline,
                slot: "crieur".into(),
                lsn: lsn.into(),
                deleted: String::new(),
                late_ms: 0,
                at: 0,
                nonce: String::new(),
                rules: rules.into(),
            };
            gap(Some(&serde_json::to_vec(&mark).expect("plain data")), &start, "r")
        };
        assert_eq!(mark("7", 1, "0/20", "r"), None);
        assert_eq!(mark("7", 1, "0/21", "r"), None);
        assert_eq!(mark("7", 1, "0/1F", "r"), Some(Gap::Behind { mark: Lsn(0x1F), confirmed: Lsn(0x20) }));
        assert_eq!(mark("8", 1, "0/20", "r"), Some(Gap::OtherServer));
        assert_eq!(mark("7", 2, "0/20", "r"), Some(Gap::OtherServer));
        assert_eq!(mark("7", 1, "0/20", "q"), Some(Gap::OtherRules));
        assert_eq!(mark("7", 1, "late", "r"), Some(Gap::Unreadable));
        let elsewhere = |start: &Start| gap(Some(&text("7", "0/20")), start, "r");
        assert_eq!(elsewhere(&Start { run: "r2".into(), ..start.clone() }), Some(Gap::Restarted));
        assert_eq!(elsewhere(&Start { publication: "p2".into(), ..start.clone() }), Some(Gap::OtherPublication));
        let new = Start { slot: SlotOrigin::Created, ..start.clone() };
        assert_eq!(elsewhere(&new), Some(Gap::NewSlot));
        assert_eq!(elsewhere(&Start { confirmed: Lsn(0x1F), ..new }), None);
        assert_eq!(gap(None, &start, "r"), Some(Gap::Missing));
        assert_eq!(gap(Some(b"1"), &start, "r"), Some(Gap::Unreadable));
    }
}
