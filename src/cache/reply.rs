//! What an error reply of the cache means: one pure table from its code to a class and a way out.
//!
//! The code is the first word of a RESP error (`src/server.c`, `shared.*err`). The text after it is never repeated:
//! `ERR unknown command` quotes the arguments, which are keys, which hold row values.

use ::redis::{RedisError, ServerError, Value};

use crate::error::{Class, Error, Exit};

/// The commands that the cache's user needs.
pub const COMMANDS: &str = "+unlink +scan +get +set +eval";

const GRANT: &str = "Grant the cache's user what crieur needs: ACL SETUSER <user> ~* +unlink +scan +get +set +eval \
    (and +select for a database other than 0).";
const LOGIN: &str = "Check user and password in cache.url.";
const CLUSTER: &str = "This server is a cluster node; this version speaks to one primary that holds all keys.";
const WAIT: &str = "The cache is busy with itself; the keys go again until it answers.";

/// The error for an error reply to `command`.
pub fn refused(command: &str, reply: &ServerError) -> Error {
    classify(command, reply.code(), reply.details().unwrap_or_default())
}

/// Whether the server closes the connection behind this reply: it cannot read the request (`setProtocolError`,
/// src/networking.c), for example an argument above `proto-max-bulk-len`.
pub fn closes(reply: &Value) -> bool {
    let Value::ServerError(error) = reply else { return false };
    error.details().is_some_and(|detail| detail.starts_with("Protocol error"))
}

/// The error for a reply of a shape that `command` never has.
pub fn unexpected(command: &str) -> Error {
    Error::transient(format!("the cache answered {command} with a reply of the wrong type"))
}

/// The error for a connection that could not be made, broke, or stayed silent.
///
/// Only the operating system's and the TLS library's words are kept: the text of a parse error quotes the reply.
pub fn broken(error: RedisError) -> Error {
    if let Some(code) = error.code() {
        return classify("the connection", code, error.detail().unwrap_or_default());
    }
    if error.is_timeout() {
        return Error::transient("the cache did not answer in time");
    }
    if error.is_io_error() {
        let text = error.to_string();
        let lost = Error::transient("the connection to the cache failed").because(error);
        return if text.contains("certificate") {
            lost.hint("Check cache.tls_ca and the host name in cache.url against the cache's certificate.")
        } else {
            lost
        };
    }
    Error::transient("the cache sent bytes that are no reply")
}

/// The error behind which the server ended the connection.
pub fn last_words(code: &str, detail: &str) -> Error {
    classify("the connection", code, detail)
}

fn classify(command: &str, code: &str, detail: &str) -> Error {
    let (class, hint) = meaning(code, detail);
    // A code is a short word of capitals; anything else may be data.
    let plain = !code.is_empty() && code.len() <= 24 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = if plain { code } else { "an error" };
    let error = Error::transient(format!("the cache answered {command} with {code}")).class(class);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Class and way out of one code. An unknown one is transient: a retry shows in the log, a stop needs a human.
fn meaning(code: &str, detail: &str) -> (Class, Option<&'static str>) {
    let (class, hint) = match code {
        "READONLY" => (
            Class::Transient,
            "The cache is a replica, perhaps the old primary after a failover; cache.url must lead to the primary.",
        ),
        "OOM" => (Class::Transient, "The cache is at maxmemory and evicts nothing; raise it or set a policy."),
        "MISCONF" => (Class::Transient, "The cache cannot write its snapshot and refuses writes; look at its disk."),
        "NOREPLICAS" => (Class::Transient, "The cache has fewer replicas than min-replicas-to-write asks for."),
        "LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" => (Class::Transient, WAIT),
        "CLUSTERDOWN" => (Class::Transient, CLUSTER),
        "NOPERM" => (Class::Transient, GRANT),
        // No server of this protocol bans an address for wrong passwords: a pause of minutes would only leave keys stale.
        "NOAUTH" | "WRONGPASS" => (Class::Transient, LOGIN),
        "DENIED" => (Class::Transient, "The cache is in protected mode; give it a password or bind it."),
        "MOVED" | "ASK" | "CROSSSLOT" => (Class::Definite(Exit::Unavailable), CLUSTER),
        "ERR" => return meaning_of_err(detail),
        _ => return (Class::Transient, None),
    };
    (class, Some(hint))
}

/// `ERR` is the code for everything without one; a few texts are stable enough to be known.
fn meaning_of_err(detail: &str) -> (Class, Option<&'static str>) {
    let known = [
        (
            "unknown command",
            Class::Definite(Exit::Unavailable),
            "The server is too old, or has one of the commands renamed or off that crieur needs: UNLINK, SCAN, GET, SET, EVAL.",
        ),
        ("max number of clients", Class::Transient, "The cache has no connection left; raise maxclients."),
        ("DB index is out of range", Class::Definite(Exit::Config), "The cache has no such database; see cache.url."),
        ("invalid DB index", Class::Definite(Exit::Config), "The cache has no such database; see cache.url."),
        ("SELECT is not allowed in cluster", Class::Definite(Exit::Unavailable), CLUSTER),
        (
            "AUTH <password> called without any password",
            Class::Transient,
            "The cache has no password for its default user; take it out of cache.url or set it there.",
        ),
        ("invalid password", Class::Transient, LOGIN), // Before Redis 6.
        // What a long command is answered with before the log-in, instead of NOAUTH (networking.c).
        ("Protocol error: unauthenticated", Class::Transient, LOGIN),
        // A command inside of a script (`scriptVerifyACL` in script.c).
        ("The user executing the script", Class::Transient, GRANT),
    ];
    known
        .into_iter()
        .find(|(text, ..)| detail.starts_with(text))
        .map_or((Class::Transient, None), |(_, class, hint)| (class, Some(hint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_class_and_a_hint() {
        let definite = Class::Definite(Exit::Unavailable);
        let cases = [
            ("READONLY", "You can't write against a read only replica.", Class::Transient),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Class::Transient),
            ("LOADING", "Redis is loading the dataset in memory", Class::Transient),
            ("MISCONF", "Redis is configured to save RDB snapshots", Class::Transient),
            ("NOPERM", "this user has no permissions", Class::Transient),
            ("NOAUTH", "Authentication required.", Class::Transient),
            ("WRONGPASS", "invalid username-password pair", Class::Transient),
            ("DENIED", "Redis is running in protected mode", Class::Transient),
            ("BUSY", "Redis is busy running a script.", Class::Transient),
            ("TRYAGAIN", "Multiple keys request during rehashing", Class::Transient),
            ("CLUSTERDOWN", "Hash slot not served", Class::Transient),
            ("MASTERDOWN", "Link with MASTER is down", Class::Transient),
            ("NOREPLICAS", "Not enough good replicas to write.", Class::Transient),
            ("MOVED", "3999 127.0.0.1:6381", definite),
            ("ASK", "3999 127.0.0.1:6381", definite),
            ("CROSSSLOT", "Keys in request don't hash to the same slot", definite),
            ("ERR", "unknown command 'UNLINK', with args beginning with: 'user:7'", definite),
            ("ERR", "max number of clients reached", Class::Transient),
            ("ERR", "DB index is out of range", Class::Definite(Exit::Config)),
        ];
        for (code, detail, class) in cases {
            let error = classify("UNLINK", code, detail);
            assert_eq!(error.class, class, "{code} {detail}");
            assert!(error.hint.is_some(), "{code} {detail}");
            assert_eq!(error.message, format!("the cache answered UNLINK with {code}"));
        }
    }

    #[test]
    fn an_unknown_code_is_transient_and_no_text_of_the_server_is_repeated() {
        for (code, detail) in [("ERR", "secret"), ("EXECABORT", "secret"), ("NEW", "secret"), ("secret", ""), ("", "")]
        {
            let error = classify("GET", code, detail);
            assert_eq!(error.class, Class::Transient, "{code}");
            assert!(!error.chain().contains("secret"), "{}", error.chain());
        }
    }

    #[test]
    fn the_hint_of_noperm_names_every_command() {
        let hint = classify("UNLINK", "NOPERM", "").hint.expect("NOPERM is in the table");
        assert!(hint.contains(COMMANDS), "{hint}");
    }
}
