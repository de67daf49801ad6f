//! The one error of the daemon's road: what went wrong, whether trying again can help, and the way out.
//!
//! Two classes, after Materialize and supabase/etl: *transient* (again, with backoff) and *definite* (stop, hint, named
//! exit code). Whoever is unsure says transient: a retry that cannot succeed shows in the log, a stop needs a human.

use std::fmt;

/// Exit codes, after BSD `sysexits.h`; docs/operate/exit-codes.md lists them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Stopped as asked.
    Ok = 0,
    /// `crieur check` or `setup` found something to mend.
    Failed = 1,
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// Bytes that cannot be understood: the stream, a recording (`EX_DATAERR`).
    Data = 65,
    /// A file that must be read cannot be (`EX_NOINPUT`).
    NoInput = 66,
    /// A server is not there or refuses for good (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A broken promise of our own code (`EX_SOFTWARE`).
    Software = 70,
    /// The operating system refused (`EX_OSERR`).
    Os = 71,
    /// A file cannot be written (`EX_CANTCREAT`).
    CantCreate = 73,
    /// The other side broke its protocol (`EX_PROTOCOL`).
    Protocol = 76,
    /// A role may not do what it must (`EX_NOPERM`).
    NoPermission = 77,
    /// The configuration or the rules are wrong (`EX_CONFIG`).
    Config = 78,
}

impl Exit {
    /// Every exit code, in order.
    pub const ALL: [Exit; 12] = [
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Data,
        Exit::NoInput,
        Exit::Unavailable,
        Exit::Software,
        Exit::Os,
        Exit::CantCreate,
        Exit::Protocol,
        Exit::NoPermission,
        Exit::Config,
    ];

    /// Those that a restart cannot mend: the systemd unit leaves the daemon down.
    pub const FOR_GOOD: [Exit; 5] = [Exit::Usage, Exit::NoInput, Exit::Unavailable, Exit::NoPermission, Exit::Config];

    /// What the code says, for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "The command or the daemon did what was asked; there is nothing to mend.",
            Exit::Failed => {
                "`crieur check`, `setup` or `teardown` found something to mend. `crieur coverage` found keys that no rule \
                 surely deletes. `crieur status` found a cache that lacks something, or does not answer. \
                 `crieur verify` found a cached value that the database contradicts. `crieur ttl` found a key that lives \
                 too long, or for ever. Of `crieur warm` some page did not come. What a command asked was answered with \
                 no, or `crieur warm` or `sweep` was interrupted."
            }
            Exit::Usage => "The command line is wrong.",
            Exit::Data => {
                "The stream or a recording holds bytes that crieur cannot understand. A list of `crieur warm` holds a line \
                 that is no address, or that leads to another site."
            }
            Exit::NoInput => "crieur cannot read a file, or the configuration file is missing.",
            Exit::Unavailable => "A server is not there, or refuses for good.",
            Exit::Software => "crieur's own code broke a promise. Please report what the log says.",
            Exit::Os => "The operating system refused something.",
            Exit::CantCreate => "crieur cannot write a file, or the standard output.",
            Exit::Protocol => "The other side broke its protocol.",
            Exit::NoPermission => "A role may not do what the role must do; docs/operate/exit-codes.md has each case.",
            Exit::Config => {
                "The configuration or the rules are wrong; the database, the publication or the outbox does not exist; \
                 the slot is somebody else's."
            }
        }
    }
}

/// Whether the same step may succeed later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Again, with backoff.
    Transient,
    /// Again, but minutes apart: repeated wrong passwords get an address banned on hosted servers.
    TransientSlow,
    /// Stop with this exit code.
    Definite(Exit),
}

/// An error with its class, its way out, and what it came from.
#[derive(Debug)]
pub struct Error {
    /// Whether to try again.
    pub class: Class,
    /// The server that it is about, and where its address was written.
    pub at: Option<Box<str>>,
    /// Lower case, no full stop; names the object's kind and never holds a row value or a password.
    pub message: String,
    /// A sentence that says what to do.
    pub hint: Option<String>,
    /// PostgreSQL's code, where a PostgreSQL server said it.
    pub sqlstate: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a step of the road.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The same step may succeed later.
    pub fn transient(message: impl Into<String>) -> Self {
        let (class, message) = (Class::Transient, message.into());
        Error { class, at: None, message, hint: None, sqlstate: None, source: None }
    }

    /// No retry can help.
    pub fn definite(exit: Exit, message: impl Into<String>) -> Self {
        Error::transient(message).class(Class::Definite(exit))
    }

    /// The same error, in another class.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a way out where there is none yet.
    #[must_use]
    pub fn hint_else(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// Puts a verb phrase before the message: "start replication: …".
    #[must_use]
    pub fn while_doing(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Names the server that it is about: whoever knows it says so, and the first who did is right.
    #[must_use]
    pub fn at(mut self, server: &str) -> Self {
        self.at.get_or_insert_with(|| server.into());
        self
    }

    /// Whether a retry can help.
    pub fn is_transient(&self) -> bool {
        !matches!(self.class, Class::Definite(_))
    }

    /// The same error, met by a step that has worked before: what a server refuses now, or a file that is not there now,
    /// may be right again by itself, and a daemon that stopped for it would leave the cache stale.
    #[must_use]
    pub fn having_worked(self) -> Self {
        match self.class {
            Class::Definite(Exit::Unavailable | Exit::NoPermission | Exit::NoInput) => self.class(Class::Transient),
            Class::Definite(_) | Class::Transient | Class::TransientSlow => self,
        }
    }

    /// The exit code that this error stops the daemon with.
    pub fn exit(&self) -> Exit {
        match self.class {
            Class::Definite(exit) => exit,
            Class::Transient | Class::TransientSlow => Exit::Unavailable,
        }
    }

    /// Server, message and the chain of causes on one line, without the hint.
    pub fn chain(&self) -> String {
        let mut text = self.at.as_ref().map_or_else(String::new, |server| format!("{server}: "));
        text.push_str(&self.message);
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.ends_with(&next) {
                text.push_str(": ");
                text.push_str(&next);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
