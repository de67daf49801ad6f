//! The way to a running outbox: log in, take the lease, ask the server who it is and what is watched.
//!
//! As in the other mode it knows what may pass and what cannot: a daemon that has worked waits for what went away, one
//! that never did stops and says what is missing.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::error::{Class, Error, Exit, Result};
use crate::lsn::Lsn;
use crate::observe::{Id, log};
use crate::postgres::link::answered;
use crate::postgres::session::{self, Session};
use crate::seen;
use crate::source::outbox::lease::{self, Acquired, Lasting, Removed};
use crate::source::outbox::options::OutboxOptions;
use crate::source::outbox::page::BEGIN_READ;
use crate::source::outbox::taken::Removal;
use crate::start::{SlotOrigin, Start};

/// The server's run, what is watched, the outbox's identity, whether writers notify.
pub(crate) const FACTS: &str = include_str!("../../../sql/outbox/facts.sql");

/// A text that is another one when [`FACTS`] would say something else of what is watched. It costs a fraction.
const DIGEST: &str = include_str!("../../../sql/outbox/digest.sql");

/// What distinguishes positions of an outbox from those of the same server's WAL: after a change of mode the mark in the
/// cache is that of another server, and everything is swept. So it is when the outbox was made anew: eras begin again.
const SYSTEM_SUFFIX: &str = "/outbox/";

/// The channel that writers notify.
const LISTEN: &str = "LISTEN crieur";

/// A session that has the lease.
#[derive(Debug)]
pub(super) struct OutboxBegun {
    pub(super) session: Session,
    pub(super) start: Start,
    pub(super) era: u32,
    /// When the lease was asked for.
    pub(super) taken_at: Instant,
}

/// What a try comes to.
#[derive(Debug)]
pub(super) enum OutboxOutcome {
    Running(Box<OutboxBegun>),
    /// Another daemon is at work; the session waits for its end.
    Busy(Box<Session>, u32),
}

/// What is known before a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OutboxPast {
    /// This daemon never had the outbox. What is missing now most likely never was there.
    None,
    /// It had. What is missing went away and may come back.
    Worked,
}

/// What names a server and its database in a mark, and the timeline.
fn server(identity: Option<(String, u32)>, database: &str, nonce: &str) -> (String, u32) {
    let (system, timeline) = identity.unwrap_or_else(|| (nonce.to_owned(), 0));
    (format!("{system}/{database}{SYSTEM_SUFFIX}{nonce}"), timeline)
}

/// What the server says about itself and its outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OutboxFacts {
    /// As in [`Start::system`].
    pub(crate) system: String,
    pub(crate) timeline: u32,
    /// As in [`Start::run`].
    pub(crate) run: String,
    /// As in [`Start::publication`], of triggers.
    pub(crate) watched: String,
    /// Writers notify.
    pub(crate) notifies: bool,
}

impl OutboxFacts {
    /// Asks for all of it.
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let identity = session::identity(client).await?;
        let row = lease::transact(client, BEGIN_READ, FACTS).await?.ok_or_else(retired)?;
        let text = |column: usize| {
            let text = row.get(column).map(str::to_owned);
            text.ok_or_else(|| Error::definite(Exit::Protocol, "the server's answers about itself cannot be read"))
        };
        let identity = identity.map(|of| (of.system, of.timeline));
        let (system, timeline) = server(identity, &text(4)?, &text(2)?);
        let watched = seen::spelled(&text(1)?);
        Ok(OutboxFacts { system, timeline, run: text(0)?, watched, notifies: text(3)? == "t" })
    }
}

/// The facts of the last look, and what tells that they are no others now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    server: Option<(String, u32)>,
    digest: String,
    pub(crate) facts: OutboxFacts,
}

impl Known {
    /// Asks for the facts only if they may differ from those of the last look. The digest is asked for first, so it is
    /// never younger than the facts that are kept with it. Of [`OutboxFacts::run`] it knows nothing.
    pub(crate) async fn read(client: &Client, last: Option<Known>) -> Result<Self> {
        // Behind a pooler the server may be another one at each question.
        let server = session::identity(client).await?.map(|of| (of.system, of.timeline));
        let row = lease::transact(client, BEGIN_READ, DIGEST).await?.ok_or_else(retired)?;
        let digest = row.get(0).map(str::to_owned);
        let digest =
            digest.ok_or_else(|| Error::definite(Exit::Protocol, "the digest of what is watched cannot be read"))?;
        match last {
            Some(known) if known.server == server && known.digest == digest => Ok(known),
            _ => Ok(Known { server, digest, facts: OutboxFacts::read(client).await? }),
        }
    }
}

/// Takes the lease, on a new session or one that waited.
pub(super) async fn begin(
    options: Arc<OutboxOptions>,
    (owner, lasting): (String, Arc<Lasting>),
    session: impl Future<Output = Result<Session>>,
    past: OutboxPast,
) -> Result<OutboxOutcome> {
    let session = session.await?;
    let client = &session.client;
    let taken_at = Instant::now();
    let begun = answered(options.answer_timeout, async {
        let (era, confirmed) = match lease::acquire(client, &options.slot, &owner, &lasting).await? {
            Acquired::Busy(pid) => return Ok(Err(pid)),
            Acquired::Mine { era, confirmed } => (era, confirmed),
        };
        let facts = OutboxFacts::read(client).await?;
        // They may be of an outbox that was made anew behind the lease: positions of the one before mean nothing there.
        if lease::remove(client, (&options.slot, &owner, &lasting), &Removal::default()).await? == Removed::Lost {
            return Err(Error::transient("the lease of the outbox was lost at once"));
        }
        if facts.notifies {
            client.batch_execute(LISTEN).await.map_err(|error| crate::postgres::sqlstate::session_error(&error))?;
        }
        Ok(Ok((era, confirmed, facts)))
    });
    let (era, confirmed, facts) = match begun.await.map_err(|error| lenient(error, past))? {
        Ok(begun) => begun,
        Err(pid) => return Ok(OutboxOutcome::Busy(Box::new(session), pid)),
    };
    let at = options.dsn.servers();
    log!(Id::OutboxStarted, at, slot = options.slot, position = %confirmed, era, notify = facts.notifies, "outbox started");
    let first = first_of(era);
    let start = Start {
        system: facts.system,
        timeline: facts.timeline,
        confirmed,
        run: facts.run,
        publication: facts.watched,
        slot: if confirmed == first { SlotOrigin::Created } else { SlotOrigin::Counted(first) },
    };
    Ok(OutboxOutcome::Running(Box::new(OutboxBegun { session, start, era, taken_at })))
}

/// Positions of an era: none reaches into the next. A terabyte of rows, and eight million eras before a `bigint` ends.
pub(super) const ERA_BYTES: u64 = 1 << 40;

/// The position before the first row of an era.
pub(super) fn first_of(era: u32) -> Lsn {
    Lsn(u64::from(era) * ERA_BYTES)
}

/// The error where nobody is to read the outbox: its setting was removed, as good as the table.
fn retired() -> Error {
    let mut error = Error::transient("crieur.setting has no row: writers leave the outbox alone");
    error.sqlstate = Some("42P01".to_owned());
    error
}

/// The error while another daemon is at work.
pub(super) fn busy(slot: &str, pid: u32) -> Error {
    let mut error = Error::transient(format!("the outbox is being read for \"{slot}\" by process {pid}"));
    error.sqlstate = Some("55006".to_owned());
    error
}

/// A schema, a table or a function that is missing: not installed yet, or on its way.
fn lenient(error: Error, past: OutboxPast) -> Error {
    match (error.sqlstate.as_deref(), past) {
        (Some("3F000" | "42P01" | "42883" | "42703"), OutboxPast::None) => error
            .class(Class::Definite(Exit::Config))
            .hint("Run `crieur setup`: it installs the schema crieur and the triggers."),
        (Some("3F000" | "42P01" | "42883" | "42703" | "42501"), OutboxPast::Worked) => error.class(Class::Transient),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_that_was_made_anew_or_copied_is_another_server() {
        let identity = || Some(("7".to_owned(), 3));
        assert_eq!(server(identity(), "5", "a"), ("7/5/outbox/a".to_owned(), 3));
        assert_ne!(server(identity(), "5", "a"), server(identity(), "5", "b"));
        assert_ne!(server(identity(), "5", "a"), server(identity(), "6", "a"), "a copy of the database");
        assert_eq!(server(None, "5", "a"), ("a/5/outbox/a".to_owned(), 0), "it may not be asked who it is");
    }
}
