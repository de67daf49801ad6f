//! The mark's compare-and-swap as commands: one script, or one plain command where commands are billed.
//!
//! Where the cache does not say who it is, the same step deletes once more what was deleted since the last mark. So a
//! cache that holds the mark has had these deletes, whichever server answers: one that lost them has lost the mark with
//! them, and one that never had them gets them here, ahead of the mark.

use ::redis::{Cmd, Pipeline, Value};

use super::identity::Identity;
use super::lease;
use super::unlink::{Packing, Unlinks};
use crate::config::Leases;
use crate::keys::KeySet;

/// Writes the mark `ARGV[1]`, and deletes `KEYS[2..]` ahead of it, if the mark that is there stands in `ARGV[5..]`, or if
/// there is none and `ARGV[2]` allows it.
/// `ARGV[3]` and `ARGV[4]` are the server's identity: a proxy may lead to another server than the one that had the deletes
/// without closing a connection, and a promoted replica can hold the last mark and lack what was deleted since.
/// Before version 7 a script's error has its place before its code; the code is what counts.
const SWAP: &str = "if ARGV[3] ~= '' or ARGV[4] ~= '' then
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  local function is(name, value) return value == '' or string.find(info, name .. ':' .. value, 1, true) end
  if not (is('run_id', ARGV[3]) and is('master_replid', ARGV[4])) then return -1 end
end
local found = redis.call('GET', KEYS[1])
local expected = not found and ARGV[2] ~= ''
for i = 5, #ARGV do expected = expected or found == ARGV[i] end
if not expected then return 0 end
for i = 2, #KEYS, 500 do redis.call('UNLINK', unpack(KEYS, i, math.min(i + 499, #KEYS))) end
local written = redis.pcall('SET', KEYS[1], ARGV[1])
if written.err then return redis.error_reply(string.match(written.err, '%u+ .*') or written.err) end
return 1";

/// The same by SET's own comparison, `ARGV[2..]`: one command less for each mark.
const SWAP_CHEAP: &str =
    "for i = 2, #KEYS, 5000 do redis.call('UNLINK', unpack(KEYS, i, math.min(i + 4999, #KEYS))) end
return redis.call('SET', KEYS[1], unpack(ARGV))";

/// The same for keys that are no text, over a transport that carries nothing else. `ARGV[2]` marks may be there: `+` and
/// its text each, or `-` for none. Behind them stand the keys, in hexadecimal.
const SWAP_BYTES: &str = "local found = redis.call('GET', KEYS[1])
found = found and '+' .. found or '-'
local first, expected = 3 + tonumber(ARGV[2]), false
for i = 3, first - 1 do expected = expected or ARGV[i] == found end
if not expected then return 0 end
for i = first, #ARGV do
  redis.call('UNLINK', (string.gsub(ARGV[i], '%x%x', function(digits) return string.char(tonumber(digits, 16)) end)))
end
redis.call('SET', KEYS[1], ARGV[1])
return 1";

/// The key of the mark.
pub(super) fn mark_key(name: &str) -> String {
    format!("crieur:mark:{name}")
}

/// What is to be swapped.
pub(super) struct Swapping<'a> {
    pub(super) name: &'a str,
    /// Marks that may be there.
    pub(super) expected: &'a [Option<Vec<u8>>],
    pub(super) mark: &'a [u8],
    /// Keys that go once more.
    pub(super) again: &'a KeySet,
    pub(super) leases: Leases,
    pub(super) packing: Packing,
}

impl Swapping<'_> {
    /// Bytes of all keys.
    pub(super) fn bytes(&self) -> usize {
        self.again.iter().map(|key| key.bytes.len()).sum()
    }

    /// The keys that go once more, without those that nobody can have stored there: one of them would have the mark
    /// refused.
    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let is_left_out = |length| self.packing == Packing::Billed && self.packing.is_long(length, self.leases);
        self.again.iter().map(|key| key.bytes).filter(move |key| !is_left_out(key.len()))
    }

    /// The same, each with its lease behind it.
    fn with_leases(&self, mut each: impl FnMut(&[u8])) {
        let mut companion = Vec::new();
        for key in self.keys() {
            each(key);
            if self.packing.takes_lease(key.len(), self.leases) {
                lease::write(&mut companion, key);
                each(&companion);
            }
        }
    }

    /// EVAL of `script` with the mark's key and those that go once more.
    fn eval(&self, script: &str) -> Cmd {
        let mut count = 1;
        self.with_leases(|_| count += 1);
        let mut command = Cmd::new();
        command.arg("EVAL").arg(script).arg(count).arg(mark_key(self.name));
        self.with_leases(|key| _ = command.arg(key));
        command
    }

    /// Compares and sets in one step, whatever marks may be there.
    pub(super) fn script(&self, identity: Option<&Identity>) -> Pipeline {
        let mut command = self.eval(SWAP);
        command.arg(self.mark).arg(if self.expected.contains(&None) { "or nothing" } else { "" });
        let [run, history] = identity.map_or(["", ""], Identity::fields);
        command.arg(run).arg(history);
        for text in self.expected.iter().flatten() {
            command.arg(text);
        }
        alone(command)
    }

    /// The same in as few commands as can be where each is billed, MULTI and EXEC among them: where only one mark can be
    /// there, SET compares by itself.
    pub(super) fn cheap(&self) -> Option<Pipeline> {
        let [expected] = self.expected else { return None };
        if self.again.is_empty() {
            return self.plain();
        }
        let mut command = self.eval(SWAP_CHEAP);
        match expected {
            None => command.arg(self.mark).arg("NX"),
            Some(text) => command.arg(self.mark).arg("IFEQ").arg(text),
        };
        Some(alone(command))
    }

    /// The same where some of the keys are no text and nothing else can be sent.
    pub(super) fn script_of_bytes(&self) -> Pipeline {
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut command = Cmd::new();
        command.arg("EVAL").arg(SWAP_BYTES).arg(1).arg(mark_key(self.name)).arg(self.mark);
        command.arg(self.expected.len());
        for expected in self.expected {
            match expected {
                Some(text) => command.arg([b"+", text.as_slice()].concat()),
                None => command.arg("-"),
            };
        }
        self.with_leases(|key| _ = command.arg(hexadecimal(key)));
        alone(command)
    }

    /// The same as plain commands, where only one mark can be there: a script is billed together with each command
    /// inside.
    pub(super) fn plain(&self) -> Option<Pipeline> {
        let [expected] = self.expected else { return None };
        let mut command = Cmd::new();
        command.arg("SET").arg(mark_key(self.name)).arg(self.mark);
        match expected {
            None => command.arg("NX"),
            Some(text) => command.arg("IFEQ").arg(text),
        };
        if self.again.is_empty() {
            return Some(alone(command));
        }
        let mut transaction = Pipeline::new();
        transaction.cmd("MULTI");
        let mut unlinks = Unlinks::new(self.leases, Packing::Billed);
        self.keys().for_each(|key| unlinks.push(key));
        unlinks.take().0.cmd_iter().for_each(|command| _ = transaction.add_command(command.clone()));
        transaction.add_command(command);
        transaction.cmd("EXEC");
        Some(transaction)
    }
}

fn alone(command: Cmd) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(command);
    pipeline
}

/// What the server said of the mark: the last reply, and the last one inside of a transaction. The first refusal of a
/// transaction says why, and EXEC only that there was one.
pub(super) fn outcome(replies: Vec<Value>) -> Value {
    let refusal = replies.iter().find(|reply| matches!(reply, Value::ServerError(_))).cloned();
    match (refusal, replies.into_iter().last()) {
        (Some(refusal), _) => refusal,
        (None, Some(Value::Array(mut of_transaction))) => {
            let refusal = of_transaction.iter().find(|reply| matches!(reply, Value::ServerError(_))).cloned();
            refusal.or_else(|| of_transaction.pop()).unwrap_or(Value::Array(Vec::new()))
        }
        (None, last) => last.unwrap_or(Value::Array(Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;

    fn texts(pipeline: &Pipeline) -> Vec<Vec<String>> {
        let text = |argument| match argument {
            ::redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(), // Arg is foreign and non-exhaustive.
        };
        pipeline.cmd_iter().map(|command| command.args_iter().map(text).collect()).collect()
    }

    #[test]
    fn what_was_deleted_since_the_last_mark_stands_ahead_of_the_next_one_in_one_step() {
        let mut again = KeySet::default();
        ["a", "b"].iter().for_each(|key| _ = again.insert(key.as_bytes(), FamilyId(0), 0));
        let expected = [Some(b"old".to_vec())];
        let none = KeySet::default();
        let packing = Packing::Billed;
        let swapping =
            |again, leases| Swapping { name: "s", expected: &expected, mark: b"new", again, leases, packing };
        let set = ["SET", "crieur:mark:s", "new", "IFEQ", "old"];
        assert_eq!(texts(&swapping(&none, Leases::None).plain().expect("one mark")), [set]);
        let transaction = texts(&swapping(&again, Leases::Companion).plain().expect("one mark"));
        let unlink = ["UNLINK", "a", "lease:{a}", "b", "lease:{b}"];
        assert_eq!(transaction, [&["MULTI"][..], &unlink, &set, &["EXEC"]]);
        let cheap = texts(&swapping(&again, Leases::Companion).cheap().expect("one mark")).remove(0);
        assert_eq!(cheap[2..], ["5", "crieur:mark:s", "a", "lease:{a}", "b", "lease:{b}", "new", "IFEQ", "old"]);
        assert_eq!(texts(&swapping(&none, Leases::None).cheap().expect("one mark")), [set]);
        let bytes = texts(&swapping(&again, Leases::None).script_of_bytes()).remove(0);
        assert_eq!(bytes[2..], ["1", "crieur:mark:s", "new", "1", "+old", "61", "62"]);
        let script = texts(&swapping(&again, Leases::None).script(None)).remove(0);
        assert_eq!(script[2..], ["3", "crieur:mark:s", "a", "b", "new", "", "", "", "old"]);
    }

    #[test]
    fn a_key_that_nobody_can_have_stored_there_is_no_cause_to_refuse_the_mark() {
        let mut again = KeySet::default();
        for length in [32 * 1024 - 8, 32 * 1024, 32 * 1024 + 1] {
            again.insert(&vec![b'k'; length], FamilyId(0), 0);
        }
        let expected = [None];
        let counts = |packing| {
            let (mark, leases) = (b"new", Leases::Companion);
            let swapping = Swapping { name: "s", expected: &expected, mark, again: &again, leases, packing };
            let sent = |pipeline: Pipeline| texts(&pipeline).iter().map(Vec::len).sum::<usize>();
            let transaction = sent(swapping.plain().expect("one mark"));
            (texts(&swapping.script(None))[0][2].clone(), transaction)
        };
        assert_eq!(counts(Packing::Billed), ("4".to_owned(), 1 + 4 + 4 + 1));
        assert_eq!(counts(Packing::Free).0, "7");
    }

    #[test]
    fn of_a_transaction_the_last_reply_counts_and_any_refusal_in_it() {
        let queued = || Value::SimpleString("QUEUED".to_owned());
        let done = |last| vec![Value::Okay, queued(), queued(), Value::Array(vec![Value::Int(2), last])];
        assert_eq!(outcome(done(Value::Okay)), Value::Okay);
        assert_eq!(outcome(done(Value::Nil)), Value::Nil);
        assert_eq!(outcome(vec![Value::Int(1)]), Value::Int(1));
    }
}
