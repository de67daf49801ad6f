//! What an error reply of the cache means: one pure table from its code to a class and a way out.
//!
//! The code is the first word of a RESP error (`src/server.c`, `shared.*err`). The text after it is never repeated:
//! `ERR unknown command` quotes the arguments, which are keys, which hold row values.

use ::redis::{RedisError, ServerError, Value};

use crate::error::{Class, Error, Exit};

const GRANT: &str = "`crieur check` prints the ACL SETUSER line that this user needs: its keys, and \
    +info +select +unlink +scan +get +set +eval.";
const PASSWORD: &str = "The cache asks for a password and none was given: write it into cache.url, redis://:PASSWORD@HOST for the \
    default user, redis://USER:PASSWORD@HOST for another.";
const LOGIN: &str = "The password is wrong, or the cache has no such user: correct cache.url. Without a user's name it is the password of \
    the user \"default\".";
/// Where Redis 6 has the code of an error that a script met.
const IN_SCRIPT: &str = "@user_script:";
/// What a server says that has no connection left (`acceptCommonHandler` in networking.c).
const MAXCLIENTS: &str = "max number of clients";
const CLUSTER: &str = "This server is a node of a cluster: write its address as redis+cluster://HOST:PORT, with rediss+cluster:// for TLS.";
const IN_CLUSTER: &str = "Slots are on their way, or have no node that takes writes: `redis-cli --cluster check HOST:PORT` tells. The \
    keys go again until a node takes them.";
const SENTINEL: &str = "Write redis+sentinel://host:port,host:port/NAME, with all Sentinels and the name that `SENTINEL MASTERS` shows; \
    or name the primary itself.";
const QUOTA: &str = "Raise the plan, or wait until the month (or the day) ends: nothing is deleted until then, and crieur goes on by \
    itself. The budget of this cache bounds what crieur itself uses; the application's own commands count, too.";
const REPLICA: &str = "The cache is a replica, perhaps the old primary after a failover; cache.url must lead to the primary, and a \
    load balancer in front of it to nothing else.";
const WAIT: &str = "The cache is busy with itself; the keys go again until it answers.";

/// Who mends what a reply complains of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mends {
    /// It passes: the same command succeeds later.
    Itself,
    /// A person: the address, the log-in, the server is not one that crieur can work with.
    Person,
    /// A person: the user lacks a right.
    Rights,
}

/// The error for an error reply to `command`.
pub fn refused(command: &str, reply: &ServerError) -> Error {
    classify(command, reply.code(), reply.details().unwrap_or_default())
}

/// Who mends what this error reply complains of.
pub fn mends(code: &str, detail: &str) -> Mends {
    meaning(code, detail).0.1
}

/// The error for a server that says it is a replica. A writable one is no cache either: what is deleted there comes back.
pub fn replica() -> Error {
    Error::transient("the cache says that it is a replica (READONLY)").hint(REPLICA)
}

/// The error for a server that Sentinels name and that is no primary: the failover is not over, or already another one.
pub fn demoted() -> Error {
    Error::transient("the server that the Sentinels name says that it is no primary (ROLE)").hint(
        "It is asked for again until it is one. If that lasts, SENTINEL MASTER tells what the Sentinels see of it.",
    )
}

/// The error for a server of a kind that holds no keys, or not all of them.
pub fn unsuitable(mode: &str) -> Option<Error> {
    let (what, hint) = match mode {
        "sentinel" => ("a Sentinel, which holds no keys", SENTINEL),
        "cluster" => ("a node of a cluster", CLUSTER),
        _ => return None,
    };
    Some(Error::definite(Exit::Unavailable, format!("the cache is {what}")).hint(hint))
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
        .hint("Another server than a cache answers there, or something between changes bytes: correct cache.url.")
}

/// The error behind which the server ended the connection.
pub fn last_words(code: &str, detail: &str) -> Error {
    classify("the connection", code, detail)
}

/// Whether this error says that the commands of a plan are used up.
pub(super) fn is_quota(code: &str, detail: &str) -> bool {
    code == "ERR" && QUOTA_TEXTS.iter().any(|text| detail.starts_with(text))
}

/// Of such a text the numbers are told, and nothing else.
fn used_up(detail: &str) -> String {
    let number = |name: &str| {
        let behind = detail.split_once(name)?.1.trim_start();
        let digits = behind.split(|c: char| !c.is_ascii_digit()).next()?;
        (!digits.is_empty() && digits.len() <= 15).then_some(digits)
    };
    let of = if detail.starts_with(QUOTA_TEXTS[1]) { "day" } else { "month" };
    match (number("Limit:"), number("Usage:")) {
        (Some(limit), Some(usage)) => {
            format!("the plan of this cache is used up: {usage} commands of {limit} in this {of}")
        }
        (Some(limit), None) => format!("the plan of this cache is used up: {limit} commands in this {of}"),
        (None, _) => format!("the plan of this cache is used up: its commands of this {of}"),
    }
}

pub(super) fn classify(command: &str, code: &str, detail: &str) -> Error {
    let ((class, _), hint) = meaning(code, detail);
    // A code is a short word of capitals; anything else may be data.
    let plain = !code.is_empty() && code.len() <= 24 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    let code = if plain {
        code
    } else if code == IN_SCRIPT {
        "ERR"
    } else {
        "an error"
    };
    let message = match code {
        _ if is_quota(code, detail) => used_up(detail),
        "ERR" if detail.starts_with(MAXCLIENTS) => {
            format!("the cache refused the connection: too many clients (maxclients): ERR {MAXCLIENTS} reached")
        }
        _ => format!("the cache answered {command} with {code}"),
    };
    let error = Error::transient(message).class(class);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The same in a cluster, whose slots move: what would stop the daemon elsewhere passes there.
pub(super) fn in_cluster(command: &str, code: &str, detail: &str) -> Error {
    let error = classify(command, code, detail);
    match code {
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => error.class(Class::Transient).hint(IN_CLUSTER),
        _ => error,
    }
}

/// It passes by itself.
const WEATHER: (Class, Mends) = (Class::Transient, Mends::Itself);
/// A person mends it, and the daemon goes on by itself then.
const MENDED: (Class, Mends) = (Class::Transient, Mends::Person);
/// A right is missing, which may be granted while the daemon runs.
const GRANTED: (Class, Mends) = (Class::Transient, Mends::Rights);
/// The same, and each try would be refused for hours.
const USED_UP: (Class, Mends) = (Class::TransientSlow, Mends::Person);
/// How the texts begin that say that a plan's commands are used up.
const QUOTA_TEXTS: [&str; 2] = ["max requests limit exceeded", "max daily request limit exceeded"];
/// No retry can help.
const STOPS: (Class, Mends) = (Class::Definite(Exit::Unavailable), Mends::Person);

/// Class, who mends it, and the way out of one code: for the daemon and for `check`. An unknown code is transient: a
/// retry shows in the log, a stop needs a human.
fn meaning(code: &str, detail: &str) -> ((Class, Mends), Option<&'static str>) {
    let (class, hint) = match code {
        "READONLY" => (MENDED, REPLICA),
        "OOM" => (WEATHER, "The cache is at maxmemory and evicts nothing; raise it or set a policy."),
        "MISCONF" => (MENDED, "The cache cannot write its snapshot and refuses writes; look at its disk."),
        "NOREPLICAS" => (WEATHER, "The cache has fewer replicas than min-replicas-to-write asks for."),
        "LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" => (WEATHER, WAIT),
        "CLUSTERDOWN" => (MENDED, CLUSTER),
        "NOPERM" => (GRANTED, GRANT),
        // No server of this protocol bans an address for wrong passwords: a pause of minutes would only leave keys stale.
        "NOAUTH" => (MENDED, PASSWORD),
        "WRONGPASS" => (MENDED, LOGIN),
        "DENIED" => (MENDED, "The cache is in protected mode; give it a password or bind it."),
        "MOVED" | "ASK" | "CROSSSLOT" => (STOPS, CLUSTER),
        "ERR" => return meaning_of_err(detail),
        // Redis 6 puts the place in a script before the text, and no code (`luaPushError` in scripting.c).
        IN_SCRIPT => return meaning_of_err(detail.split_once(": ").map_or(detail, |(_, text)| text)),
        _ => return (WEATHER, None),
    };
    (class, Some(hint))
}

/// `ERR` is the code for everything without one; a few texts are stable enough to be known.
fn meaning_of_err(detail: &str) -> ((Class, Mends), Option<&'static str>) {
    const NO_DATABASE: &str = "The cache has no such database; see cache.url.";
    let config = (Class::Definite(Exit::Config), Mends::Person);
    let known = [
        (
            "unknown command",
            STOPS,
            "The server is too old, or has one of the commands renamed or off that crieur needs: UNLINK, SCAN, GET, SET, EVAL.",
        ),
        (MAXCLIENTS, WEATHER, "The cache has no connection left; raise maxclients."),
        ("DB index is out of range", config, NO_DATABASE),
        ("invalid DB index", config, NO_DATABASE),
        ("SELECT is not allowed in cluster", STOPS, CLUSTER),
        (
            "AUTH <password> called without any password",
            MENDED,
            "The cache has no password for its default user; take it out of cache.url or set it there.",
        ),
        ("invalid password", MENDED, LOGIN), // Before Redis 6.
        // What a long command is answered with before the log-in, instead of NOAUTH (networking.c).
        ("Protocol error: unauthenticated", MENDED, PASSWORD),
        (QUOTA_TEXTS[0], USED_UP, QUOTA),
        (QUOTA_TEXTS[1], USED_UP, QUOTA),
        // A command inside of a script (`scriptVerifyACL` in script.c).
        ("ACL failure in script", GRANTED, GRANT),
        ("The user executing the script", GRANTED, GRANT),
        (
            "Unknown Redis command called from",
            STOPS,
            "The server has a command off that crieur needs inside of a script.",
        ),
    ];
    known
        .into_iter()
        .find(|(text, ..)| detail.starts_with(text))
        .map_or((WEATHER, None), |(_, class, hint)| (class, Some(hint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::acl;

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
            if !detail.starts_with(MAXCLIENTS) {
                assert_eq!(error.message, format!("the cache answered UNLINK with {code}"));
            }
        }
    }

    #[test]
    fn a_refused_connection_a_missing_password_and_a_wrong_one_are_told_apart() {
        let full = last_words("ERR", "max number of clients reached");
        let said = "the cache refused the connection: too many clients (maxclients): ERR max number of clients reached";
        assert_eq!(full.message, said);
        assert!(full.hint.is_some_and(|hint| hint.contains("raise maxclients")));
        for (code, detail, hint) in [
            ("NOAUTH", "Authentication required.", PASSWORD),
            ("ERR", "Protocol error: unauthenticated bulk length", PASSWORD),
            ("WRONGPASS", "invalid username-password pair or user is disabled.", LOGIN),
            ("ERR", "invalid password", LOGIN),
        ] {
            assert_eq!(classify("the log-in", code, detail).hint.as_deref(), Some(hint), "{code} {detail}");
        }
    }

    #[test]
    fn a_plan_that_is_used_up_is_named_with_its_numbers_and_asked_seldom() {
        let month = "max requests limit exceeded. Limit: 500000, Usage: 500003. See https://secret";
        for (detail, message) in [
            (month, "the plan of this cache is used up: 500003 commands of 500000 in this month"),
            (
                "max daily request limit exceeded. Limit: 10000",
                "the plan of this cache is used up: 10000 commands in this day",
            ),
            ("max requests limit exceeded", "the plan of this cache is used up: its commands of this month"),
        ] {
            let error = classify("UNLINK", "ERR", detail);
            assert_eq!((error.message.as_str(), error.class), (message, Class::TransientSlow));
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
        assert!(hint.contains(acl::COMMANDS), "{hint}");
    }

    #[test]
    fn what_stops_the_daemon_is_for_a_person() {
        for (code, detail, mends) in [
            ("LOADING", "", Mends::Itself),
            ("OOM", "", Mends::Itself),
            ("NEW", "", Mends::Itself),
            ("READONLY", "", Mends::Person),
            ("NOPERM", "", Mends::Rights),
            ("ERR", "ACL failure in script: User ann has no permissions to run the 'set' command", Mends::Rights),
            ("ERR", "The user executing the script can't run this command or subcommand", Mends::Rights),
            (IN_SCRIPT, "1: The user executing the script can't run this command or subcommand", Mends::Rights),
            ("CROSSSLOT", "", Mends::Person),
            ("ERR", "unknown command 'EVAL'", Mends::Person),
            ("ERR", "DB index is out of range", Mends::Person),
            ("ERR", "max requests limit exceeded. Limit: 500000", Mends::Person),
            ("ERR", "max daily request limit exceeded. Limit: 10000, Usage: 10000.", Mends::Person),
        ] {
            assert_eq!(super::mends(code, detail), mends, "{code} {detail}");
            assert!(mends != Mends::Itself || classify("X", code, detail).is_transient(), "{code}");
        }
        for (mode, stops) in [("standalone", false), ("", false), ("sentinel", true), ("cluster", true)] {
            assert_eq!(unsuitable(mode).is_some_and(|error| error.exit() == Exit::Unavailable), stops, "{mode}");
        }
    }
}
