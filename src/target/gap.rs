//! Gaps: what the mark in the cache proves, and what is deleted again when it does not.
//!
//! A cache that holds a mark has had every delete up to it, and perhaps none after it. So behind every new connection
//! the mark is read: what was deleted since that mark is deleted again from the ring, and where the ring does not reach
//! back so far, what may be stale is swept, or only warned of (`cache.on_gap`). Nothing is confirmed before that is done.
//! What a mark means is the table in `proof.rs`; here it is done.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Target;
use crate::cache::Cache;
use crate::cache::continuity::Continuity;
use crate::config::OnGap;
use crate::control::Control;
use crate::error::Error;
use crate::failpoints::{Guard, Step, reached, without};
use crate::gate::Snapshot;
use crate::insist::{Part, insist};
use crate::keys::FamilyId;
use crate::mark::{Gap, gap, gap_at_first, is_elder, nonce, publication, rules};
use crate::observe::news::News;
use crate::observe::speaker::CacheName;
use crate::observe::{Id, log};
use crate::reminder::Reminder;
use crate::rules::plan::cause::Cause;
use crate::rules::{Invalidations, TableId};
use crate::seen;
use crate::target::echo::{Delivery, Stage};
use crate::target::look::Found;
use crate::target::owed::{GapSweep, Repair};
use crate::target::proof::{Fit, Held, Meaning, Slot, meaning, proven};
use crate::target::repairs::{NAMELESS, When};

/// How often the transactions that a sweep waits for are looked at.
const ELDERS_INTERVAL: Duration = Duration::from_millis(100);

/// The id of the line that says this gap and its sweep.
fn id(gap: &Gap) -> Id {
    match gap {
        Gap::Missing => Id::GapMissing,
        Gap::Unproven => Id::GapUnproven,
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
    let hint = "End what is open for long: pg_stat_activity and pg_prepared_xacts name it.";
    log!(
        Id::GapWaits,
        hint,
        "transactions from before the gap are still open: the second sweep and the position wait for their end; deletes go on"
    );
}

impl<A, C, D> Target<A, C, D>
where
    A: Copy + Ord + 'static,
    C: Cache + 'static,
    D: Control + 'static,
{
    /// Asks for the mark. Until it is compared no flight begins, so that it says what the flights before it reached. Ahead
    /// of the first look everything that is needed is tried: nothing is deleted where the mark can never be written.
    pub(super) fn read_mark(&mut self) {
        let (cache, slot) = (Rc::clone(&self.cache), self.settings.slot.clone());
        let (twins, name) = (Rc::clone(&self.around.twins), CacheName::clone(&self.around.name));
        let untried = matches!(self.look.held(), Held::Nothing).then(|| self.around.rules.patterns());
        let (part, company) = (self.around.part.clone(), self.settings.company);
        self.look.read(async move {
            let judge = |error| company.judge(error);
            if let Some(families) = untried {
                let tried = async || cache.try_out(&slot, &families).await.map_err(judge);
                insist(&part, "try the cache", tried).await?;
                insist(&part, "tell the cache from others", async || twins.admit(&name, &cache).await).await?;
            }
            insist(&part, "read the mark", async || cache.mark(&slot).await.map_err(judge)).await
        });
    }

    /// Behind a new connection the cache may be another than it was.
    pub(super) fn look_for_another_cache(&mut self) {
        if self.cache.lineage() != self.look.lineage() && !self.look.is_reading() {
            self.read_mark();
        }
    }

    /// What the slot of this stream says, the first time that it is compared.
    fn slot_compared(&mut self) -> Slot {
        match self.look.take_anew() {
            None => Slot::Compared,
            Some(true) => Slot::MovedOn,
            Some(false) => Slot::Continued,
        }
    }

    /// The mark was read: whatever it does not cover is deleted again.
    pub(super) fn compare(&mut self, (found, lineage): Found) {
        reached(Step::MarkRead);
        let Some(start) = self.look.start() else { return };
        let judge = if self.look.is_anew() { gap_at_first } else { gap };
        let gap = judge(found.as_deref(), start, self.around.rules.digest());
        let gap = gap.filter(|gap| !(without(Guard::Return) && matches!(gap, Gap::Behind { .. })));
        // A sink that never wrote one lacks none.
        let gap = gap.map(|gap| if gap == Gap::Missing && self.cache.is_sink() { Gap::Unproven } else { gap });
        let is_ours = found.as_deref().is_some_and(|found| is_elder(found, start));
        let start = start.confirmed;
        let continuity = self.look.follow(lineage);
        let fit = self.look.held().fit(found.as_deref());
        let slot = self.slot_compared();
        let meaning = meaning(fit, continuity, slot, gap.clone());
        let is_swept = matches!(meaning, Meaning::Sweep(_)) && self.settings.policy.on_gap == OnGap::Sweep;
        if let Some(proven) = proven(is_swept, slot, gap.as_ref(), start) {
            self.look.proves(proven, slot == Slot::Continued);
        }
        match meaning {
            _ if without(Guard::Mark) || (self.is_sink() && without(Guard::Start)) => self.look.trust(found),
            Meaning::Holds => {}
            Meaning::Covered => self.trust_first(found),
            Meaning::Arrived => self.look.trust(found),
            Meaning::Carried if self.unmarked.is_complete() => self.carry_on(),
            Meaning::Carried | Meaning::Replay => self.go_on_from(found, fit, continuity),
            Meaning::Sweep(gap) => {
                if continuity == Continuity::Another {
                    self.sweeping.run_again();
                }
                let is_foreign = matches!(gap, Gap::OtherServer | Gap::OtherDatabase);
                let intruder = is_foreign && !is_ours && slot == Slot::Compared && fit != Fit::First;
                self.gap(&gap, found, intruder);
            }
        }
        self.look_for_another_cache();
    }

    /// The mark of the process before covers everything before this connection's start.
    fn trust_first(&mut self, found: Option<Vec<u8>>) {
        if let Some(nonce) = found.as_deref().and_then(nonce) {
            self.ring.marked(&nonce, self.ledger.first_open());
        }
        self.look.trust(found);
    }

    /// The cache does not say whether it is another, and has our mark. The next mark comes soon, and carries what was
    /// deleted since; patterns are swept once more.
    fn carry_on(&mut self) {
        if self.unmarked.has_keys() {
            self.marking.beat_due = None;
        }
        self.doubts += 1;
        let patterns = self.unmarked.take_patterns();
        if patterns.is_empty() {
            return;
        }
        let load = Invalidations { patterns, ..Invalidations::default() };
        let ticket = self.ledger.open_barrier(self.marking.withdraw());
        let delivery = Delivery { load, tickets: vec![ticket], stage: Stage::Repeated };
        match self.repairs.when(NAMELESS, "each command to the cache takes a new connection") {
            When::Now => self.queue_sweep(delivery),
            when => self.repairs.owed.push(Instant::now() + when.pause(), Repair::Again(vec![delivery])),
        }
    }

    /// The cache is another than before, or may be: what was deleted since its mark is deleted again, or everything.
    fn go_on_from(&mut self, found: Option<Vec<u8>>, fit: Fit, continuity: Continuity) {
        self.sweeping.run_again();
        let Some(nonce) = found.as_deref().and_then(nonce) else { return self.gap(&Gap::WentBack, found, false) };
        match (self.ring.lacking(&nonce), continuity, fit) {
            (None, _, _) => return self.gap(&Gap::WentBack, found, false),
            (Some(0), _, _) => {}
            // Our last mark is there, and perhaps nothing that was deleted since.
            (Some(_), Continuity::Unknown, Fit::Ours) => {
                let when = self.repairs.when(NAMELESS, "each command to the cache takes a new connection");
                if when != When::Now {
                    self.look.trust(found);
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
        self.look.trust(found);
        self.replay(lacking);
    }

    /// One replay waits at most: what is deleted until then is in the ring as well. A mark that came since says more than
    /// the one that the replay goes on from.
    fn replay_later(&mut self, nonce: String, pause: Duration) {
        if self.repairs.owed.has_replay() {
            return;
        }
        let now = Instant::now();
        let ticket = self.ledger.open_barrier(self.marking.withdraw());
        self.ledger.date(&ticket, now.into_std());
        self.repairs.owed.push(now + pause, Repair::Replay { nonce, ticket });
    }

    /// What waited for its turn has it.
    pub(super) fn repair_what_is_owed(&mut self, now: Instant) {
        for repair in self.repairs.owed.take_due(now) {
            match repair {
                Repair::Sweep(sweep) => self.begin_sweep(sweep),
                Repair::Again(deliveries) => deliveries.into_iter().for_each(|delivery| self.queue_sweep(delivery)),
                Repair::Replay { nonce, ticket } => {
                    match self.ring.take_since(&nonce) {
                        Some(lacking) => self.replay(lacking),
                        None => self.gap(&Gap::WentBack, self.look.held().expected().pop().flatten(), false),
                    }
                    self.ledger.done(ticket);
                }
            }
        }
    }

    /// Deletes again what the cache may lack since its mark.
    fn replay(&mut self, lacking: Vec<Invalidations>) {
        if lacking.is_empty() || without(Guard::Ring) {
            return;
        }
        self.doubts += 1;
        let keys: usize = lacking.iter().map(|load| load.len()).sum();
        log!(
            Id::GapReplayed,
            server = self.cache.name(),
            keys,
            "{}",
            self.cache.member().pick(
                "the cache may lack what was deleted since its mark: deleting it again",
                "the sink may lack what was purged since its mark: purging it again",
            )
        );
        let ticket = self.ledger.open_barrier(self.marking.withdraw());
        for mut load in lacking {
            load.causes.add(Cause::Missed);
            let tickets = vec![self.ledger.split(&ticket)];
            self.again.push_back(Delivery { load, tickets, stage: Stage::Fresh });
        }
        self.ledger.done(ticket);
    }

    /// The cache may hold stale keys, nobody knows which. `found` stands where the mark should be; an intruder may have
    /// written it.
    fn gap(&mut self, gap: &Gap, found: Option<Vec<u8>>, intruder: bool) {
        // Under the rules that the mark tells every delete before it was made; nothing was deleted under others yet.
        let told = found
            .as_deref()
            .filter(|_| *gap == Gap::OtherRules && matches!(self.look.held(), Held::Nothing))
            .map(rules);
        let tables = self.changed_tables(gap, found.as_deref());
        self.look.doubt(found);
        self.doubts += 1;
        self.around.teller.tell(News::Gap(gap.kind()));
        let shared = Rc::clone(&self.cache);
        let (server, member) = (shared.name(), shared.member());
        // What DDL changed is known to be stale: it goes, whatever becomes of keys that only may be.
        if let (Gap::OtherTables, Some(families)) = (gap, &tables) {
            let sweeping = member.pick("sweeping their keys", "purging their coarse tags");
            log!(id(gap), server, families = families.len(), "{gap}: {sweeping}");
            return self.sweep_families(gap, families.clone(), Duration::ZERO);
        }
        let said = member.in_words(&gap.said(self.around.words));
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
                server,
                "somebody wrote a mark of another server or database under the name of this slot"
            );
        }
        let is_said = when == When::Now;
        if self.settings.policy.on_gap == OnGap::Warn
            && let Some(families) = tables.filter(|families| !families.is_empty())
        {
            log!(Id::GapOtherTables, server, families = families.len(), "tables were altered: sweeping their keys");
            self.sweep_families(gap, families, when.pause());
        }
        match (self.settings.policy.on_gap, told) {
            (OnGap::Warn, _) if is_said => {
                log!(
                    Id::GapUnswept,
                    server,
                    gap = gap.kind(),
                    "{said}: the cache may hold stale keys until they expire (on_gap of this cache is \"warn\")"
                );
            }
            (OnGap::Warn, _) => {}
            (OnGap::Sweep, Some(told)) => {
                let new = self.around.rules.not_in(&told);
                let sweeping = member.pick("sweeping the keys", "purging the coarse tags");
                log!(id(gap), server, families = new.len(), "{said}: {sweeping} of rules that are new");
                self.sweep_families(gap, new, when.pause());
            }
            (OnGap::Sweep, None) => {
                if is_said {
                    let all =
                        member.pick("sweeping every key that the rules own", "purging the coarse tag of each family");
                    log!(id(gap), server, "{said}: {all}");
                }
                let all = self.around.rules.families().map(|(family, _)| family).collect();
                self.sweep_families(gap, all, when.pause());
            }
        }
    }

    /// The families of the tables that are others than the mark says, where it speaks of tables.
    fn changed_tables(&self, gap: &Gap, found: Option<&[u8]>) -> Option<BTreeSet<FamilyId>> {
        let start = self.look.start()?;
        if !matches!(gap, Gap::OtherTables | Gap::OtherPublication) {
            return None;
        }
        let keys = seen::changed(&publication(found?), &start.publication)?;
        let changed = |table: &TableId| {
            let (schema, name) = self.around.rules.name_of(*table);
            keys.contains(&seen::key(schema, name))
        };
        Some(self.around.rules.families_of_all(self.around.rules.table_ids().filter(changed)))
    }

    /// Nothing is confirmed until the sweep, and its echoes, are done.
    fn sweep_families(&mut self, gap: &Gap, families: BTreeSet<FamilyId>, pause: Duration) {
        let now = Instant::now();
        let ticket = self.ledger.open_barrier(self.marking.withdraw());
        // Nobody knows since when it lacks something.
        self.ledger.date(&ticket, now.into_std());
        self.repairs.sweeps(gap.kind());
        let sweep = GapSweep::of(gap, families, ticket);
        if pause.is_zero() {
            self.begin_sweep(sweep);
        } else {
            self.repairs.owed.push(now + pause, Repair::Sweep(sweep));
        }
    }

    fn begin_sweep(&mut self, sweep: GapSweep) {
        self.gaps.add(sweep);
        self.look_for_elders(Duration::ZERO);
    }

    fn look_for_elders(&mut self, after: Duration) {
        let control = Rc::clone(&self.around.control);
        let first = self.gaps.sweep.awaits_elders && self.gaps.elders.is_none();
        self.gaps.looking.start(async move {
            sleep(after).await;
            let look = async || {
                let seen = if first { control.elders().await } else { control.snapshot().await };
                seen.map_err(Error::having_worked)
            };
            insist(&Part::session(), "take a snapshot before a sweep", look).await
        });
    }

    /// A snapshot for the sweep of a gap: sweeps at once, and once more when everything older has ended.
    pub(super) fn looked(&mut self, snapshot: Snapshot) {
        match self.gaps.elders.take() {
            None if !self.gaps.sweep.awaits_elders || snapshot.ended_by(&snapshot) => self.sweep_last(),
            None => {
                let source = self.around.words.source;
                log!(
                    Id::GapElders,
                    "transactions are open that {source} may not have: sweeping again when they have ended"
                );
                let tickets = self.gaps.sweep.tickets.iter().map(|ticket| self.ledger.split(ticket)).collect();
                self.gaps.elders = Some((snapshot, Reminder::begun(Id::GapWaits, Instant::now())));
                self.look_for_elders(ELDERS_INTERVAL);
                let load = self.gaps.sweep.load(&self.around.rules);
                self.queue_sweep(Delivery { load, tickets, stage: Stage::Fresh });
            }
            Some((elders, _)) if elders.ended_by(&snapshot) => self.sweep_last(),
            Some((elders, mut said)) => {
                remind(&mut said);
                self.gaps.elders = Some((elders, said));
                self.look_for_elders(ELDERS_INTERVAL);
            }
        }
    }

    /// The sweep that nothing comes behind.
    fn sweep_last(&mut self) {
        let sweep = std::mem::take(&mut self.gaps.sweep);
        let load = sweep.load(&self.around.rules);
        self.queue_sweep(Delivery { load, tickets: sweep.tickets, stage: Stage::Fresh });
    }
}
