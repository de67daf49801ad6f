//! What a command costs where commands are billed. Pure.
//!
//! Upstash bills each command, also each of a pipeline, of a transaction and inside of a script; MULTI and EXEC are taken
//! for billed, which the documents do not say. A lost answer is counted: whether the command was executed is not known.

use redis::{Arg, Cmd, Value};

/// Commands that are free.
const FREE: [&[u8]; 8] = [b"AUTH", b"INFO", b"PING", b"QUIT", b"COMMAND", b"ECHO", b"SELECT", b"CLIENT"];

/// Keys that a script deletes with one command (`SWAP` in `swap.rs`).
const SCRIPT_KEYS: u64 = 500;
/// The same of `SWAP_CHEAP`.
const CHEAP_KEYS: u64 = 5_000;

/// Commands that are billed for this one, of which this is the reply, if there was one.
pub(super) fn of(command: &Cmd, reply: Option<&Value>) -> u64 {
    let argument = |index: usize| match command.args_iter().nth(index) {
        Some(Arg::Simple(bytes)) => bytes,
        _ => b"", // Arg is foreign and non-exhaustive.
    };
    let name = argument(0).to_ascii_uppercase();
    if FREE.contains(&name.as_slice()) {
        return 0;
    }
    if name != b"EVAL" {
        return 1;
    }
    // Which of our scripts it is shows in its arguments: a look at the mark has none, that of `probe.rs` one.
    let keys = std::str::from_utf8(argument(2)).ok().and_then(|keys| keys.parse::<u64>().ok()).unwrap_or(1);
    let behind = (command.args_iter().len() as u64).saturating_sub(3 + keys);
    match (behind, reply) {
        (0, _) => 2,
        (1, _) => 3,
        // Looked, deleted, set (`SWAP`), or only looked.
        (_, Some(Value::Int(1))) => 3 + keys.saturating_sub(1).div_ceil(SCRIPT_KEYS),
        (_, Some(Value::Int(_))) => 2,
        // Deleted and set by comparison (`SWAP_CHEAP`); a lost answer and a refusal are taken for that as well.
        (_, _) => 2 + keys.saturating_sub(1).div_ceil(CHEAP_KEYS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_costs_what_it_calls_and_who_one_is_costs_nothing() {
        for (words, reply, cost) in [
            (&["unlink", "a", "b"][..], Some(Value::Int(2)), 1),
            (&["INFO", "server"], None, 0),
            (&["MULTI"], Some(Value::Okay), 1),
            (&["EVAL", "x", "1", "k"], Some(Value::Nil), 2),
            (&["EVAL", "x", "1", "k", "asks"], None, 3),
            (&["EVAL", "x", "1", "k", "new", "", "", "", "old"], Some(Value::Int(1)), 3),
            (&["EVAL", "x", "3", "k", "a", "b", "new", "", "", "", "old"], Some(Value::Int(1)), 4),
            (&["EVAL", "x", "3", "k", "a", "b", "new", "", "", "", "old"], Some(Value::Int(0)), 2),
            (&["EVAL", "x", "3", "k", "a", "b", "new", "IFEQ", "old"], Some(Value::Okay), 3),
            (&["EVAL", "x", "3", "k", "a", "b", "new", "IFEQ", "old"], None, 3),
        ] {
            let mut command = Cmd::new();
            command.arg(words);
            assert_eq!(of(&command, reply.as_ref()), cost, "{words:?}");
        }
    }
}
