//! Steps that are tried again until they succeed, each a future that owns what it needs.
//!
//! A transient error means the same step again after a jittered pause, for as long as it takes; only a definite error
//! ends a future with `Err`. An outage is logged once when it begins and once when it ends, with a reminder each minute.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{Class, Error, Exit, Result};
use crate::failpoints::sooner;
use crate::observe::{Id, log};
use crate::outage::{Outage, Say, span};
use crate::random;

/// Who must answer for a step to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The cache.
    Cache,
    /// The ordinary session at PostgreSQL.
    Session,
    /// The read replicas.
    Replicas,
}

impl Part {
    fn fails(self) -> Id {
        match self {
            Part::Cache => Id::CacheFailing,
            Part::Session => Id::SessionFailing,
            Part::Replicas => Id::ReplicaFailing,
        }
    }

    /// How long it may be left alone. What is deleted late is stale for so long, and a cache that is back, or whose place
    /// another took, is to be found within a second.
    fn backoff(self) -> Backoff {
        match self {
            Part::Cache => Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            Part::Session | Part::Replicas => Backoff::default(),
        }
    }

    fn works(self) -> Id {
        match self {
            Part::Cache => Id::CacheWorks,
            Part::Session => Id::SessionWorks,
            Part::Replicas => Id::ReplicaWorks,
        }
    }
}

/// Tries `step` until it succeeds or fails for good.
pub async fn insist<T>(part: Part, what: &str, mut step: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut backoff = part.backoff();
    let (mut outage, mut server) = (Outage::default(), None);
    loop {
        let error = match step().await {
            Ok(value) => {
                if let Some(lasted) = outage.over(Instant::now()) {
                    log!(part.works(), server, after = span(lasted), "{what} works again");
                }
                return Ok(value);
            }
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.while_doing(what)),
        };
        complain(part.fails(), what, &error, outage.failed(&error.chain(), Instant::now()));
        let wait = pause(&mut backoff, &error);
        server = error.at.or(server);
        sleep(wait).await;
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
        Say::First => log!(id, hint, "failed to {what}: {chain}; crieur tries again"),
        Say::Still(lasted) => log!(id.lasting(), hint, "failed to {what} for {} now: {chain}", span(lasted)),
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
    fn what_one_of_several_refuses_for_good_is_tried_again() {
        let wrong = || Error::definite(Exit::NoPermission, "no").hint("do");
        assert!(!Company::Alone.judge(wrong()).is_transient());
        let judged = Company::AmongOthers.judge(wrong());
        assert_eq!((judged.is_transient(), judged.hint.as_deref()), (true, Some("do")));
        assert!(!Company::AmongOthers.judge(Error::definite(Exit::Software, "ours")).is_transient());
    }
}
