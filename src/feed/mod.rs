//! The feed is the stream's side: source -> rules -> batch -> gate -> lookups, once for all targets. It sees no cache.
//!
//! Events become keys of the open batch (`intake.rs`, `batch.rs`). What a snapshot contains leaves (`gating.rs`), its
//! lookups are asked (`resolve.rs`), and it is handed over, together with the position up to which nothing is owed here.
//! The feed also keeps the connection (`connect.rs`) and looks at the server (`sight.rs`). What each of the two holds
//! stands in a file that does not know the feed (`connection.rs`, `watching.rs`).

pub mod answers;
pub mod batch;
mod connect;
mod connection;
pub mod ddl;
mod gating;
pub mod intake;
mod refusals;
mod resolve;
mod sight;
pub mod stall;
pub mod tables;
mod trail;
pub mod watch;
mod watching;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::change::Relation;
use crate::control::{CatalogView, Control, Named, Sighting};
use crate::error::{Error, Result};
use crate::failpoints::{Guard, Step, reached, without};
use crate::feed::batch::Cut;
use crate::feed::connection::Connection;
use crate::feed::gating::Gating;
use crate::feed::intake::{Intake, Need};
use crate::feed::refusals::Refusals;
use crate::feed::resolve::{Resolved, Resolving};
use crate::feed::watching::Watching;
use crate::gate::Snapshot;
use crate::insist::{Part, insist};
use crate::kept::{Kept, at};
use crate::keys::KeySet;
use crate::ledger::Ledger;
use crate::load::Untold;
use crate::lsn::Lsn;
use crate::observe::teller::Teller;
use crate::observe::trail::Traced;
use crate::rules::{Invalidations, Rules};
use crate::source::{BACKLOG, Source};
use crate::words::Words;

pub use connection::{Connected, Ended};

/// Of so many pages that go at once it is asked ahead of the gate which keys existed.
const EARLY_PAGES_MAX: usize = 500;

/// How long a batch may wait to become larger: nothing for a fresh stream, a fraction of its lateness in a backlog.
pub fn patience(lateness: Duration) -> Duration {
    if lateness < BACKLOG { Duration::ZERO } else { (lateness / 8).min(Duration::from_millis(10)) }
}

/// What the catalog said.
#[derive(Debug)]
pub enum Described {
    /// The tables that a relation's rows belong to.
    Tables(Relation, Option<Named>),
    /// What readers see of the tables, and the transactions that are open, where somebody needs them.
    Catalog(Option<CatalogView>, Option<Snapshot>),
}

/// What the feed hands over to every target.
#[derive(Debug)]
pub enum Handed<A> {
    /// A load that is visible, lookups resolved; with it everything up to the position was handed over. And when its
    /// oldest change committed.
    Load(Box<Invalidations>, Option<A>, Option<std::time::Instant>),
    /// Patterns that nobody waits for.
    Sweep(Box<Untold>),
    /// Everything up to this position was handed over.
    Position(A),
}

/// What the feed waited for.
#[derive(Debug)]
pub enum FeedHappened {
    /// Events may be taken, or the connection ended.
    Ready(Result<()>),
    /// A snapshot came.
    Snapshot(Result<()>),
    /// The catalog answered.
    Described(Result<Described>),
    /// Lookups were answered.
    LookedUp(Result<Box<Resolved>>),
    /// The server was looked at.
    Sighted(Box<Result<Option<Sighting>>>),
    /// The control session ended.
    ControlLost,
    /// Something is due.
    Due,
}

/// What the feed did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeedTotals {
    /// Keys widened to a pattern because a value was unknown.
    pub widened: u64,
    /// Lookups that the server refused.
    pub refused: u64,
    /// Keys that a transaction named and may not.
    pub not_allowed: u64,
    /// Families collapsed into their pattern.
    pub collapsed: u64,
}

/// Bounds.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Keys in one pipeline.
    pub batch_keys_max: usize,
    /// What the batch may hold, in bytes: each target gets as much at once.
    pub batch_bytes_max: usize,
    /// Bound of all key sets together, in bytes.
    pub memory_bytes_max: usize,
}

/// Room for more events, as far as the targets go.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// What keys may take, in bytes.
    pub keys_bytes_max: usize,
    /// What is on its way to the target that holds least and cannot collapse, in bytes. One that is away stops nobody.
    pub leaving_least: usize,
    /// The same of all targets together.
    pub leaving: usize,
}

/// The stream's side.
pub struct Feed<S: Source, D> {
    source: S,
    control: Rc<D>,
    rules: Rc<Rules>,
    bounds: Bounds,
    teller: Teller,
    done: FeedTotals,
    intake: Intake<S::Ack>,
    /// The batch's first key arrived then.
    filling_since: Option<Instant>,
    gating: Gating,
    lookups: Resolving,
    ledger: Ledger<S::Ack>,
    handed: VecDeque<Handed<S::Ack>>,
    /// What the catalog is asked for, and what the stream waits for.
    describing: Kept<Result<Described>>,
    connection: Connection,
    watching: Watching,
    refusals: Refusals,
}

impl<S: Source, D> std::fmt::Debug for Feed<S, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl<S, D> Feed<S, D>
where
    S: Source,
    S::Ack: 'static,
    D: Control + 'static,
{
    /// Nothing is connected yet. `publication` is the name, for hints.
    pub fn new(source: S, control: Rc<D>, rules: Rc<Rules>, bounds: Bounds, publication: &str, teller: Teller) -> Self {
        Feed {
            lookups: Resolving::new(&rules, source.is_in_commit_order(), bounds.memory_bytes_max),
            source,
            control,
            rules,
            bounds,
            teller,
            done: FeedTotals::default(),
            intake: Intake::followed(),
            filling_since: None,
            gating: Gating::default(),
            ledger: Ledger::default(),
            handed: VecDeque::new(),
            describing: Kept::default(),
            connection: Connection::default(),
            watching: Watching::new(publication),
            refusals: Refusals::default(),
        }
    }

    /// The same stream under other rules, whose lookups `control` asks. What was not handed over comes again.
    #[must_use]
    pub fn renewed(self, rules: &Rc<Rules>, control: &Rc<D>) -> Self {
        let Feed { source, bounds, teller, done, watching, .. } = self;
        let renewed = Feed::new(source, Rc::clone(control), Rc::clone(rules), bounds, "", teller);
        Feed { done, watching: watching.renewed(), ..renewed }
    }

    /// The batch may hold so much from now on, in bytes.
    pub fn bound_batch(&mut self, bytes: usize) {
        self.bounds.batch_bytes_max = bytes;
    }

    /// The source, for what positions mean.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// How the source speaks of itself.
    pub fn words(&self) -> Words {
        self.source.words()
    }

    /// What was done so far.
    pub fn done(&self) -> FeedTotals {
        self.done
    }

    /// The rules, for what passed through them.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Every target has marked this position.
    pub fn acknowledge(&mut self, upto: S::Ack) -> Lsn {
        // A stream that brings the position forward is no refused one, however short it lives.
        self.connection.proved();
        self.source.acknowledge(upto);
        self.source.lsn(upto)
    }

    /// When the server is owed a status.
    pub fn status_due(&self) -> Option<Instant> {
        self.source.status_due()
    }

    /// Sends it.
    pub async fn status(&mut self) -> Result<()> {
        self.source.status().await
    }

    /// Sends a last status, and keeps the place when the stream begins `anew`.
    pub async fn close(&mut self, anew: bool) -> Result<()> {
        if anew { self.source.pause().await } else { self.source.close().await }
    }

    /// Waits for whatever the feed waits for. Cancel-safe. More changes come last: a flood must not starve the rest.
    pub async fn next(&mut self, listens: bool, gate_due: Option<Instant>, draining: bool) -> FeedHappened {
        let listens_at = self.connection.again();
        let watch_due = if draining { None } else { self.watching.due() };
        tokio::select! {
            biased;
            came = self.gating.came() => FeedHappened::Snapshot(came),
            found = self.lookups.ended() => FeedHappened::LookedUp(found.map(Box::new)),
            described = self.describing.ended() => FeedHappened::Described(described),
            seen = self.watching.ended() => FeedHappened::Sighted(Box::new(seen)),
            () = self.control.lost() => FeedHappened::ControlLost,
            () = at(gate_due) => FeedHappened::Due,
            () = at(watch_due) => {
                self.begin_watch();
                FeedHappened::Due
            }
            () = at(listens_at), if listens => {
                self.connection.try_again();
                FeedHappened::Due
            }
            ready = self.source.ready(), if listens && listens_at.is_none() => FeedHappened::Ready(ready),
        }
    }

    /// Whether the source is asked for events, or for a connection. A full batch may wait for transactions that the next
    /// server never had; nobody learns of that but by connecting.
    pub fn may_listen(&self, room: &Room, draining: bool) -> bool {
        !draining && (self.has_room(room) || !self.is_connected())
    }

    /// Whether another event may be taken.
    pub fn has_room(&self, room: &Room) -> bool {
        let batch = &self.intake.batch;
        let most = room.keys_bytes_max / 4 * 3;
        let on_its_way = batch.bytes_used() + self.lookups.bytes_used() + room.leaving_least;
        !self.describing.is_out() && !self.is_full() && on_its_way < most && room.leaving < most
    }

    fn is_full(&self) -> bool {
        let batch = &self.intake.batch;
        batch.len() >= self.bounds.batch_keys_max || batch.bytes_used() >= self.bounds.batch_bytes_max
    }

    /// What the open batch holds, in bytes, where nothing more fits into it.
    pub fn batch_bytes_when_full(&self) -> Option<usize> {
        self.is_full().then(|| self.intake.batch.bytes_used())
    }

    /// Takes one event that is in the source's buffer; says whether there was one.
    #[inline]
    pub fn take_one(&mut self) -> Result<bool> {
        let Some(event) = self.source.take()? else { return Ok(false) };
        reached(Step::Taken);
        self.watching.hears(&event);
        match self.intake.event(event, &self.rules, &mut self.ledger) {
            Need::Nothing => {}
            Need::Tables(relation) => self.ask_tables_of(relation),
            Need::Warning => refusals::misunderstood(),
            Need::Untold => self.refusals.untold(),
            Need::Refusal(count) => {
                self.done.not_allowed += count;
                self.refusals.not_allowed(count);
            }
        }
        Ok(true)
    }

    /// What could be taken was.
    pub fn taken(&mut self) {
        self.intake.batch.date(self.committed_at());
        self.intake.trail.taken(self.source.lateness(), &self.rules);
        if self.intake.take_altered() {
            self.control.altered();
        }
        if self.filling_since.is_none() && !self.intake.batch.is_empty() {
            self.filling_since = Some(Instant::now());
        }
    }

    /// Asks the catalog what readers see of the tables; nothing is taken until it answered.
    fn read_catalog(&mut self) {
        let (control, keeps) = (Rc::clone(&self.control), self.lookups.keeps());
        self.describing.start(async move {
            let ask = async || {
                let elders = if keeps { Some(control.elders().await?) } else { None };
                Ok::<_, Error>(Described::Catalog(control.catalog().await?, elders))
            };
            insist(&Part::session(), "read the catalog", async || ask().await.map_err(Error::having_worked)).await
        });
    }

    /// Asks the catalog which tables the rows of a relation belong to; nothing is taken until it answered.
    fn ask_tables_of(&mut self, relation: Relation) {
        let control = Rc::clone(&self.control);
        self.describing.start(async move {
            let ask = async || control.tables_of(relation.oid).await.map_err(Error::having_worked);
            let tables = insist(&Part::session(), "find the tables of a relation", ask).await?;
            Ok(Described::Tables(relation, tables))
        });
    }

    /// The catalog answered; events that were read together with the relation wait in the source's buffer.
    pub fn described(&mut self, described: Described) {
        match described {
            Described::Tables(relation, tables) => self.intake.resolved(&relation, tables, &self.rules),
            Described::Catalog(view, elders) => {
                self.intake.catalog(view, &self.rules);
                elders.into_iter().for_each(|elders| self.lookups.elders(elders));
            }
        }
    }

    /// When the open batch should ask the gate, once somebody is free to take what leaves; `None` while it cannot leave.
    pub fn gate_due(&self, draining: bool) -> Option<Instant> {
        let batch = &self.intake.batch;
        if self.gating.is_busy() || self.lookups.is_busy() || !(batch.has_work() || self.is_full()) {
            return None;
        }
        if let Some(again) = self.gating.again() {
            return Some(again);
        }
        let since = self.filling_since.unwrap_or_else(Instant::now);
        let patience = if self.is_full() || draining { Duration::ZERO } else { patience(self.source.lateness()) };
        Some(since + patience)
    }

    /// Asks for a snapshot.
    pub fn ask_gate(&mut self, now: Instant) {
        let (control, answers) = (Rc::clone(&self.control), self.lookups.answers());
        let looks = self.intake.batch.asks() && answers.borrow().keeps();
        answers.borrow_mut().unsure();
        self.intake.batch.asks_gate();
        let upto = self.source.received();
        self.gating.ask(now, async move {
            if without(Guard::Gate) {
                return Ok(Snapshot::Everything);
            }
            let gate = async || match looks {
                true => {
                    let (snapshot, definitions) = control.gate_and_definitions(upto).await?;
                    answers.borrow_mut().defined(definitions);
                    Ok(snapshot)
                }
                false => control.gate(upto).await,
            };
            insist(&Part::session(), "take a snapshot", async || gate().await.map_err(Error::having_worked)).await
        });
    }

    /// What the snapshot that came contains leaves, if one came. Ahead of echoes that are due as well.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::settled`].
    pub fn cut(&mut self, now: Instant) -> Result<()> {
        let Some(snapshot) = self.gating.take() else { return Ok(()) };
        reached(Step::Snapshot);
        self.lookups.saw(&snapshot);
        let Some(cut) = self.intake.batch.cut(&snapshot, &mut self.ledger) else {
            self.gating.saw_nothing(now);
            return Ok(());
        };
        self.gating.saw_some(self.intake.batch.keys(), self.intake.batch.warms());
        self.filling_since = (!self.intake.batch.is_empty()).then_some(now);
        self.done.widened += cut.load.widened;
        self.leave(cut)
    }

    /// The keys of a fresh batch, once: ahead of the gate, and then again behind it. With them the first of their pages, and
    /// how many are left out.
    pub fn early(&mut self) -> Option<(KeySet, KeySet, u64)> {
        if patience(self.source.lateness()) > Duration::ZERO {
            return None;
        }
        let (keys, pages) = self.gating.early(self.intake.batch.keys(), self.intake.batch.warms())?;
        if pages.len() <= EARLY_PAGES_MAX {
            return Some((keys, pages, 0));
        }
        let mut first = KeySet::default();
        pages.iter().take(EARLY_PAGES_MAX).for_each(|page| _ = first.add(&page));
        Some((keys, first, (pages.len() - EARLY_PAGES_MAX) as u64))
    }

    fn leave(&mut self, cut: Cut) -> Result<()> {
        self.lookups.push(cut);
        self.resolve()
    }

    /// Asks the lookups of what waits, one cut after the other; what has none is handed over at once.
    fn resolve(&mut self) -> Result<()> {
        while let Some(cut) = self.lookups.next(&self.rules, &self.control, self.intake.trail.is_asking()) {
            self.hand_over(cut)?;
        }
        Ok(())
    }

    /// Lookups were answered.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::settled`].
    pub fn looked_up(&mut self, Resolved { cut, refused, asked }: Resolved) -> Result<()> {
        self.done.refused += refused;
        self.intake.trail.answered(&self.rules, &asked.0, &asked.1);
        self.lookups.landed();
        self.hand_over(cut)?;
        self.resolve()
    }

    fn hand_over(&mut self, Cut { load, tickets, born }: Cut) -> Result<()> {
        tickets.into_iter().for_each(|ticket| self.ledger.done(ticket));
        let upto = self.ledger.settled(|_| false)?;
        // A position of the server before says nothing of what was handed over of this one.
        let upto = upto.filter(|ack| self.source.is_current(*ack));
        self.handed.push_back(Handed::Load(Box::new(load), upto, born));
        Ok(())
    }

    /// What single changes asked for, with the positions of their commits, since this was last asked.
    pub fn trail(&mut self) -> Vec<(S::Ack, Traced)> {
        self.intake.trail.ready()
    }

    /// What is to be handed over next.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::settled`].
    pub fn handed(&mut self) -> Result<Option<Handed<S::Ack>>> {
        if let Some(handed) = self.handed.pop_front() {
            return Ok(Some(handed));
        }
        let upto = self.ledger.settled(|_| false)?;
        Ok(upto.filter(|ack| self.source.is_current(*ack)).map(Handed::Position))
    }

    /// When what was taken last committed, by our clock: both ends of lateness are the server's.
    fn committed_at(&self) -> std::time::Instant {
        let now = Instant::now();
        now.checked_sub(self.source.lateness()).unwrap_or(now).into_std()
    }

    /// Whether everything that came was handed over.
    pub fn is_settled(&self) -> bool {
        self.is_finished() && self.ledger.is_empty()
    }

    /// Whether nothing is on its way that a stop waits for.
    pub fn is_finished(&self) -> bool {
        !self.intake.batch.has_work() && !self.lookups.is_busy() && self.handed.is_empty()
    }

    /// When the oldest change committed that was not handed over.
    pub fn oldest(&mut self) -> Option<std::time::Instant> {
        [self.ledger.oldest(), self.intake.batch.oldest()].into_iter().flatten().min()
    }

    /// What intake holds, in bytes.
    pub fn intake_bytes(&self) -> usize {
        self.intake.bytes_used()
    }

    /// What is on its way and cannot collapse, in bytes.
    pub fn bytes_leaving(&self) -> usize {
        self.lookups.bytes_used()
    }

    /// The largest of what can collapse, in bytes.
    pub fn largest(&self) -> usize {
        self.intake.largest()
    }

    /// Collapses the largest family of the largest set; says how many bytes that freed.
    pub fn collapse_largest(&mut self) -> usize {
        let freed = self.intake.collapse_largest(&self.rules);
        self.done.collapsed += u64::from(freed > 0);
        freed
    }
}
