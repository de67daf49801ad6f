//! A way to a cache: commands out, as many replies back. What is asked over it does not know which way it is.

use ::redis::{Arg, Cmd, Pipeline, Value};

use super::identity::Info;
use super::{Deleted, reply};
use crate::config::Leases;
use crate::error::{Error, Result};

/// What is written for the sake of what is read behind it; the service forgets it after a minute.
const SYNC_KEY: &str = "crieur:sync";

/// A way to a cache, for one call.
#[allow(async_fn_in_trait)] // One thread: no future of ours needs to be Send.
pub(super) trait Speaks {
    /// Sends the pipeline, which holds about `bytes` of data, and reads as many replies as it has commands, errors among
    /// them.
    async fn exchange(&mut self, pipeline: &Pipeline, bytes: usize) -> Result<Vec<Value>>;

    /// UNLINKs the keys, each with its lease, and checks every reply. Keys that may be too long for the server come back.
    async fn unlink<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a [u8]>,
        leases: Leases,
    ) -> Result<(Deleted, Vec<&'a [u8]>)>;

    /// What the server said of itself when it was met.
    fn info(&self) -> &Info;

    /// Sends one command and reads its reply.
    async fn ask(&mut self, command: Cmd) -> Result<Value> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let reply = self.exchange(&pipeline, 0).await?.pop();
        reply.ok_or_else(|| reply::unexpected("a command"))
    }
}

/// Where notes are left: no slot has a hyphen in its name, so it is the name of no mark.
pub(super) const NOTE: &str = "crieur:mark:-note";

/// How long a note stays there, in milliseconds.
const NOTE_MS: u32 = 10_000;

/// Leaves a note.
pub(super) async fn leave_note(way: &mut impl Speaks, note: &str) -> Result<()> {
    let mut command = Cmd::new();
    command.arg("SET").arg(NOTE).arg(note).arg("PX").arg(NOTE_MS);
    match way.ask(command).await? {
        Value::ServerError(error) => Err(reply::refused("SET", &error)),
        _ => Ok(()), // Value is foreign and non-exhaustive.
    }
}

/// The note that is there.
pub(super) async fn find_note(way: &mut impl Speaks) -> Result<Option<Vec<u8>>> {
    // A region that lags would not have it yet.
    match way.ask(read_at_primary(NOTE)).await? {
        Value::BulkString(note) => Ok(Some(note)),
        Value::ServerError(error) => Err(reply::refused("EVAL", &error)),
        _ => Ok(None), // Value is foreign and non-exhaustive.
    }
}

/// The values of keys; `None` for a key that is not there, or holds another type than text.
pub(super) async fn values(way: &mut impl Speaks, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut pipeline = Pipeline::with_capacity(keys.len());
    for key in keys {
        pipeline.cmd("GET").arg(key.as_slice());
    }
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let replies = way.exchange(&pipeline, keys.iter().map(Vec::len).sum()).await?;
    let value = |reply| match reply {
        Value::BulkString(value) => Ok(Some(value)),
        Value::Nil => Ok(None),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(None),
        Value::ServerError(error) => Err(reply::refused("GET", &error)),
        _ => Err(reply::unexpected("GET")), // Value is foreign and non-exhaustive.
    };
    replies.into_iter().map(value).collect()
}

/// The reply of a command that counts.
pub(super) fn count(command: &str, value: &Value) -> Result<u64> {
    match value {
        Value::Int(count) => u64::try_from(*count).map_err(|_| reply::unexpected(command)),
        Value::ServerError(error) => Err(reply::refused(command, error)),
        _ => Err(reply::unexpected(command)), // Value is foreign and non-exhaustive.
    }
}

/// The text of the mark in the reply to a question for it: `Err(None)` where it is no text, which somebody else wrote
/// under our name. Kept, it could never be compared nor replaced.
pub(super) fn mark(command: &str, value: Value) -> std::result::Result<Option<Vec<u8>>, Option<Error>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(mark) => Ok(Some(mark)),
        Value::ServerError(error) if error.code() == "WRONGTYPE" => Err(None),
        Value::ServerError(error) => Err(Some(reply::refused(command, &error))),
        _ => Err(Some(reply::unexpected(command))), // Value is foreign and non-exhaustive.
    }
}

/// A write of our own: reads behind it, which replicas may answer, see everything that was there. Whoever may not write
/// that key reads behind the last delete.
pub(super) async fn write_something(link: &mut impl Speaks) -> Result<()> {
    let mut command = Cmd::new();
    command.arg("SET").arg(SYNC_KEY).arg("").arg("PX").arg(60_000);
    match link.ask(command).await? {
        Value::ServerError(error) if error.code() != "NOPERM" && error.code() != "OOM" => {
            Err(reply::refused("SET", &error))
        }
        _ => Ok(()), // Value is foreign and non-exhaustive.
    }
}

/// Asks for a key.
pub(super) fn read(key: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg("GET").arg(key);
    command
}

/// Asks the primary for a key: a script may write, so no replica runs it.
pub(super) fn read_at_primary(key: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg("EVAL").arg("return redis.call('GET', KEYS[1])").arg(1).arg(key);
    command
}

/// Whether the command may change something, as far as those go that crieur sends.
pub(super) fn may_write(command: &Cmd) -> bool {
    let Some(Arg::Simple(name)) = command.args_iter().next() else { return true }; // Arg is foreign and non-exhaustive.
    ![&b"GET"[..], b"SCAN", b"INFO", b"DBSIZE", b"PTTL"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_count_is_success() {
        assert_eq!(count("UNLINK", &Value::Int(0)).ok(), Some(0));
        for value in [Value::Int(-1), Value::Nil, Value::Okay, Value::Array(vec![]), Value::BulkString(b"1".to_vec())] {
            assert!(count("UNLINK", &value).is_err(), "{value:?}");
        }
    }
}
