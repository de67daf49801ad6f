//! Keys, packed into UNLINK commands for requests. Pure.
//!
//! A key and its lease stand in one command, as long as they are text. A key that is no text goes alone, behind its lease: a
//! store between the two finds no lease. The invariant: what is sent is the key and nothing that looks like it.

use super::json::{self, CommandForm};
use crate::cache::lease;
use crate::config::Leases;

/// The longest key that the service holds: no client can have stored a longer one.
const KEY_BYTES_MAX: usize = 32 * 1024;
/// Arguments of one command: a command is billed once, whatever stands in it.
const ARGUMENTS_MAX: usize = 20_000;
/// Bytes of one request. The service reads up to 10 MB.
pub(super) const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Whether no client can have stored a key of this length.
pub(super) fn is_too_long(length: usize) -> bool {
    length > KEY_BYTES_MAX
}

/// UNLINK commands of one request.
pub(super) struct Packed {
    leases: Leases,
    full: Vec<CommandForm>,
    /// The command that still takes keys, without its end.
    open: Vec<u8>,
    arguments: usize,
    /// Places of commands with one key whose answer is wanted.
    alone: Vec<usize>,
    keys: u64,
    bytes: usize,
    lease: Vec<u8>,
}

impl Packed {
    pub(super) fn new(leases: Leases) -> Self {
        let (full, open, alone) = (Vec::new(), Vec::new(), Vec::new());
        Packed { leases, full, open, arguments: 0, alone, keys: 0, bytes: 0, lease: Vec::new() }
    }

    /// Whether another key must wait for the next request.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= REQUEST_BYTES_MAX
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.keys += 1;
        let mut lease = std::mem::take(&mut self.lease);
        lease::write(&mut lease, key);
        let has_lease = self.leases == Leases::Companion && !is_too_long(lease.len());
        match std::str::from_utf8(key) {
            Ok(text) => {
                self.add(text);
                if has_lease {
                    self.add(std::str::from_utf8(&lease).expect("text between texts"));
                }
                if self.arguments >= ARGUMENTS_MAX {
                    self.close();
                }
            }
            Err(_) => {
                let alone = [&lease[..], key].into_iter().skip(usize::from(!has_lease));
                for last in alone {
                    self.bytes += last.len();
                    self.full.push(CommandForm::Body { path: "/UNLINK".to_owned(), last: last.to_vec() });
                }
            }
        }
        self.lease = lease;
    }

    /// A key whose own answer is wanted.
    pub(super) fn push_alone(&mut self, key: &[u8]) {
        let open = std::mem::take(&mut self.open);
        let arguments = std::mem::take(&mut self.arguments);
        self.push(key);
        self.close();
        self.alone.push(self.full.len() - 1);
        (self.open, self.arguments) = (open, arguments);
    }

    fn add(&mut self, text: &str) {
        let before = self.open.len();
        if self.open.is_empty() {
            self.open.extend_from_slice(b"[\"UNLINK\"");
        }
        self.open.push(b',');
        serde_json::to_writer(&mut self.open, text).expect("a text is JSON, and memory takes it");
        self.arguments += 1;
        self.bytes += self.open.len() - before;
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let mut command = std::mem::take(&mut self.open);
            command.push(b']');
            self.full.push(CommandForm::Array(command));
            self.arguments = 0;
        }
    }

    /// The places of the keys that were pushed alone, among the commands that are taken next.
    pub(super) fn take_alone(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.alone)
    }

    /// The commands and their keys, leases not counted; nothing is left.
    pub(super) fn take(&mut self) -> (Vec<CommandForm>, u64) {
        self.close();
        let keys = std::mem::take(&mut self.keys);
        self.bytes = 0;
        (std::mem::take(&mut self.full), keys)
    }
}

/// One request: a command alone, or several together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RequestBatch {
    /// The commands' places in what was given.
    pub(super) at: Vec<usize>,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
    /// Whether the answer is an array of as many items.
    pub(super) several: bool,
}

/// The commands `chosen` of `forms` as requests, each no larger than may be, unless a single command is.
pub(super) fn batches(forms: &[CommandForm], chosen: &[usize]) -> Vec<RequestBatch> {
    let mut out = Vec::new();
    let (mut open, mut bytes): (Vec<usize>, usize) = (Vec::new(), 0);
    let close = |open: &mut Vec<usize>, out: &mut Vec<RequestBatch>| {
        let at = std::mem::take(open);
        let command = |index: &usize| match &forms[*index] {
            CommandForm::Array(command) => command.as_slice(),
            CommandForm::Body { .. } => unreachable!("it goes alone"),
        };
        match at.as_slice() {
            [] => {}
            [one] => {
                let (path, body) = ("/".to_owned(), command(one).to_vec());
                out.push(RequestBatch { at, path, body, several: false });
            }
            several => {
                let body = json::array(several.iter().map(command));
                out.push(RequestBatch { path: "/pipeline".to_owned(), body, several: true, at });
            }
        }
    };
    for index in chosen {
        match &forms[*index] {
            CommandForm::Array(command) => {
                if bytes + command.len() > REQUEST_BYTES_MAX {
                    close(&mut open, &mut out);
                    bytes = 0;
                }
                bytes += command.len();
                open.push(*index);
            }
            CommandForm::Body { path, last } => {
                close(&mut open, &mut out);
                bytes = 0;
                out.push(RequestBatch { at: vec![*index], path: path.clone(), body: last.clone(), several: false });
            }
        }
    }
    close(&mut open, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(forms: Vec<CommandForm>) -> Vec<String> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let form = |form| match form {
            CommandForm::Array(command) => text(command),
            CommandForm::Body { path, last } => format!("{path} {}", last.escape_ascii()),
        };
        forms.into_iter().map(form).collect()
    }

    #[test]
    fn text_shares_a_command_and_other_bytes_go_alone_behind_their_lease() {
        let keys = [&b"a"[..], b"\xff", "\u{e9}\"".as_bytes()];
        for (leases, expected) in [
            (Leases::None, vec!["/UNLINK \\xff", r#"["UNLINK","a","é\""]"#]),
            (
                Leases::Companion,
                vec!["/UNLINK lease:{\\xff}", "/UNLINK \\xff", r#"["UNLINK","a","lease:{a}","é\"","lease:{é\"}"]"#],
            ),
        ] {
            let mut packed = Packed::new(leases);
            keys.iter().for_each(|key| packed.push(key));
            let (forms, count) = packed.take();
            assert_eq!((shown(forms), count), (expected.into_iter().map(str::to_owned).collect(), 3));
            assert_eq!(packed.take(), (Vec::new(), 0));
        }
    }

    #[test]
    fn a_key_whose_answer_is_wanted_has_a_command_of_its_own() {
        let mut packed = Packed::new(Leases::Companion);
        packed.push(b"a");
        packed.push_alone(b"w");
        packed.push(b"b");
        packed.push_alone(b"\xff");
        let alone = packed.take_alone();
        let forms = shown(packed.take().0);
        let of = |place: usize| forms[place].as_str();
        assert_eq!(
            alone.iter().map(|place| of(*place)).collect::<Vec<_>>(),
            [r#"["UNLINK","w","lease:{w}"]"#, "/UNLINK \\xff"]
        );
        assert_eq!(forms.last().map(String::as_str), Some(r#"["UNLINK","a","lease:{a}","b","lease:{b}"]"#));
    }

    #[test]
    fn thousands_of_keys_are_one_command_and_no_request_is_too_large() {
        let mut packed = Packed::new(Leases::None);
        (0..15_000).for_each(|index| packed.push(format!("key:{index}").as_bytes()));
        assert!(!packed.is_full());
        assert_eq!(packed.take().0.len(), 1);
        // The worst that a key can become: each byte is an escape of six.
        let long = vec![1; KEY_BYTES_MAX];
        while !packed.is_full() {
            packed.push(&long);
        }
        let (forms, keys) = packed.take();
        let all: Vec<usize> = (0..forms.len()).collect();
        assert!(keys > 15 && batches(&forms, &all).iter().all(|batch| batch.body.len() < 8 * 1024 * 1024));
        assert!(!is_too_long(KEY_BYTES_MAX) && is_too_long(KEY_BYTES_MAX + 1));
    }

    #[test]
    fn only_what_is_chosen_is_sent_and_each_reply_has_its_place() {
        let array = |text: &str| CommandForm::Array(text.as_bytes().to_vec());
        let forms =
            [array("[1]"), CommandForm::Body { path: "/x".to_owned(), last: vec![7] }, array("[2]"), array("[3]")];
        let seen = |chosen: &[usize]| {
            let batches = batches(&forms, chosen).into_iter();
            batches.map(|batch| (batch.path, batch.at, batch.several)).collect::<Vec<_>>()
        };
        let all = [("/", vec![0], false), ("/x", vec![1], false), ("/pipeline", vec![2, 3], true)];
        assert_eq!(seen(&[0, 1, 2, 3]), all.map(|(path, at, several)| (path.to_owned(), at, several)));
        assert_eq!(seen(&[2]), [("/".to_owned(), vec![2], false)]);
    }
}
