//! Every command that crieur sends, tried in a form that changes nothing: by the daemon before it deletes anything, and by
//! `crieur check`. Both judge the replies by the table in `reply.rs`, so that nothing stops the one that the other passes.
//!
//! Keys are deleted only under names that nobody can hold (random, inside of each family, so that key patterns of an ACL
//! are tried too). Writing the mark is tried with arguments that contradict each other: the server looks at permissions
//! before it parses them (`processCommand` in `src/server.c`), so nothing is written.

use ::redis::{Cmd, Pipeline, ServerError, Value};

use super::identity::Info;
use super::lease;
use super::publish;
use super::reply::{self, Mends};
use super::sentinel::SentinelReport;
use super::speak::Speaks;
use crate::config::Leases;
use crate::error::{Error, Result};
use crate::glob;
use crate::random;

/// The commands of the mark's script (`SWAP` in `redis.rs`), each as far as it can be tried: the first that is refused is
/// the answer. `ARGV[1]` says whether the script will ask who the server is. Before version 7 a script's error has its
/// place before its code.
const SCRIPT: &str = "local function refused(reply)
  if type(reply) ~= 'table' or not reply.err then return false end
  return string.match(reply.err, '%u%u%u+ .*') or reply.err
end
local found = refused(redis.pcall('GET', KEYS[1]))
if found and not string.find(found, 'WRONGTYPE', 1, true) then return found end
if ARGV[1] ~= '' then
  local info = refused(redis.pcall('INFO', 'server'))
  if info then return info end
end
return refused(redis.pcall('SET', KEYS[1], '', 'NX', 'XX'))";

/// What was found out about a cache.
#[derive(Debug)]
pub struct Examined {
    /// Sections `server` and `replication` of INFO.
    pub info: Info,
    /// Section `memory`.
    pub memory: Info,
    /// Each attempt.
    pub tried: Vec<Tried>,
    /// The user that tried.
    pub user: String,
    /// What the Sentinels say, where they were asked.
    pub sentinels: Option<SentinelReport>,
}

/// One attempt.
#[derive(Debug)]
pub struct Tried {
    /// What the command is for: the sweep, the mark, a family.
    pub subject: String,
    /// The command.
    pub command: &'static str,
    /// What refused it, and who mends that.
    pub refusal: Option<(Error, Mends)>,
}

impl Tried {
    /// The refusal, for whoever needs nothing but the first.
    pub fn into_result(self) -> Result<()> {
        self.refusal.map_or(Ok(()), |(error, _)| Err(error.while_doing(&self.subject)))
    }
}

/// What a command is for, and the command.
struct Attempt {
    subject: String,
    command: &'static str,
    cmd: Cmd,
}

/// Tries everything. An error is one of the connection.
pub(super) async fn each(
    link: &mut impl Speaks,
    mark: &str,
    families: &[Vec<u8>],
    leases: Leases,
) -> Result<Vec<Tried>> {
    if let Some(error) = link.info().field("redis_mode").and_then(reply::unsuitable) {
        let refusal = Some((error, Mends::Person));
        return Ok(vec![Tried { subject: "look at the server".to_owned(), command: "INFO", refusal }]);
    }
    let random = random_name();
    let attempts = attempts(mark, families, leases, link.info().identity().is_some(), &random);
    try_each(link, families, attempts, |_| false).await
}

/// The same at a node of a cluster: keys go one by one, and where their slot is another's the node says so behind the
/// permissions, which is all that is asked for.
pub(super) async fn each_in_cluster(
    link: &mut impl Speaks,
    mark: &str,
    families: &[Vec<u8>],
    leases: Leases,
) -> Result<Vec<Tried>> {
    let random = random_name();
    let mut attempts = attempts(mark, &[], leases, link.info().identity().is_some(), &random);
    for family in families {
        let mut unlink = Cmd::new();
        let key = probe_key(family, &random);
        unlink.arg("UNLINK").arg(&key);
        if leases == Leases::Companion {
            let mut companion = Vec::new();
            lease::write(&mut companion, &key);
            unlink.arg(companion);
        }
        attempts.push(Attempt { subject: deletes(family), command: "UNLINK", cmd: unlink });
    }
    try_each(link, families, attempts, is_elsewhere).await
}

/// Whether the user may tell readers on this channel; the daemon goes on without that right, so `crieur check` alone asks.
pub(super) async fn telling(link: &mut impl Speaks, channel: &str) -> Result<Tried> {
    let cmd = publish::of_nobody(channel);
    let reply = link.ask(cmd.clone()).await?;
    Ok(judged(Attempt { subject: format!("tell readers on \"{channel}\""), command: "PUBLISH", cmd }, &reply))
}

/// What a node of a cluster says of a slot that it does not have, or not alone; nothing is wrong with the user then.
fn is_elsewhere(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" | "CLUSTERDOWN")
}

fn deletes(family: &[u8]) -> String {
    format!("delete keys of family {}", String::from_utf8_lossy(family).escape_debug())
}

/// Sends the attempts, of which those of the families stand last, and judges the replies but those that say nothing.
async fn try_each(
    link: &mut impl Speaks,
    families: &[Vec<u8>],
    attempts: Vec<Attempt>,
    says_nothing: impl Fn(&Value) -> bool,
) -> Result<Vec<Tried>> {
    let replies = exchange(link, attempts.iter().map(|attempt| &attempt.cmd)).await?;
    let judged = |(attempt, value): (Attempt, &Value)| match says_nothing(value) {
        true => Tried { subject: attempt.subject, command: attempt.command, refusal: None },
        false => judged(attempt, value),
    };
    let mut tried: Vec<Tried> = attempts.into_iter().zip(&replies).map(judged).collect();
    // An ACL may name a constant key exactly, and no other: reading that key is harmless, and tells.
    let refused =
        replies.iter().rev().zip(families.iter().rev()).map(|(reply, family)| (is_key_refused(reply), family));
    let constant: Vec<Option<Cmd>> = refused
        .map(|(refused, family)| (refused && glob::is_literal(family)).then(|| get(&glob::literal_prefix(family))))
        .collect();
    let read = exchange(link, constant.iter().flatten()).await?;
    let mut read = read.into_iter();
    for (tried, _) in tried.iter_mut().rev().zip(constant).filter(|(_, asked)| asked.is_some()) {
        let permitted = read.next().is_some_and(|value| !is_key_refused(&value));
        tried.refusal = tried.refusal.take().filter(|_| !permitted);
    }
    Ok(tried)
}

async fn exchange(link: &mut impl Speaks, commands: impl Iterator<Item = &Cmd>) -> Result<Vec<Value>> {
    let mut pipeline = Pipeline::new();
    commands.for_each(|command| _ = pipeline.add_command(command.clone()));
    if pipeline.is_empty() { Ok(Vec::new()) } else { link.exchange(&pipeline, 0).await }
}

fn get(key: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("GET").arg(key);
    command
}

/// Everything that is sent, those of the families last and in their order.
fn attempts(mark: &str, families: &[Vec<u8>], leases: Leases, tells: bool, random: &str) -> Vec<Attempt> {
    let mut scan = Cmd::new();
    scan.arg("SCAN").arg(0).arg("MATCH").arg(random).arg("COUNT").arg(1);
    let mut set = Cmd::new();
    set.arg("SET").arg(mark).arg("").arg("NX").arg("XX");
    let mut eval = Cmd::new();
    eval.arg("EVAL").arg(SCRIPT).arg(1).arg(mark).arg(if tells { "asks" } else { "" });
    let attempt = |subject: &str, command, cmd| Attempt { subject: subject.to_owned(), command, cmd };
    let mut out = vec![
        attempt("sweep", "SCAN", scan),
        attempt("read the mark", "GET", get(mark.as_bytes())),
        attempt("write the mark", "SET", set),
        attempt("write the mark", "EVAL", eval),
    ];
    for family in families {
        let mut unlink = Cmd::new();
        unlink.arg("UNLINK");
        // Two keys: a node of a cluster refuses them.
        for other in ["", "-2"] {
            let key = probe_key(family, &format!("{random}{other}"));
            if leases == Leases::Companion {
                let mut companion = Vec::new();
                lease::write(&mut companion, &key);
                unlink.arg(companion);
            }
            unlink.arg(key);
        }
        out.push(Attempt { subject: deletes(family), command: "UNLINK", cmd: unlink });
    }
    out
}

/// A key inside of the family that nobody holds: `*` becomes the random name, an escape becomes what it escapes. A
/// constant key gets the random name behind it, because the key itself must stay.
fn probe_key(family: &[u8], random: &str) -> Vec<u8> {
    let mut key = Vec::new();
    let mut bytes = family.iter().copied();
    let mut is_pattern = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => key.extend(bytes.next()),
            b'*' => {
                is_pattern = true;
                key.extend_from_slice(random.as_bytes());
            }
            other => key.push(other),
        }
    }
    if !is_pattern {
        key.extend_from_slice(random.as_bytes());
    }
    key
}

/// A name that nobody holds.
fn random_name() -> String {
    format!("crieur-check-{:016x}", u64::from_ne_bytes(random::bytes()))
}

/// What the reply to one attempt means.
fn judged(Attempt { subject, command, .. }: Attempt, value: &Value) -> Tried {
    let refusal = match (command, value) {
        ("SCAN", Value::Array(_)) | ("UNLINK" | "PUBLISH", Value::Int(_)) => None,
        ("GET" | "EVAL", Value::Nil) | ("GET", Value::BulkString(_)) => None,
        // The mark is no text: the daemon removes it.
        ("GET", Value::ServerError(error)) if error.code() == "WRONGTYPE" => None,
        // The contradiction was reached: everything before it is permitted.
        ("SET", Value::ServerError(error)) if is_contradiction(error.code(), error.details().unwrap_or_default()) => {
            None
        }
        ("EVAL", Value::BulkString(text)) => {
            let text = String::from_utf8_lossy(text);
            let (code, detail) = text.split_once(' ').unwrap_or((&text, ""));
            (!is_contradiction(code, detail)).then(|| refusal("EVAL", code, detail))
        }
        (_, Value::ServerError(error)) => Some(of_server(command, error)),
        (_, _) => Some((reply::unexpected(command), Mends::Person)), // Value is foreign and non-exhaustive.
    };
    Tried { subject, command, refusal }
}

/// `ERR syntax error`; whatever else the table does not know comes behind the permissions, too.
fn is_contradiction(code: &str, detail: &str) -> bool {
    code == "ERR" && reply::mends(code, detail) == Mends::Itself
}

fn of_server(command: &str, error: &ServerError) -> (Error, Mends) {
    refusal(command, error.code(), error.details().unwrap_or_default())
}

fn refusal(command: &str, code: &str, detail: &str) -> (Error, Mends) {
    (reply::classify(command, code, detail), reply::mends(code, detail))
}

/// Refused for the key, not for the command: `ACLSelectorCheckCmd` and its text (src/acl.c) in every version.
fn is_key_refused(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    error.code() == "NOPERM" && !error.details().is_some_and(|detail| detail.contains("command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_key_lies_in_its_family_and_is_nobodys() {
        for (family, key) in [
            (&b"properties:city:*"[..], &b"properties:city:R"[..]),
            (b"a:*:b:*", b"a:R:b:R"),
            (br"odd\*\\:*", br"odd*\:R"),
            (b"all_properties_public", b"all_properties_publicR"),
        ] {
            assert_eq!(probe_key(family, "R"), key);
        }
        assert_ne!(random_name(), random_name());
    }

    #[test]
    fn each_attempt_changes_nothing() {
        let families = [b"p:*".to_vec()];
        let sent: Vec<String> = attempts("crieur:mark:crieur", &families, Leases::Companion, true, "R")
            .iter()
            .map(|attempt| String::from_utf8_lossy(&attempt.cmd.get_packed_command()).replace("\r\n", " "))
            .collect();
        assert_eq!(sent.len(), 5);
        for writes in &sent[2..4] {
            assert!(writes.contains("NX") && writes.contains("XX"), "a SET that can never write: {writes}");
        }
        assert!(sent[4].contains("lease:{p:R}"), "{}", sent[4]);
    }

    #[test]
    fn a_reply_is_permission_or_a_refusal_with_its_class() {
        let error = |line: &str| {
            let (code, detail) = line.split_once(' ').expect("a code and a text");
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            Value::ServerError(error.try_into().expect("a server's error"))
        };
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let definite = Some((false, Mends::Person));
        let (transient, rights) = (Some((true, Mends::Person)), Some((true, Mends::Rights)));
        for (command, value, refused) in [
            ("SET", error("ERR syntax error"), None),
            ("SET", error("ERR unknown command 'SET'"), definite),
            ("SET", error("READONLY replica"), transient),
            ("EVAL", text("ERR syntax error"), None),
            ("EVAL", text("NOPERM ACL failure in script: set"), rights),
            ("EVAL", error("ERR unknown command 'EVAL'"), definite),
            ("GET", error("WRONGTYPE a list"), None),
            ("GET", error("LOADING dataset"), Some((true, Mends::Itself))),
            ("UNLINK", error("CROSSSLOT keys"), definite),
            ("UNLINK", error("NOPERM no permissions"), rights),
            ("UNLINK", Value::Int(0), None),
            ("PUBLISH", Value::Int(0), None),
            ("PUBLISH", error("NOPERM this user has no permissions to access one of the channels"), rights),
            ("SCAN", Value::Int(0), transient),
        ] {
            let attempt = Attempt { subject: String::new(), command, cmd: Cmd::new() };
            let tried = judged(attempt, &value);
            assert_eq!(
                tried.refusal.map(|(error, mends)| (error.is_transient(), mends)),
                refused,
                "{command} {value:?}"
            );
        }
    }

    #[test]
    fn a_refusal_of_the_key_is_told_from_one_of_the_command() {
        let refused = |detail: &str| {
            let error = redis::make_extension_error("NOPERM".to_owned(), Some(detail.to_owned()));
            is_key_refused(&Value::ServerError(error.try_into().expect("a server's error")))
        };
        assert!(refused("this user has no permissions to access one of the keys used as arguments"));
        assert!(refused("No permissions to access a key"));
        assert!(!refused("this user has no permissions to run the 'unlink' command or its subcommand"));
        assert!(!refused("User ann has no permissions to run the 'unlink' command"));
    }
}
