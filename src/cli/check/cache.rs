//! The cache: reachable, permitted, and which server it is.
//!
//! Harmless by construction. Keys are deleted only under names that nobody can hold (random, inside of each family, so
//! that key patterns of an ACL are tried too). Writing the mark is tried with arguments that contradict each other: the
//! server looks at permissions before it parses them (`processCommand` in `src/server.c`), so nothing is written.

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, RedisError, Value, cmd};

use crate::cache::lease;
use crate::cli::check::Finding;
use crate::config::Leases;

/// Findings on the cache behind an open connection.
pub async fn findings(
    connection: &mut impl ConnectionLike,
    slot: &str,
    families: &[Vec<u8>],
    leases: Leases,
) -> Vec<Finding> {
    if let Err(error) = ask(connection, &cmd("PING")).await {
        return vec![answer("cache", "PING", Err(error))];
    }
    let mut out = vec![server(&text(connection, cmd("INFO").arg("server")).await)];
    out.extend(eviction(&text(connection, cmd("INFO").arg("memory")).await));
    for (subject, command) in attempts(slot, families, leases, &random_name()) {
        let name = String::from_utf8_lossy(command.args_iter().next().map_or(&b""[..], first)).into_owned();
        out.push(answer(&subject, &name, ask(connection, &command).await.map(drop)));
    }
    out
}

/// One command; the crate hands over a server's refusal as a value, which here is an error.
async fn ask(connection: &mut impl ConnectionLike, command: &Cmd) -> Result<Value, RedisError> {
    connection.req_packed_command(command).await.and_then(Value::extract_error)
}

/// The bytes of a command's word.
fn first(arg: redis::Arg<&[u8]>) -> &[u8] {
    match arg {
        redis::Arg::Simple(bytes) => bytes,
        _ => b"",
    }
}

/// A reply as text; empty where the server refuses, because INFO is for information only.
async fn text(connection: &mut impl ConnectionLike, command: &Cmd) -> String {
    match ask(connection, command).await {
        Ok(Value::BulkString(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        Ok(Value::SimpleString(text) | Value::VerbatimString { text, .. }) => text,
        Ok(_) | Err(_) => String::new(),
    }
}

/// Everything that the daemon sends, in a form that changes nothing.
fn attempts(slot: &str, families: &[Vec<u8>], leases: Leases, random: &str) -> Vec<(String, Cmd)> {
    let mark = format!("crieur:mark:{slot}");
    let mut scan = cmd("SCAN");
    scan.arg(0).arg("MATCH").arg(random).arg("COUNT").arg(1);
    let mut get = cmd("GET");
    get.arg(&mark);
    let mut set = cmd("SET");
    set.arg(&mark).arg("").arg("NX").arg("XX");
    let mut eval = cmd("EVAL");
    eval.arg("return redis.call('GET', KEYS[1])").arg(1).arg(&mark);
    let marks = [get, set, eval].map(|command| ("mark".to_owned(), command));
    let mut out = vec![("sweep".to_owned(), scan)];
    out.extend(marks);
    for family in families {
        let mut unlink = cmd("UNLINK");
        let key = probe_key(family, random);
        if leases == Leases::Companion {
            let mut companion = Vec::new();
            lease::write(&mut companion, &key);
            unlink.arg(companion);
        }
        unlink.arg(key);
        out.push((format!("family {}", String::from_utf8_lossy(family).escape_debug()), unlink));
    }
    out
}

/// A key inside of the family that nobody holds: `*` becomes the random name, an escape becomes what it escapes. A
/// constant key gets the random name behind it, because the key itself must stay; an ACL that names it exactly is
/// then reported as too narrow, which the pattern form of the README's example avoids.
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

/// A name that nobody holds: a seed of the standard library's hasher, which comes from the system's random source.
fn random_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("crieur-check-{:016x}", RandomState::new().hash_one("check"))
}

/// What the reply to one attempt means. Pure.
fn answer(subject: &str, command: &str, reply: Result<(), RedisError>) -> Finding {
    let subject = if subject == "cache" { subject.to_owned() } else { format!("cache, {subject}") };
    let Err(error) = reply else { return Finding::ready(subject, format!("{command} is permitted")) };
    match error.code() {
        // The contradiction in the attempt was reached: permission was granted.
        Some("ERR") if command == "SET" => Finding::ready(subject, format!("{command} is permitted")),
        Some("NOPERM") => Finding::wrong(subject, format!("{command} is not permitted to this user")).mend(
            "ACL SETUSER <user> +ping +info +unlink +scan +get +set +eval ~crieur:mark:* ~<each family of the rules> (and ~lease:* with cache.leases = \"companion\")",
        ),
        Some("NOAUTH" | "WRONGPASS") => {
            Finding::wrong(subject, "the cache refuses the user or the password").mend("correct cache.url or REDIS_URL")
        }
        Some("READONLY") => Finding::wrong(subject, "this is a replica; keys are deleted on the primary")
            .mend("put the primary's host into cache.url"),
        // Loading, out of memory, a script that runs: the daemon waits for these to pass.
        Some(code) => {
            Finding::note(subject, format!("{command} was answered with {code}; crieur tries again until it passes"))
        }
        None if error.kind() == ErrorKind::AuthenticationFailed => {
            Finding::wrong(subject, "the cache refuses the user or the password").mend("correct cache.url or REDIS_URL")
        }
        None => {
            Finding::wrong(subject, format!("{command} got no answer")).mend("start the cache, or correct cache.url")
        }
    }
}

/// The value of a line `name:value` of INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

/// Which server it is; Redis before 6 has no ACL and no SCAN TYPE, Valkey begins at 7.
fn server(info: &str) -> Finding {
    if let Some(version) = field(info, "valkey_version") {
        return Finding::ready("cache", format!("Valkey {version} answers"));
    }
    let Some(version) = field(info, "redis_version") else {
        let mend = "grant +info: without it every new connection counts as one to another cache";
        return Finding::note("cache", format!("answers, and does not say who it is; {mend}"));
    };
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(0..6) => Finding::wrong("cache", format!("Redis {version}; 6 is the oldest that is supported"))
            .mend("upgrade the cache"),
        Some(_) | None => Finding::ready("cache", format!("Redis {version} answers")),
    }
}

/// What happens when the cache is full.
fn eviction(info: &str) -> Option<Finding> {
    let policy = field(info, "maxmemory_policy")?;
    let limited = field(info, "maxmemory").is_some_and(|bytes| bytes != "0");
    Some(match (limited, policy) {
        (true, "noeviction") => {
            Finding::note("cache", "maxmemory with noeviction: when full, the mark cannot be written")
        }
        (true, _) => Finding::ready("cache", format!("evicts by {policy} when full")),
        (false, _) => Finding::note("cache", "no maxmemory: the cache grows until the system's memory is full"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Verdict;

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
        let sent: Vec<String> = attempts("crieur", &[b"p:*".to_vec()], Leases::Companion, "R")
            .iter()
            .map(|(_, command)| String::from_utf8_lossy(&command.get_packed_command()).replace("\r\n", " "))
            .collect();
        assert_eq!(sent.len(), 5);
        assert!(sent[2].contains("NX") && sent[2].contains("XX"), "a SET that can never write: {}", sent[2]);
        assert!(sent[4].contains("lease:{p:R}"), "{}", sent[4]);
    }

    #[test]
    fn info_tells_the_server_and_what_happens_when_it_is_full() {
        for (info, verdict, words) in [
            ("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n", Verdict::Ready, "Valkey 8.0.1"),
            ("redis_version:7.0.15\r\n", Verdict::Ready, "Redis 7.0.15"),
            ("redis_version:5.0.3\r\n", Verdict::Wrong, "6 is the oldest"),
            ("", Verdict::Note, "does not say who it is"),
        ] {
            let found = server(info);
            assert_eq!(found.verdict, verdict);
            assert!(found.seen.contains(words), "{found:?}");
        }
        let full = "maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n";
        assert_eq!(eviction(full).map(|found| found.verdict), Some(Verdict::Note));
        assert_eq!(
            eviction("maxmemory:9\r\nmaxmemory_policy:allkeys-lru\r\n").map(|f| f.verdict),
            Some(Verdict::Ready)
        );
    }

    #[test]
    fn replies_tell_permission_from_weather() {
        let error = |line: &str| {
            let (code, detail) = line.split_once(' ').expect("a code and a text");
            redis::make_extension_error(code.to_owned(), Some(detail.to_owned()))
        };
        for (command, line, verdict) in [
            ("SET", "ERR syntax error", Verdict::Ready),
            ("UNLINK", "NOPERM no permissions", Verdict::Wrong),
            ("SCAN", "NOPERM no permissions", Verdict::Wrong),
            ("GET", "READONLY replica", Verdict::Wrong),
            ("GET", "LOADING dataset", Verdict::Note),
        ] {
            assert_eq!(answer("x", command, Err(error(line))).verdict, verdict, "{line}");
        }
    }
}
