//! Gaps: what the mark in the cache proves, and what is deleted again when it does not.
//!
//! A cache that holds a mark has had every delete up to it, and perhaps none after it. So behind every new connection
//! the mark is read: what was deleted since that mark is deleted again from the ring, and where the ring does not reach
//! back so far, every family of the rules is swept. Nothing is confirmed before that is done. What a mark means is the
//! table in `proof.rs`; here it is done.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Pipeline;
use crate::ack::SpanId;
use crate::cache::Cache;
use crate::config::OnGap;
use crate::control::Control;
use crate::echo::{Delivery, Stage};
use crate::error::Error;
use crate::failpoints::{Guard, Step, reached, without};
use crate::gate::Snapshot;
use crate::keys::FamilyId;
use crate::mark::{Gap, gap, gap_at_first, nonce, publication, rules};
use crate::observe::news::News;
use crate::observe::{Id, log};
use crate::pipeline::deliver::{Part, insist};
use crate::pipeline::owed::{GapSweep, Repair};
use crate::pipeline::repairs::{NAMELESS, When};
use crate::proof::{Connection, Fit, Held, Meaning, Slot, Turns, meaning};
use crate::reminder::Reminder;
use crate::rules::plan::cause::{Cause, Causes};
use crate::rules::{Invalidations, TableId};
use crate::seen;
use crate::source::Source;
use crate::start::SlotOrigin;

/// How often the transactions that a sweep waits for are looked at.
const ELDERS_INTERVAL: Duration = Duration::from_millis(100);

/// What the sweep of gaps goes over, and why.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    families: BTreeSet<FamilyId>,
    causes: Causes,
}

/// The id of the line that says this gap and its sweep.
fn id(gap: &Gap) -> Id {
    match gap {
        Gap::Missing => Id::GapMissing,
        Gap::Unreadable => Id::GapUnreadable,
        Gap::OtherServer => Id::GapOtherServer,
        Gap::OtherDatabase => Id::GapOtherDatabase,
        Gap::NewSlot => Id::GapNewSlot,
        Gap::Behind { .. } => Id::GapBehind,
        Gap::WentBack => Id::GapWentBack,
        Gap::OtherRules => Id::GapOtherRules,
        Gap::Restarted => Id::GapRestarted,
        Gap::OtherTables => Id::GapOtherTables,
        Gap::OtherPublication => Id::GapOtherPublication,
    }
}

/// Says each minute that old transactions are still waited for.
fn remind(said: &mut Reminder<Id, Instant>) {
    if !said.is_due(&Id::GapWaits, Instant::now()) {
        return;
    }
    let hint =
        "pg_stat_activity and pg_prepared_xacts name them. Deletes go on; until they end no position is confirmed.";
    log!(Id::GapWaits, hint, "transactions from before the gap are still open: its sweep waits for their end");
}

impl<S, C, D> Pipeline<S, C, D>
where
    S: Source,
    S::Ack: 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Asks for the mark. Until it is compared no flight begins, so that it says what the flights before it reached. Ahead
    /// of the first look everything that is needed is tried: nothing is deleted where the mark can never be written.
    pub(super) fn read_mark(&mut self) {
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        let untried = matches!(self.held, Held::Nothing).then(|| self.rules.patterns());
        self.reading_mark = Some(Box::pin(async move {
            if let Some(families) = untried {
                insist(Part::Cache, "try the cache", async || cache.try_out(&slot, &families).await).await?;
            }
            insist(Part::Cache, "read the mark", async || cache.mark(&slot).await).await
        }));
    }

    /// Behind a new connection the cache may be another than it was.
    pub(super) fn look_for_another_cache(&mut self) {
        if self.cache.turns() != self.turns && self.reading_mark.is_none() {
            self.read_mark();
        }
    }

    /// What the slot of this stream says, the first time that it is compared.
    fn slot_compared(&mut self) -> Slot {
        let altered = std::mem::take(&mut self.altered);
        let Some(start) = self.compared.as_ref().filter(|_| std::mem::take(&mut self.connected_anew)) else {
            return Slot::Compared;
        };
        let is_behind = |ack| self.source.lsn(ack) < start.confirmed;
        let moved = altered || start.slot == SlotOrigin::Created || self.marked.is_none_or(is_behind);
        if moved { Slot::MovedOn } else { Slot::Continued }
    }

    /// The mark was read: whatever it does not cover is deleted again.
    pub(super) fn compare(&mut self, (found, turns): (Option<Vec<u8>>, Turns)) {
        reached(Step::MarkRead);
        let Some(start) = &self.compared else { return };
        let judge = if self.connected_anew { gap_at_first } else { gap };
        let gap = judge(found.as_deref(), start, self.rules.digest());
        let connection = turns.since(std::mem::replace(&mut self.turns, turns));
        let fit = self.held.fit(found.as_deref());
        let slot = self.slot_compared();
        match meaning(fit, connection, slot, gap) {
            _ if without(Guard::Mark) => self.held = Held::Trusted(found.into_iter().collect()),
            Meaning::Holds => {}
            Meaning::Covered => self.trust_first(found),
            Meaning::Arrived => self.held = Held::Trusted(found.into_iter().collect()),
            Meaning::Replay => self.go_on_from(found, fit, connection),
            Meaning::Sweep(gap) => {
                self.sweep_again |= self.sweep.is_some() && connection == Connection::Another;
                let is_foreign = matches!(gap, Gap::OtherServer | Gap::OtherDatabase);
                let intruder = is_foreign && slot == Slot::Compared && fit != Fit::First;
                self.gap(&gap, found, intruder);
            }
        }
        if !self.ready {
            self.ready = true;
            (self.news)(News::Ready);
        }
        self.look_for_another_cache();
    }

    /// The mark of the process before covers everything before this connection's start.
    fn trust_first(&mut self, found: Option<Vec<u8>>) {
        if let Some(nonce) = found.as_deref().and_then(nonce) {
            self.ring.marked(&nonce, self.window.first_open());
        }
        self.held = Held::Trusted(found.into_iter().collect());
    }

    /// The cache is another than before, or may be: what was deleted since its mark is deleted again, or everything.
    fn go_on_from(&mut self, found: Option<Vec<u8>>, fit: Fit, connection: Connection) {
        self.sweep_again = self.sweep.is_some();
        let Some(nonce) = found.as_deref().and_then(nonce) else { return self.gap(&Gap::WentBack, found, false) };
        match (self.ring.lacking(&nonce), connection, fit) {
            (None, _, _) => return self.gap(&Gap::WentBack, found, false),
            (Some(0), _, _) => {}
            // Our last mark is there, and perhaps nothing that was deleted since.
            (Some(_), Connection::Nameless, Fit::Ours) => {
                let when = self.repairs.when(NAMELESS, "each command to the cache takes a new connection");
                if when != When::Now {
                    self.held = Held::Trusted(found.into_iter().collect());
                    return self.replay_later(nonce, when.pause());
                }
            }
            (Some(_), _, _) => {
                let what = "the cache went back, or its address leads to another server";
                if self.repairs.when("replay", what) != When::Now {
                    return self.gap(&Gap::WentBack, found, false);
                }
            }
        }
        let lacking = self.ring.take_since(&nonce).unwrap_or_default();
        self.held = Held::Trusted(found.into_iter().collect());
        self.replay(lacking);
    }

    /// One replay waits at most: what is deleted until then is in the ring as well.
    fn replay_later(&mut self, nonce: String, pause: Duration) {
        if let Some(since) = self.repairs.owed.replay() {
            *since = nonce;
            return;
        }
        let now = Instant::now();
        let span = self.window.open_barrier(self.answered.take());
        self.window.date(span, now.into_std());
        self.repairs.owed.push(now + pause, Repair::Replay { nonce, span });
    }

    /// What waited for its turn has it.
    pub(super) fn repair_what_is_owed(&mut self) {
        for repair in self.repairs.owed.take_due(Instant::now()) {
            match repair {
                Repair::Sweep(sweep) => self.begin_sweep(sweep),
                Repair::Again(deliveries) => deliveries.into_iter().for_each(|delivery| self.queue_sweep(delivery)),
                Repair::Replay { nonce, span } => {
                    match self.ring.take_since(&nonce) {
                        Some(lacking) => self.replay(lacking),
                        None => self.gap(&Gap::WentBack, self.held.expected().pop().flatten(), false),
                    }
                    self.window.part_done(span);
                }
            }
        }
    }

    /// Deletes again what the cache may lack since its mark.
    fn replay(&mut self, lacking: Vec<Invalidations>) {
        if lacking.is_empty() || without(Guard::Ring) {
            return;
        }
        let keys: usize = lacking.iter().map(|load| load.len()).sum();
        log!(
            Id::GapReplayed,
            cache = self.cache.name(),
            keys,
            "the cache may lack what was deleted since its mark: deleting it again"
        );
        let span = self.window.open_barrier(self.answered.take());
        for mut load in lacking {
            load.causes.add(Cause::Missed);
            self.window.add_part(span);
            self.again.push_back(Delivery { load, spans: vec![span], stage: Stage::Fresh });
        }
        self.window.part_done(span);
    }

    /// The cache may hold stale keys, nobody knows which. `found` stands where the mark should be; an intruder may have
    /// written it.
    fn gap(&mut self, gap: &Gap, found: Option<Vec<u8>>, intruder: bool) {
        // Under the rules that the mark tells every delete before it was made; nothing was deleted under others yet.
        let told =
            found.as_deref().filter(|_| *gap == Gap::OtherRules && matches!(self.held, Held::Nothing)).map(rules);
        let tables = self.changed_tables(gap, found.as_deref());
        self.held = Held::Gap { was: found, maybe: None };
        (self.news)(News::Gap(gap.kind()));
        let shared = Rc::clone(&self.cache);
        let cache = shared.name();
        // What DDL changed is known to be stale: it goes, whatever becomes of keys that only may be.
        if let (Gap::OtherTables, Some(families)) = (gap, &tables) {
            log!(id(gap), cache, families = families.len(), "{gap}: sweeping their keys");
            return self.sweep_families(gap, families.clone(), Duration::ZERO);
        }
        let said = gap.said(self.source.words());
        let when = match told {
            // Rules that a person changed are no repair that repeats.
            Some(_) => When::Now,
            None => self.repairs.when(gap.kind(), &said),
        };
        if intruder && when == When::Now {
            let hint = "If a crieur of another database uses this cache, give it another postgres.slot.";
            log!(
                Id::GapIntruder,
                hint,
                cache,
                "somebody wrote a mark of another server or database under the name of this slot"
            );
        }
        let is_said = when == When::Now;
        if self.settings.on_gap == OnGap::Warn
            && let Some(families) = tables.filter(|families| !families.is_empty())
        {
            log!(Id::GapOtherTables, cache, families = families.len(), "tables were altered: sweeping their keys");
            self.sweep_families(gap, families, when.pause());
        }
        match (self.settings.on_gap, told) {
            (OnGap::Warn, _) if is_said => {
                log!(
                    Id::GapUnswept,
                    cache,
                    gap = gap.kind(),
                    "{said}: the cache may hold stale keys until they expire (cache.on_gap is \"warn\")"
                );
            }
            (OnGap::Warn, _) => {}
            (OnGap::Sweep, Some(told)) => {
                let new = self.rules.not_in(&told);
                log!(id(gap), cache, families = new.len(), "{said}: sweeping the keys of rules that are new");
                self.sweep_families(gap, new, when.pause());
            }
            (OnGap::Sweep, None) => {
                if is_said {
                    log!(id(gap), cache, "{said}: sweeping every key that the rules own");
                }
                self.sweep_families(gap, self.rules.families().map(|(family, _)| family).collect(), when.pause());
            }
        }
    }

    /// The families of the tables that are others than the mark says, where it speaks of tables.
    fn changed_tables(&self, gap: &Gap, found: Option<&[u8]>) -> Option<BTreeSet<FamilyId>> {
        let start = self.compared.as_ref()?;
        if !matches!(gap, Gap::OtherTables | Gap::OtherPublication) {
            return None;
        }
        let keys = seen::changed(&publication(found?), &start.publication)?;
        let changed = |table: &TableId| {
            let (schema, name) = self.rules.name_of(*table);
            keys.contains(&seen::key(schema, name))
        };
        Some(self.rules.families_of_all(self.rules.table_ids().filter(changed)))
    }

    /// Nothing is confirmed until the sweep, and its echoes, are done.
    fn sweep_families(&mut self, gap: &Gap, families: BTreeSet<FamilyId>, pause: Duration) {
        let now = Instant::now();
        let span = self.window.open_barrier(self.answered.take());
        // Nobody knows since when it lacks something.
        self.window.date(span, now.into_std());
        // Tables that are others than the mark says were altered; of any other gap nobody knows what it hides.
        let mut causes = Causes::default();
        causes.add(if *gap == Gap::OtherTables { Cause::Ddl } else { Cause::Missed });
        // What was open when a slot was made, or a table published, may be committed in WAL that the stream does not
        // have, and becomes visible after a sweep that does not wait for it.
        let awaits_elders = match gap {
            Gap::WentBack | Gap::Restarted | Gap::OtherRules => false,
            Gap::Missing
            | Gap::Unreadable
            | Gap::OtherServer
            | Gap::OtherDatabase
            | Gap::NewSlot
            | Gap::Behind { .. }
            | Gap::OtherTables
            | Gap::OtherPublication => true,
        };
        self.repairs.sweeps(gap.kind());
        let sweep = GapSweep { families, causes, spans: vec![span], awaits_elders };
        if pause.is_zero() {
            self.begin_sweep(sweep);
        } else {
            self.repairs.owed.push(now + pause, Repair::Sweep(sweep));
        }
    }

    fn begin_sweep(&mut self, sweep: GapSweep) {
        self.unsure.families.extend(sweep.families);
        self.unsure.causes.merge(sweep.causes);
        self.unswept.extend(sweep.spans);
        self.await_elders |= sweep.awaits_elders;
        self.elders = None;
        self.look_for_elders(Duration::ZERO);
    }

    fn look_for_elders(&mut self, after: Duration) {
        let control = Rc::clone(&self.control);
        let first = self.await_elders && self.elders.is_none();
        self.looking = Some(Box::pin(async move {
            sleep(after).await;
            let look = async || {
                let seen = if first { control.elders().await } else { control.snapshot().await };
                seen.map_err(Error::having_worked)
            };
            insist(Part::Session, "take a snapshot before a sweep", look).await
        }));
    }

    /// A snapshot for the sweep of a gap: sweeps at once, and once more when everything older has ended.
    pub(super) fn looked(&mut self, snapshot: Snapshot) {
        match self.elders.take() {
            None => {
                let over = !self.await_elders || snapshot.ended_by(&snapshot);
                let spans = if over { std::mem::take(&mut self.unswept) } else { self.unswept.clone() };
                if !over {
                    let source = self.source.words().source;
                    log!(
                        Id::GapElders,
                        "transactions are open that {source} may not have: sweeping again when they have ended"
                    );
                    spans.iter().for_each(|span| self.window.add_part(*span));
                    self.elders = Some((snapshot, Reminder::begun(Id::GapWaits, Instant::now())));
                    self.look_for_elders(ELDERS_INTERVAL);
                }
                self.sweep_for(spans);
            }
            Some((elders, _)) if elders.ended_by(&snapshot) => {
                let spans = std::mem::take(&mut self.unswept);
                self.sweep_for(spans);
            }
            Some((elders, mut said)) => {
                remind(&mut said);
                self.elders = Some((elders, said));
                self.look_for_elders(ELDERS_INTERVAL);
            }
        }
        if self.elders.is_none() {
            self.await_elders = false;
        }
    }

    fn sweep_for(&mut self, spans: Vec<SpanId>) {
        let mut load = Invalidations { causes: self.unsure.causes, ..Invalidations::default() };
        for family in &self.unsure.families {
            load.patterns.insert(self.rules.family(*family), *family, 0);
        }
        if self.unswept.is_empty() {
            self.unsure = Unsure::default();
        }
        self.queue_sweep(Delivery { load, spans, stage: Stage::Fresh });
    }
}
