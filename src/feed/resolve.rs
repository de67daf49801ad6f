//! Lookups of what left the gate: asked behind it, once for all targets, and ahead of everything that is handed over.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use tokio::time::Instant;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::failpoints::{Step, reached};
use crate::feed::answers::Answers;
use crate::feed::batch::Cut;
use crate::gate::Snapshot;
use crate::insist::{Part, insist};
use crate::kept::Kept;
use crate::observe::{Id, log};
use crate::question::{Answer, LookupId, Question};
use crate::rules::plan::cause::Cause;
use crate::rules::{Invalidations, Rules};

/// Questions in one round trip. What was answered is kept while a later part is tried again.
const QUESTIONS_MAX: usize = 1_000;

/// Questions of a cut that are given back with their answers to whoever follows single changes.
const FOLLOWED_MAX: usize = 200;

/// How many lookups were refused, and questions with their answers.
type Looked = (u64, (Vec<Question>, Vec<Answer>));

/// A cut whose lookups were answered.
#[derive(Debug)]
pub struct Resolved {
    /// Keys and patterns.
    pub cut: Cut,
    /// Lookups that the server refused, widened to their families.
    pub refused: u64,
    /// The first of the questions, with their answers, where somebody follows single changes.
    pub asked: (Vec<Question>, Vec<Answer>),
}

/// What waits for the answers of its lookups, and the answers that are kept.
#[derive(Debug)]
pub(super) struct Resolving {
    answers: Rc<RefCell<Answers>>,
    waiting: VecDeque<Cut>,
    out: Kept<Result<Resolved>>,
    /// What the cut that is out holds, in bytes.
    bytes: usize,
    /// Keys that lookups add past this collapse into their families.
    keys_bytes_max: usize,
}

impl Resolving {
    /// No answers yet. Where transactions come in another order than they were committed, one may come ahead of a change
    /// that it saw, and only asking is fresh enough: none are kept.
    pub(super) fn new(rules: &Rules, in_commit_order: bool, memory_bytes_max: usize) -> Self {
        let keeps = (0..).map(LookupId).zip(rules.lookups()).any(|(id, _)| rules.keeps(id));
        let bytes_max = if keeps && in_commit_order { memory_bytes_max / 64 } else { 0 };
        Resolving {
            answers: Rc::new(RefCell::new(Answers::new(bytes_max))),
            waiting: VecDeque::new(),
            out: Kept::default(),
            bytes: 0,
            keys_bytes_max: memory_bytes_max / 8,
        }
    }

    pub(super) fn answers(&self) -> Rc<RefCell<Answers>> {
        Rc::clone(&self.answers)
    }

    /// Another connection of the stream.
    pub(super) fn connected(&mut self) {
        self.answers.borrow_mut().connected();
    }

    /// Whether answers are kept at all.
    pub(super) fn keeps(&self) -> bool {
        self.answers.borrow().keeps()
    }

    /// What was open when the stream connected.
    pub(super) fn elders(&mut self, snapshot: Snapshot) {
        self.answers.borrow_mut().elders(snapshot);
    }

    /// A snapshot of the gate came.
    pub(super) fn saw(&mut self, snapshot: &Snapshot) {
        self.answers.borrow_mut().saw(snapshot);
    }

    /// These answers are old.
    pub(super) fn forget(&mut self, load: &mut Invalidations) {
        self.answers.borrow_mut().forget(&std::mem::take(&mut load.forgets));
    }

    pub(super) fn is_busy(&self) -> bool {
        self.out.is_out() || !self.waiting.is_empty()
    }

    pub(super) fn bytes_used(&self) -> usize {
        self.bytes + self.waiting.iter().map(|cut| cut.load.bytes_used()).sum::<usize>()
    }

    pub(super) fn push(&mut self, cut: Cut) {
        self.waiting.push_back(cut);
    }

    /// The next cut that has no lookup; one that has is asked first, and nothing goes ahead of it.
    /// `is_followed`: somebody follows single changes.
    pub(super) fn next<D: Control + 'static>(
        &mut self,
        rules: &Rc<Rules>,
        control: &Rc<D>,
        is_followed: bool,
    ) -> Option<Cut> {
        if self.out.is_out() {
            return None;
        }
        let mut cut = self.waiting.pop_front()?;
        // All that leaves together is visible together: what one of them changed, the others' lookups must see.
        self.forget(&mut cut.load);
        if cut.load.lookups.is_empty() {
            return Some(cut);
        }
        self.bytes = cut.load.bytes_used();
        let asking = Asking {
            rules: Rc::clone(rules),
            answers: Rc::clone(&self.answers),
            late: RefCell::default(),
            keys_bytes_max: self.keys_bytes_max,
            followed_max: if is_followed { FOLLOWED_MAX } else { 0 },
        };
        let control = Rc::clone(control);
        self.out.start(async move {
            let (refused, asked) = look_up(&*control, &asking, &mut cut.load).await?;
            reached(Step::LookedUp);
            Ok(Resolved { cut, refused, asked })
        });
        None
    }

    /// Waits for the answers. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<Resolved> {
        self.out.ended().await
    }

    /// The cut that was out is handed over.
    pub(super) fn landed(&mut self) {
        self.bytes = 0;
    }
}

/// What lookups are resolved with.
#[derive(Debug)]
struct Asking {
    /// Whose lookups they are.
    rules: Rc<Rules>,
    /// What need not be asked.
    answers: Rc<RefCell<Answers>>,
    /// Lookups that took too long, and why: the others of their questions are not asked. One cut, one limit.
    late: RefCell<HashMap<LookupId, String>>,
    /// Keys that lookups add past this collapse into their families.
    keys_bytes_max: usize,
    /// Questions that are given back with their answers.
    followed_max: usize,
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
            insist(&Part::session(), "look up", async || control.ask(questions).await.map_err(Error::having_worked))
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

/// A piece at a time: questions and answers take many times the memory of the encoded lookups.
async fn look_up<D: Control>(control: &D, asking: &Asking, load: &mut Invalidations) -> Result<Looked> {
    let rules = &asking.rules;
    let bytes_max = load.keys.bytes_used() + asking.keys_bytes_max;
    let (mut refused, mut asked) = (0, (Vec::new(), Vec::new()));
    for lookups in std::mem::take(&mut load.lookups).pieces() {
        let questions = rules.questions(&lookups);
        questions.iter().for_each(|question| rules.count_questions(question.lookup, 1, 0));
        let answers = answers(control, asking, &questions).await?;
        refused += complain_of_refused(asking, &questions, &answers);
        rules.resolve(&lookups, &questions, &answers, load);
        let followed = asking.followed_max.saturating_sub(asked.0.len());
        asked.0.extend(questions.into_iter().take(followed));
        asked.1.extend(answers.into_iter().take(followed));
        if load.keys.bytes_used() > bytes_max {
            load.collapse_largest(rules);
        }
    }
    if refused > 0 {
        load.causes.add(Cause::Refused);
    }
    Ok((refused, asked))
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
        asking.rules.count_questions(*id, 0, *count);
        let said = asking.answers.borrow_mut().refused.counted(&(*id, (*message).to_owned()), *count, now);
        let Some(count) = said else { continue };
        let name = asking.rules.lookups().get(id.0 as usize).map_or("?", |lookup| lookup.name.as_str());
        log!(
            Id::LookupRefused,
            hint = "Run `crieur check`: it tries each lookup as this daemon asks it, and says what mends it.",
            questions = count,
            "lookup {name} is refused, and its keys widen to their family: {message}"
        );
    }
    refused.values().sum()
}
