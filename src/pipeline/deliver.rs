//! The waiting parts of the loop: steps that are tried again until they succeed, each a future that owns what it needs.
//!
//! A transient error means the same step again after a jittered pause, for as long as it takes; only a definite error
//! ends a future with `Err`. An outage is logged once when it begins and once when it ends, with a reminder each minute.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::cache::{Cache, Deleted, Swept};
use crate::control::Control;
use crate::echo::Delivery;
use crate::error::{Class, Error, Result};
use crate::failpoints::{Step, reached};
use crate::keys::KeySet;
use crate::observe::{Id, log};
use crate::pipeline::answers::Answers;
use crate::pipeline::outage::{Outage, Say, span};
use crate::question::{Answer, LookupId, Question};
use crate::rules::Rules;
use crate::rules::plan::cause::Cause;

/// Questions in one round trip. What was answered is kept while a later part is tried again.
const QUESTIONS_MAX: usize = 1_000;

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
    let mut backoff = Backoff::default();
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

/// The pause before the next try after `error`.
pub fn pause(backoff: &mut Backoff, error: &Error) -> Duration {
    match error.class {
        Class::TransientSlow => backoff.next_slow(random()),
        Class::Transient | Class::Definite(_) => backoff.next(random()),
    }
}

/// A number in 0..1 for jitter, from the hasher's seed.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0u8) >> 11) as f64 / (1u64 << 53) as f64
}

/// A step that failed is a warning while it may mend itself, and an error when it has not.
pub(super) fn complain(id: Id, what: &str, error: &Error, say: Say) {
    let (hint, chain) = (error.hint.as_deref(), error.chain());
    match say {
        Say::First => log!(id, hint, "failed to {what}: {chain}; crieur tries again"),
        Say::Still(lasted) => log!(id.lasting(), hint, "failed to {what} for {} now: {chain}", span(lasted)),
        Say::Nothing => {}
    }
}

/// Deliveries whose keys were deleted, and what that did.
#[derive(Debug)]
pub struct Landed {
    /// The same deliveries, lookups resolved.
    pub deliveries: Vec<Delivery>,
    /// Keys sent and keys that existed.
    pub deleted: Deleted,
    /// Lookups that the server refused, widened to their families.
    pub refused: u64,
}

/// What lookups are resolved with.
#[derive(Debug)]
pub struct Asking {
    /// Whose lookups they are.
    pub rules: Rc<Rules>,
    /// What need not be asked.
    pub answers: Rc<RefCell<Answers>>,
    /// Lookups that took too long, and why: the others of their questions are not asked. One flight, one limit.
    pub late: RefCell<HashMap<LookupId, String>>,
    /// Keys that lookups add past this collapse into their families.
    pub keys_bytes_max: usize,
}

impl Asking {
    /// What need not be asked.
    fn known(&self, question: &Question) -> Option<Answer> {
        let late = self.late.borrow().get(&question.lookup).cloned();
        late.map(Answer::Late).or_else(|| self.answers.borrow().known(question).cloned())
    }

    /// Asks some of the others.
    async fn ask<D: Control>(&self, control: &D, questions: &[Question]) -> Result<Vec<Answer>> {
        let moment = self.answers.borrow().now();
        let answers =
            insist(Part::Session, "look up", async || control.ask(questions).await.map_err(Error::having_worked))
                .await?;
        self.answers.borrow_mut().keep(&self.rules, moment, questions, &answers);
        for (question, answer) in questions.iter().zip(&answers) {
            if let Answer::Late(why) = answer {
                self.late.borrow_mut().insert(question.lookup, why.clone());
            }
        }
        Ok(answers)
    }
}

/// Resolves lookups, then deletes the exact keys of all deliveries in one pipeline.
pub async fn fly<C: Cache, D: Control>(
    cache: Rc<C>,
    control: Rc<D>,
    asking: Asking,
    mut deliveries: Vec<Delivery>,
) -> Result<Landed> {
    let mut refused = 0;
    // All that leaves together is visible together: what one of them changed, the others' lookups must see.
    for delivery in &mut deliveries {
        asking.answers.borrow_mut().forget(&std::mem::take(&mut delivery.load.forgets));
    }
    for delivery in &mut deliveries {
        if !delivery.load.lookups.is_empty() {
            refused += look_up(&*control, &asking, delivery).await?;
            reached(Step::LookedUp);
        }
    }
    let keys: Vec<&KeySet> = deliveries.iter().map(|delivery| &delivery.load.keys).filter(|k| !k.is_empty()).collect();
    let mut deleted = Deleted::default();
    if !keys.is_empty() {
        deleted = insist(Part::Cache, "delete keys", async || cache.delete(&keys).await).await?;
    }
    Ok(Landed { deleted, deliveries, refused })
}

/// A piece at a time: questions and answers take many times the memory of the encoded lookups.
async fn look_up<D: Control>(control: &D, asking: &Asking, delivery: &mut Delivery) -> Result<u64> {
    let (load, rules) = (&mut delivery.load, &asking.rules);
    let bytes_max = load.keys.bytes_used() + asking.keys_bytes_max;
    let mut refused = 0;
    for lookups in std::mem::take(&mut load.lookups).pieces() {
        let questions = rules.questions(&lookups);
        let answers = answers(control, asking, &questions).await?;
        refused += complain_of_refused(asking, &questions, &answers);
        rules.resolve(&lookups, &questions, &answers, load);
        if load.keys.bytes_used() > bytes_max {
            load.collapse_largest(rules);
        }
    }
    if refused > 0 {
        load.causes.add(Cause::Refused);
    }
    Ok(refused)
}

/// The answers to all questions, in order: those that are known, and the server's to the others.
async fn answers<D: Control>(control: &D, asking: &Asking, questions: &[Question]) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for part in questions.chunks(QUESTIONS_MAX) {
        let known: Vec<Option<Answer>> = part.iter().map(|question| asking.known(question)).collect();
        let unknown = part.iter().zip(&known).filter(|(_, known)| known.is_none());
        let unknown: Vec<Question> = unknown.map(|(question, _)| question.clone()).collect();
        let asked = if unknown.is_empty() { Vec::new() } else { asking.ask(control, &unknown).await? };
        let mut asked = asked.into_iter();
        let unanswered = || Answer::Refused("the server gave too few answers".to_owned());
        answers.extend(known.into_iter().map(|known| known.or_else(|| asked.next()).unwrap_or_else(unanswered)));
    }
    Ok(answers)
}

/// Logs what the server refused, once for each lookup and cause and then once a minute; says how many questions that were.
fn complain_of_refused(asking: &Asking, questions: &[Question], answers: &[Answer]) -> u64 {
    let mut refused: BTreeMap<(LookupId, &str), u64> = BTreeMap::new();
    for (question, answer) in questions.iter().zip(answers) {
        if let Some(message) = answer.refusal() {
            *refused.entry((question.lookup, message)).or_default() += 1;
        }
    }
    let now = Instant::now();
    for ((id, message), count) in &refused {
        let said = asking.answers.borrow_mut().refused.counted(&(*id, (*message).to_owned()), *count, now);
        let Some(count) = said else { continue };
        let name = asking.rules.lookups().get(id.0 as usize).map_or("?", |lookup| lookup.name.as_str());
        log!(
            Id::LookupRefused,
            hint = "Run `crieur check`: it tries each lookup as this daemon asks it, and says what mends it.",
            questions = count,
            "lookup refused, its keys widen to their family: {name}: {message}"
        );
    }
    refused.values().sum()
}

/// Sweeps the patterns of all deliveries in one pass.
pub async fn sweep<C: Cache>(cache: Rc<C>, deliveries: Vec<Delivery>) -> Result<(Vec<Delivery>, Swept)> {
    let mut patterns = KeySet::default();
    for delivery in &deliveries {
        patterns.merge(delivery.load.patterns.clone());
    }
    let swept = insist(Part::Cache, "sweep", async || cache.sweep(&patterns).await).await?;
    Ok((deliveries, swept))
}

/// Runs `step` with a limit, for the last words at a stop.
pub async fn at_most<T>(limit: Duration, what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, step).await {
        Ok(result) => result,
        Err(_) => Err(Error::transient(format!("{what} took longer than {}", span(limit)))),
    }
}
