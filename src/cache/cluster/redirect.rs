//! What a node answers to the delete of one key, and what follows. Pure.
//!
//! A key goes with its lease in one command, which both share a slot for. While a slot is on its way between two nodes,
//! that command may be refused for as long as the move lasts (`TRYAGAIN`); one key alone never is. So the two part: the
//! lease goes first, because whoever stores between the two finds no lease any more.

use super::view::endpoint;
use crate::cache::place::HostPort;

/// So often one delete follows redirects.
pub const HOPS_MAX: u8 = 5;

/// What a node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeAnswer {
    /// So many existed.
    Done(u64),
    /// The slot is another node's for good.
    Moved(u16, HostPort),
    /// The key, if it exists, is at another node already; the slot is not yet.
    Ask(u16, HostPort),
    /// Two keys of a slot on its way: not together.
    Parts,
    /// An error reply: its code, and its text.
    Refused(String, String),
    /// No reply that this command has.
    Strange,
}

impl NodeAnswer {
    /// The node cannot read the command, and closes the connection.
    pub fn is_unread(&self) -> bool {
        matches!(self, NodeAnswer::Refused(_, detail) if detail.starts_with("Protocol error"))
    }
}

/// Reads one line of an answer; `asked` is the host of the node that gave it.
pub fn answer(line: &[u8], asked: &str) -> NodeAnswer {
    let text = String::from_utf8_lossy(&line[1.min(line.len())..]);
    match line.first() {
        Some(b':') => text.parse().map_or(NodeAnswer::Strange, NodeAnswer::Done),
        Some(b'-') => {
            let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
            let mut words = detail.split(' ');
            let slot = words.next().and_then(|slot| slot.parse().ok());
            let to = words.next().and_then(|to| endpoint(to, asked));
            match (code, slot, to) {
                ("MOVED", Some(slot), Some(to)) => NodeAnswer::Moved(slot, to),
                ("ASK", Some(slot), Some(to)) => NodeAnswer::Ask(slot, to),
                ("TRYAGAIN", ..) => NodeAnswer::Parts,
                _ => NodeAnswer::Refused(code.to_owned(), detail.to_owned()),
            }
        }
        _ => NodeAnswer::Strange,
    }
}

/// What is sent for a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SentPart {
    /// The key, and its lease where readers keep one: one command.
    Whole,
    /// The lease, before the key.
    Lease,
    /// The key, behind its lease.
    Key,
}

/// What follows for a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// It is deleted; so many of it existed.
    Done(u64),
    /// This part of it goes to the node that it went to, or to its slot's owner.
    Send(SentPart),
    /// The same goes to this node; with ASKING when the slot is not the node's yet.
    Follow {
        /// The node.
        to: HostPort,
        /// With ASKING.
        asking: bool,
    },
    /// It waits for the next attempt.
    Wait(Wait),
}

/// Why a key waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wait {
    /// It was sent from node to node; the last redirect led here.
    Loop(HostPort),
    /// The node refused it, with this code and text.
    Refused(String, String),
    /// The reply is none of this command.
    Strange,
}

/// The table: what follows for a key of which `part` was sent, behind so many redirects.
pub fn next(part: SentPart, has_lease: bool, hops: u8, answer: NodeAnswer) -> Next {
    match (answer, part) {
        (NodeAnswer::Done(_), SentPart::Lease) => Next::Send(SentPart::Key),
        (NodeAnswer::Done(existed), SentPart::Whole | SentPart::Key) => Next::Done(existed.min(1)),
        (NodeAnswer::Moved(_, to) | NodeAnswer::Ask(_, to), _) if hops >= HOPS_MAX => Next::Wait(Wait::Loop(to)),
        (NodeAnswer::Moved(_, to), _) => Next::Follow { to, asking: false },
        (NodeAnswer::Ask(_, to), _) => Next::Follow { to, asking: true },
        (NodeAnswer::Parts, SentPart::Whole) if has_lease => Next::Send(SentPart::Lease),
        (NodeAnswer::Parts, _) => Next::Wait(Wait::Refused("TRYAGAIN".to_owned(), String::new())),
        // A key whose lease lies in another slot: they were never together.
        (NodeAnswer::Refused(code, _), SentPart::Whole) if code == "CROSSSLOT" && has_lease => {
            Next::Send(SentPart::Lease)
        }
        (NodeAnswer::Refused(code, detail), _) => Next::Wait(Wait::Refused(code, detail)),
        (NodeAnswer::Strange, _) => Next::Wait(Wait::Strange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort { host: "h".into(), port }
    }

    #[test]
    fn a_line_is_one_answer() {
        let refused = |code: &str, detail: &str| NodeAnswer::Refused(code.into(), detail.into());
        for (line, expected) in [
            ("+OK", NodeAnswer::Strange),
            (":0", NodeAnswer::Done(0)),
            (":2", NodeAnswer::Done(2)),
            (":-1", NodeAnswer::Strange),
            ("", NodeAnswer::Strange),
            ("-MOVED 3999 h:7", NodeAnswer::Moved(3999, at(7))),
            ("-MOVED 3999 :7", NodeAnswer::Moved(3999, at(7))),
            ("-MOVED 3999 ?:7", NodeAnswer::Moved(3999, at(7))),
            ("-ASK 1 h:8", NodeAnswer::Ask(1, at(8))),
            ("-MOVED x h:7", refused("MOVED", "x h:7")),
            ("-TRYAGAIN Multiple keys request during rehashing of slot", NodeAnswer::Parts),
            ("-CLUSTERDOWN Hash slot not served", refused("CLUSTERDOWN", "Hash slot not served")),
            ("-READONLY", refused("READONLY", "")),
        ] {
            assert_eq!(answer(line.as_bytes(), "h"), expected, "{line}");
        }
    }

    #[test]
    fn what_follows_is_one_table() {
        let (done, parts) = (|existed| NodeAnswer::Done(existed), || NodeAnswer::Parts);
        let moved = || NodeAnswer::Moved(1, at(7));
        let refused = |code: &str| NodeAnswer::Refused(code.to_owned(), String::new());
        let waits = |code: &str| Next::Wait(Wait::Refused(code.to_owned(), String::new()));
        let follow = |asking| Next::Follow { to: at(7), asking };
        for (part, leased, hops, answer, expected) in [
            (SentPart::Whole, true, 0, done(2), Next::Done(1)),
            (SentPart::Whole, false, 0, done(0), Next::Done(0)),
            (SentPart::Lease, true, 0, done(1), Next::Send(SentPart::Key)),
            (SentPart::Key, true, 0, done(1), Next::Done(1)),
            (SentPart::Whole, true, 0, parts(), Next::Send(SentPart::Lease)),
            (SentPart::Lease, true, 0, parts(), waits("TRYAGAIN")),
            (SentPart::Whole, false, 0, parts(), waits("TRYAGAIN")),
            (SentPart::Whole, true, 0, refused("CROSSSLOT"), Next::Send(SentPart::Lease)),
            (SentPart::Whole, false, 0, refused("CROSSSLOT"), waits("CROSSSLOT")),
            (SentPart::Key, true, 0, refused("CLUSTERDOWN"), waits("CLUSTERDOWN")),
            (SentPart::Whole, true, 4, moved(), follow(false)),
            (SentPart::Whole, true, 4, NodeAnswer::Ask(1, at(7)), follow(true)),
            (SentPart::Whole, true, 5, moved(), Next::Wait(Wait::Loop(at(7)))),
            (SentPart::Lease, true, 5, NodeAnswer::Ask(1, at(7)), Next::Wait(Wait::Loop(at(7)))),
            (SentPart::Whole, true, 0, NodeAnswer::Strange, Next::Wait(Wait::Strange)),
        ] {
            assert_eq!(next(part, leased, hops, answer.clone()), expected, "{part:?} {leased} {hops} {answer:?}");
        }
    }
}
