//! Steps that are tried again until they succeed, each a future that owns what it needs.
//!
//! A transient error means the same step again after a jittered pause, for as long as it takes; only a definite error
//! ends a future with `Err`. An outage is logged once when it begins and once when it ends, with a reminder each minute.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{Class, Error, Exit, Result};
use crate::failpoints::sooner;
use crate::observe::{Id, log};
use crate::outage::{Outage, Say, span};
use crate::random;
use crate::words::Member;

/// What must answer for a step to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A cache, or a sink.
    Cache,
    /// The ordinary session at PostgreSQL.
    Session,
    /// The read replicas.
    Replicas,
}

/// Who must answer for a step to succeed. Steps of one part fail together: the first that fails begins its outage, the
/// others say what the log does not say yet, and the outage is over when none of them fails.
#[derive(Clone, Debug)]
pub struct Part {
    kind: Kind,
    name: Rc<str>,
    trouble: Rc<RefCell<Trouble>>,
}

/// The outage of a part.
#[derive(Debug, Default)]
struct Trouble {
    outage: Outage,
    /// Steps that failed and are tried again.
    failing: usize,
    /// The server that failed.
    server: Option<Box<str>>,
}

/// A step that failed and is tried again, or given up.
struct Failing(Rc<RefCell<Trouble>>);

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.borrow_mut().failing -= 1;
    }
}

impl Part {
    fn of(kind: Kind, name: &str) -> Self {
        Part { kind, name: name.into(), trouble: Rc::default() }
    }

    /// The cache, or the sink, that the configuration calls so.
    pub fn cache(member: Member, name: &str) -> Self {
        Part::of(Kind::Cache, &format!("{} {name}", member.noun()))
    }

    /// The ordinary session at PostgreSQL.
    pub fn session() -> Self {
        Part::of(Kind::Session, "the session at PostgreSQL")
    }

    /// The read replicas.
    pub fn replicas() -> Self {
        Part::of(Kind::Replicas, "each read replica")
    }

    /// What a person calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether one of its steps fails, which the log has said.
    pub fn is_failing(&self) -> bool {
        self.trouble.borrow().failing > 0
    }

    fn fails(&self) -> Id {
        match self.kind {
            Kind::Cache => Id::CacheFailing,
            Kind::Session => Id::SessionFailing,
            Kind::Replicas => Id::ReplicaFailing,
        }
    }

    /// How long it may be left alone. What is deleted late is stale for so long, and a cache that is back, or whose place
    /// another took, is to be found within a second.
    fn backoff(&self) -> Backoff {
        match self.kind {
            Kind::Cache => Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            Kind::Session | Kind::Replicas => Backoff::default(),
        }
    }

    fn works(&self) -> Id {
        match self.kind {
            Kind::Cache => Id::CacheWorks,
            Kind::Session => Id::SessionWorks,
            Kind::Replicas => Id::ReplicaWorks,
        }
    }

    /// A step fails from now on, until the value is dropped.
    fn failing(&self) -> Failing {
        self.trouble.borrow_mut().failing += 1;
        Failing(Rc::clone(&self.trouble))
    }

    /// A step failed.
    fn failed(&self, error: &Error) -> Say {
        let mut trouble = self.trouble.borrow_mut();
        trouble.server = error.at.clone().or(trouble.server.take());
        trouble.outage.failed(&error.chain(), Instant::now())
    }

    /// A step succeeded: how long the outage was that this ends, and where.
    fn worked(&self) -> Option<(Duration, Option<Box<str>>)> {
        let mut trouble = self.trouble.borrow_mut();
        let lasted = if trouble.failing == 0 { trouble.outage.over(Instant::now()) } else { None };
        lasted.map(|lasted| (lasted, trouble.server.take()))
    }
}

/// Tries `step` until it succeeds or fails for good.
pub async fn insist<T>(part: &Part, what: &str, mut step: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let (mut backoff, mut failing) = (part.backoff(), None);
    loop {
        let error = match step().await {
            Ok(value) => {
                drop(failing);
                if let Some((lasted, server)) = part.worked() {
                    log!(part.works(), server, after = span(lasted), "{} works again", part.name);
                }
                return Ok(value);
            }
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.while_doing(what)),
        };
        failing.get_or_insert_with(|| part.failing());
        complain(part.fails(), what, &error, part.failed(&error));
        sleep(pause(&mut backoff, &error)).await;
    }
}

/// Whether the part that a step is for is the only one of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Without it there is nothing to do: what fails for good ends the daemon.
    Alone,
    /// There are others, which must go on: what fails for good is said, and tried again ever more seldom.
    AmongOthers,
}

impl Company {
    /// The error as it counts here. One of our own code ends the daemon all the same.
    pub fn judge(self, error: Error) -> Error {
        match (self, error.class) {
            (Company::Alone, _) | (_, Class::Transient | Class::TransientSlow | Class::Definite(Exit::Software)) => {
                error
            }
            (Company::AmongOthers, Class::Definite(_)) => error.class(Class::Transient),
        }
    }
}

/// The pause before the next try after `error`.
pub fn pause(backoff: &mut Backoff, error: &Error) -> Duration {
    match error.class {
        Class::TransientSlow => sooner(backoff.next_slow(random::fraction())),
        Class::Transient | Class::Definite(_) => backoff.next(random::fraction()),
    }
}

/// A step that failed is a warning while it may mend itself, and an error when it has not.
pub(crate) fn complain(id: Id, what: &str, error: &Error, say: Say) {
    let (hint, chain) = (error.hint.as_deref(), error.chain());
    match say {
        Say::First => log!(id, hint, "{chain}; failed to {what}, and crieur tries again"),
        Say::Still(lasted) => {
            log!(id.lasting(), hint, "{chain}; failed to {what} for {} now, and crieur tries again", span(lasted))
        }
        Say::Nothing => {}
    }
}

/// Runs `step` with a limit, for the last words at a stop.
pub async fn at_most<T>(limit: Duration, what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, step).await {
        Ok(result) => result,
        Err(_) => Err(Error::transient(format!("{what} took longer than {}", span(limit)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_steps_meet_is_one_outage_that_the_last_of_them_ends() {
        let part = Part::cache(Member::Cache, "main");
        let refused = || Error::transient("cannot connect").at("the cache at a:1");
        assert_eq!((part.name(), part.is_failing(), part.worked()), ("the cache main", false, None));
        let delete = part.failing();
        assert_eq!(part.failed(&refused()), Say::First);
        let (read, again) = (part.clone().failing(), part.clone());
        assert_eq!(again.failed(&refused()), Say::Nothing, "another step has the same cause");
        assert_eq!(again.failed(&Error::transient("no")), Say::First, "another cause is news");
        drop(delete);
        assert!(part.is_failing() && part.worked().is_none(), "one of them still fails");
        // A step that was given up ends nothing; the next one that succeeds does.
        drop(read);
        assert!(!part.is_failing());
        let server = part.worked().and_then(|(_, server)| server);
        assert_eq!((server.as_deref(), part.worked()), (Some("the cache at a:1"), None));
    }

    #[test]
    fn what_one_of_several_refuses_for_good_is_tried_again() {
        let wrong = || Error::definite(Exit::NoPermission, "no").hint("do");
        assert!(!Company::Alone.judge(wrong()).is_transient());
        let judged = Company::AmongOthers.judge(wrong());
        assert_eq!((judged.is_transient(), judged.hint.as_deref()), (true, Some("do")));
        assert!(!Company::AmongOthers.judge(Error::definite(Exit::Software, "ours")).is_transient());
    }
}
