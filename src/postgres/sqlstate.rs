//! What a PostgreSQL error means for the daemon: one table from SQLSTATE to class and hint.
//!
//! Codes decide, never message texts, which are translated. Unknown means transient: a retry that cannot succeed shows
//! in the log, a stop needs a human. Codes: PostgreSQL's `src/backend/utils/errcodes.txt`.

use tokio_postgres::error::SqlState;

use crate::error::{Class, Error, Exit};
use crate::postgres::dsn::SessionTarget;

const PASSWORD: &str = "Correct role and password in the connection string; the daemon waits minutes before it tries again, \
                        because repeated failures get an address banned.";
const ACCESS: &str = "Name a role that exists and that pg_hba.conf admits to this database, from this address, with or \
                      without TLS as it asks.";
const SLOTS: &str = "Raise max_connections, max_wal_senders or max_replication_slots, or end what uses them.";
const PRIVILEGE: &str =
    "Grant what is missing: `crieur check` prints the SQL (replication needs ALTER ROLE ... REPLICATION).";
const MISSING: &str = "Run `crieur setup`: it creates the publication and the slot.";
const STATE: &str = "Run `crieur check`: wal_level must be logical. A slot whose WAL was removed is made anew by \
                     `crieur run`, and the cache is swept then.";
const POOLER: &str = "If this address is a pooler, use the server's direct address.";

/// The server starts, recovers or shuts down.
pub const CANNOT_CONNECT_NOW: &str = "57P03";

/// The class of an error and what to do about it.
pub fn classify(code: &str) -> (Class, Option<&'static str>) {
    match code {
        "28P01" => (Class::TransientSlow, Some(PASSWORD)),
        "28000" => (Class::TransientSlow, Some(ACCESS)),
        "3D000" | "57P04" => {
            (Class::Definite(Exit::Config), Some("Name an existing database in the connection string."))
        }
        "42501" => (Class::Definite(Exit::NoPermission), Some(PRIVILEGE)),
        "42704" => (Class::Definite(Exit::Config), Some(MISSING)),
        // `slot is active for PID`: our own walsender from before a cut, until wal_sender_timeout; or another daemon.
        "55006" => (Class::Transient, Some("Another session holds the slot; a daemon stands by until it is free.")),
        // `wal_level < logical`, an invalidated slot; `undefined_file` is a WAL segment that was removed.
        "55000" | "58P01" => (Class::Definite(Exit::Unavailable), Some(STATE)),
        "42601" => (Class::Definite(Exit::Software), Some(POOLER)),
        "08P01" => (Class::Transient, Some(POOLER)),
        // An option of `options=` or of START_REPLICATION that the server does not take.
        "22023" => (Class::Definite(Exit::Config), Some("Check `options` in the connection string.")),
        "53300" | "53400" => (Class::Transient, Some(SLOTS)),
        _ => (Class::Transient, None),
    }
}

/// Whether the error ends or concerns the connection, not the statement.
pub fn is_connection(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "08" | "28" | "53" | "58" | "XX") || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05")
}

/// The text of a refused statement that cannot hold a row value. Messages of other classes quote the parameters that
/// they dislike, and anybody's function may write anything into them: of these only the code's own name is said, and
/// the type of the value where the message is one of the server's known ones.
pub fn statement_text(code: &str, message: &str) -> String {
    let words = match code.get(..2).unwrap_or_default() {
        "0A" | "25" | "42" | "57" => Some(message.to_owned()),
        _ => about_type(message).or_else(|| name_of(code).map(str::to_owned)),
    };
    words.map_or_else(|| format!("SQLSTATE {code}"), |words| format!("{words} (SQLSTATE {code})"))
}

/// What `ereport` says of a value that its type does not take (src/backend/utils/adt), without the value.
fn about_type(message: &str) -> Option<String> {
    let plain = |name: &str| {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_ ".contains(&b));
        is_name.then(|| name.to_owned())
    };
    for begins in ["invalid input syntax for type ", "invalid input value for enum "] {
        if let Some((name, _)) = message.strip_prefix(begins).and_then(|rest| rest.split_once(": \"")) {
            return plain(name).map(|name| format!("{begins}{name}"));
        }
    }
    let (_, name) = message.strip_prefix("value \"")?.rsplit_once("\" is out of range for type ")?;
    plain(name).map(|name| format!("value is out of range for type {name}"))
}

/// The name of a code that a lookup may meet, as in errcodes.txt.
fn name_of(code: &str) -> Option<&'static str> {
    Some(match code {
        "21000" => "cardinality violation, as of a subquery with more than one row",
        "22001" => "string data right truncation",
        "22003" => "numeric value out of range",
        "22004" => "null value not allowed",
        "22007" => "invalid datetime format",
        "22008" => "datetime field overflow",
        "22012" => "division by zero",
        "22021" => "character not in repertoire",
        "22023" => "invalid parameter value",
        "22032" => "invalid JSON text",
        "22P02" => "invalid text representation of a type",
        "22P05" => "untranslatable character",
        "23514" => "check violation",
        "2202E" => "array subscript error",
        "40001" => "serialization failure",
        "40P01" => "deadlock detected",
        "53100" => "disk full",
        "53200" => "out of memory",
        "53400" => "configuration limit exceeded",
        "54001" => "statement too complex",
        "55P03" => "lock not available",
        "P0001" => "an exception that a function raised",
        "P0002" => "no data found",
        "P0003" => "too many rows",
        "XX000" => "internal error",
        "XX001" => "data corrupted",
        "XX002" => "index corrupted",
        _ => return None,
    })
}

/// The error of an ErrorResponse. Its message is the server's, but for the classes that speak of data: they may quote
/// a row's values.
pub fn server_error(code: &str, message: &str) -> Error {
    let (class, hint) = classify(code);
    let speaks_of_data = matches!(code.get(..2).unwrap_or_default(), "21" | "22" | "23" | "38" | "39" | "44" | "P0");
    let text = match speaks_of_data && code != "22023" {
        true => format!("SQLSTATE {code}"),
        false => format!("{message} (SQLSTATE {code})"),
    };
    let mut error = Error::transient(text).class(class);
    error.hint = hint.map(str::to_owned);
    error.sqlstate = Some(code.to_owned());
    error
}

/// The fields `C` and `M` of an ErrorResponse's body; empty where missing.
pub fn error_fields(body: &[u8]) -> (String, String) {
    let (mut code, mut message) = (String::new(), String::new());
    for field in body.split(|&byte| byte == 0) {
        match field.split_first() {
            Some((b'C', text)) => code = String::from_utf8_lossy(text).into_owned(),
            Some((b'M', text)) => message = String::from_utf8_lossy(text).into_owned(),
            Some(_) | None => {}
        }
    }
    (code, message)
}

/// The server is a standby and a primary is wanted, or the contrary.
pub fn wrong_target(wanted: SessionTarget) -> Error {
    let (is, hint) = match wanted {
        SessionTarget::Standby => {
            ("a primary", "target_session_attrs asks for a standby: name one, or take the parameter out.")
        }
        SessionTarget::Primary | SessionTarget::Any => (
            "a standby",
            "The primary is wanted: name every host in the connection string, and the one that is the primary is found.",
        ),
    };
    Error::transient(format!("the server is {is}")).hint(hint)
}

/// The server asks for a password, and none was given.
pub fn no_password() -> Error {
    Error::definite(Exit::Config, "the server asks for a password, and the connection string holds none")
        .hint("Write it behind the role, postgres://role:password@host/database, or let pg_hba.conf do without.")
}

/// An error of an ordinary session.
pub fn session_error(error: &tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(server) => server_error(server.code().code(), server.message()),
        None => {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            if cause == "password missing" {
                return no_password();
            }
            let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
            Error::transient(format!("{error}{cause}"))
        }
    }
}

/// What a server answers where a text has no form in UTF-8, or is none of its own encoding.
pub(crate) fn is_of_encoding(code: &SqlState) -> bool {
    *code == SqlState::UNTRANSLATABLE_CHARACTER || *code == SqlState::CHARACTER_NOT_IN_REPERTOIRE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_class() {
        let definite = Class::Definite;
        for (code, class, hinted) in [
            ("28P01", Class::TransientSlow, true),
            ("28000", Class::TransientSlow, true),
            ("57P01", Class::Transient, false),
            ("57P02", Class::Transient, false),
            ("57P03", Class::Transient, false),
            ("57P04", definite(Exit::Config), true),
            ("57014", Class::Transient, false),
            ("53300", Class::Transient, true),
            ("53400", Class::Transient, true),
            ("08006", Class::Transient, false),
            ("08P01", Class::Transient, true),
            ("XX000", Class::Transient, false),
            ("0A000", Class::Transient, false),
            ("25006", Class::Transient, false),
            ("3D000", definite(Exit::Config), true),
            ("42704", definite(Exit::Config), true),
            ("42501", definite(Exit::NoPermission), true),
            ("55006", Class::Transient, true),
            ("55000", definite(Exit::Unavailable), true),
            ("58P01", definite(Exit::Unavailable), true),
            ("42601", definite(Exit::Software), true),
            ("22023", definite(Exit::Config), true),
            ("ZZZZZ", Class::Transient, false),
            ("", Class::Transient, false),
        ] {
            let (got, hint) = classify(code);
            assert_eq!((got, hint.is_some()), (class, hinted), "{code}");
        }
    }

    #[test]
    fn a_refused_statement_shows_no_value() {
        for (code, message, said) in [
            ("22P02", "invalid input syntax for type uuid: \"secret\"", "invalid input syntax for type uuid"),
            ("22P02", "invalid input syntax for type secret", "invalid text representation of a type"),
            ("22P02", "invalid input syntax for type {secret}: \"x\"", "invalid text representation of a type"),
            ("22P02", "invalid input value for enum mood: \"secret: \"x\"", "invalid input value for enum mood"),
            ("22P02", "ungültige Eingabesyntax für Typ uuid: »secret«", "invalid text representation of a type"),
            ("22003", "value \"secret\" is out of range for type integer", "value is out of range for type integer"),
            ("P0001", "secret", "an exception that a function raised"),
            ("42703", "no column", "no column"),
        ] {
            assert_eq!(statement_text(code, message), format!("{said} (SQLSTATE {code})"), "{message}");
        }
        assert_eq!(statement_text("ZZZZZ", "secret"), "SQLSTATE ZZZZZ");
    }

    #[test]
    fn an_error_of_the_stream_shows_no_value() {
        for (code, shown) in [("22P02", false), ("23505", false), ("P0001", false), ("22023", true), ("57P01", true)] {
            assert_eq!(server_error(code, "a secret").message.contains("secret"), shown, "{code}");
        }
    }

    #[test]
    fn error_fields_are_total() {
        let code = ("28P01".to_owned(), "no".to_owned());
        assert_eq!(error_fields(b"SFATAL\0C28P01\0Mno\0\0"), code);
        assert_eq!(error_fields(b""), (String::new(), String::new()));
        assert_eq!(error_fields(b"\0\0M"), (String::new(), String::new()));
    }
}
