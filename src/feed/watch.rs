//! What a look at the server means: which warnings are due, and which tables only sweeps can keep right. Pure.
//!
//! A warning is due when its cause appears and then once a minute. Nothing here moves a position or proves anything: a
//! sweep from here is extra work, never instead of the sweep of a gap.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::control::{Refused, Sighting, SlotWal, WalStatus};
use crate::observe::{Id, Line};
use crate::postgres::quote;
use crate::reminder::{self, Reminder};

/// How often tables whose changes do not come are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The rate at which a slot loses ground is measured over so long, from the best of the first third to the best of the
/// last: its position moves in steps, as the server writes running transactions every 15 seconds
/// (`LOG_SNAPSHOT_INTERVAL_MS` in `bgwriter.c`).
const RATE_OVER: Duration = Duration::from_secs(60);

/// A slot that would be lost within this time at the present rate is worth a warning.
const SOON: Duration = Duration::from_secs(15 * 60);

/// One line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// What the line is about, and how loud it is.
    pub line: Line,
    /// What is wrong: lower case, no full stop.
    pub text: String,
    /// A sentence that says what to do.
    pub hint: String,
}

/// What a look means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judgement {
    /// What is due for the log.
    pub notices: Vec<Notice>,
    /// Tables whose keys are to be swept now, by schema and name.
    pub sweep: Vec<(String, String)>,
}

/// The cause of a notice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Cause {
    Wal(WalStatus),
    LostSoon,
    NoPublication,
    Withheld,
    Refuses,
    Table(String, String),
    Rooted,
    Refused(String, String),
    Missing(String, String, Option<String>),
    HeldBack,
}

impl Cause {
    /// Whether it is told again while it stays: the rules are as they were, and whoever wrote them was told.
    fn is_repeated(&self) -> bool {
        !matches!(self, Cause::Missing(..))
    }
}

/// What was seen before, for rates and reminders. Times count from one moment that stays the same.
#[derive(Debug)]
pub struct Watch {
    publication: String,
    said: Reminder<Cause, Duration>,
    swept: Option<Duration>,
    /// What told at the last look that no partition was truncated.
    rooted: BTreeMap<(String, String), String>,
    safe: VecDeque<(Duration, i64)>,
}

impl Watch {
    /// `publication` is the name, for hints.
    pub fn new(publication: &str) -> Self {
        let publication = publication.to_owned();
        Watch {
            publication,
            said: Reminder::of_at_most(usize::MAX),
            swept: None,
            rooted: BTreeMap::new(),
            safe: VecDeque::new(),
        }
    }

    /// Judges one look at the server.
    pub fn judge(&mut self, now: Duration, sighting: &Sighting) -> Judgement {
        let mut found = self.of_publication(sighting);
        if let Some(wal) = sighting.wal {
            found.extend(self.of_wal(now, wal));
        }
        found.extend(sighting.refused.iter().filter(|refused| !refused.is_mended).map(of_refused));
        found.extend(sighting.missing.iter().map(of_missing));
        self.said.retain(|cause| *cause == Cause::HeldBack || found.iter().any(|(current, _)| current == cause));
        let due = |(cause, notice): (Cause, Notice)| {
            let is_due = match cause.is_repeated() {
                true => self.said.is_due(&cause, now),
                false => self.said.is_new(&cause, now),
            };
            is_due.then_some(notice)
        };
        let mut notices: Vec<Notice> = found.into_iter().filter_map(due).collect();
        notices.extend(sighting.refused.iter().filter(|refused| refused.is_mended).map(mended));
        let mut sweep = self.truncated(sighting);
        let told = [&sighting.unpublished, &sighting.uncovered, &sighting.unheard];
        if told.iter().all(|tables| tables.is_empty()) && sighting.withheld.is_empty() {
            self.swept = None;
        } else if self.swept.is_none_or(|swept| now.saturating_sub(swept) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            sweep.extend(told.into_iter().flatten().cloned());
        }
        Judgement { notices, sweep }
    }

    /// Partitioned tables of which a partition may have been truncated without a word; nobody knows at the first look.
    fn truncated(&mut self, sighting: &Sighting) -> Vec<(String, String)> {
        let now: BTreeMap<(String, String), String> = sighting.rooted.iter().cloned().collect();
        let before = std::mem::replace(&mut self.rooted, now);
        let others = self.rooted.iter().filter(|(table, digest)| before.get(*table) != Some(*digest));
        others.map(|(table, _)| table.clone()).collect()
    }

    /// The server's WAL goes on and nothing of it has come for so long.
    pub fn held_back(&mut self, now: Duration, since: Duration, sighting: &Sighting) -> Option<Notice> {
        if !self.said.is_due(&Cause::HeldBack, now) {
            return None;
        }
        let standbys = Some(&sighting.standby_slots).filter(|slots| sighting.failover && !slots.is_empty());
        let (cause, hint) = match standbys {
            Some(slots) => (
                format!("synchronized_standby_slots = '{slots}' makes it wait for a standby"),
                "Start the standby whose slot is named there, or take its slot out of synchronized_standby_slots and \
                 reload the server's configuration."
                    .to_owned(),
            ),
            None => (
                "its walsender waits or cannot read the WAL".to_owned(),
                "On the server, see wait_event of the walsender in pg_stat_activity, and the server's log.".to_owned(),
            ),
        };
        let text = format!(
            "the server holds the stream back: it has sent nothing for {} while its WAL went on, so changes are not \
             deleted from the cache; {cause}",
            minutes(since)
        );
        let line = if since < reminder::EVERY { Id::HeldBack.into() } else { Id::HeldBack.lasting() };
        Some(Notice { line, text, hint })
    }

    fn of_publication(&self, sighting: &Sighting) -> Vec<(Cause, Notice)> {
        let name = &self.publication;
        // Sweeps take the place of what does not come, and nothing but a hand at the server ends that.
        let wrong = |id: Id, text: String, hint: String| Notice { line: id.into(), text, hint };
        if sighting.publication.is_empty() {
            let text = format!("publication \"{name}\" does not exist: no change comes, and sweeps take their place");
            return vec![(Cause::NoPublication, wrong(Id::PublicationMissing, text, "Run `crieur setup`.".to_owned()))];
        }
        if !sighting.withheld.is_empty() {
            let kinds = sighting.withheld.join(", ");
            let text = format!("publication \"{name}\" leaves out {kinds}: sweeps take their place");
            let name = quote::identifier(name);
            let hint = format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');");
            return vec![(Cause::Withheld, wrong(Id::PublicationWithholds, text, hint))];
        }
        let rooted = sighting.rooted.first().map(|_| {
            let text = format!(
                "publication \"{name}\" sends changes of partitions as those of their table \
                 (publish_via_partition_root), and TRUNCATE of one partition not at all: sweeps take its place"
            );
            let hint =
                format!("ALTER PUBLICATION {} SET (publish_via_partition_root = false);", quote::identifier(name));
            (Cause::Rooted, wrong(Id::PublicationViaRoot, text, hint))
        });
        let table = |(schema, table): &(String, String)| {
            let text = format!("table \"{schema}.{table}\" is not in publication \"{name}\": sweeps take its place");
            let qualified = quote::qualified(schema, table);
            let hint = format!("ALTER PUBLICATION {} ADD TABLE {qualified};", quote::identifier(name));
            let hint = hint + " If it is there with a row filter, DROP it first.";
            (Cause::Table(schema.clone(), table.clone()), wrong(Id::TableUnpublished, text, hint))
        };
        let uncovered = sighting.uncovered.iter().map(|(schema, table)| {
            let text = format!(
                "triggers do not tell all that the rules read of table \"{schema}.{table}\": sweeps take its place"
            );
            let hint = "Run `crieur setup`: it watches the table with its columns and partitions as they are now.";
            (Cause::Table(schema.clone(), table.clone()), wrong(Id::TableUncovered, text, hint.to_owned()))
        });
        let refuses = sighting.refuses.iter().map(|why| {
            let text = format!("crieur.outbox takes no rows ({why}): sweeps of every table take their place");
            let hint =
                "Run `crieur setup` as the owner of schema crieur, and `crieur check` afterwards. Writers go on.";
            (Cause::Refuses, wrong(Id::OutboxRefuses, text, hint.to_owned()))
        });
        refuses.chain(sighting.unpublished.iter().map(table)).chain(uncovered).chain(rooted).collect()
    }

    fn of_wal(&mut self, now: Duration, wal: SlotWal) -> Option<(Cause, Notice)> {
        let left = self.time_left(now, wal.safe_bytes);
        let held = megabytes(wal.held_bytes);
        let (cause, id, state) = match (wal.status, left) {
            (WalStatus::Unreserved | WalStatus::Lost, _) => {
                (Cause::Wal(wal.status), Id::SlotEndangered, "the next checkpoint may remove what it needs")
            }
            (WalStatus::Extended, _) => {
                (Cause::Wal(wal.status), Id::SlotBehind, "it is behind by more than max_wal_size")
            }
            (WalStatus::Reserved, Some(left)) if left < SOON => {
                (Cause::LostSoon, Id::SlotLostSoon, "it falls behind fast")
            }
            (WalStatus::Reserved, _) => return None,
        };
        let until = match (wal.safe_bytes, left) {
            (None, _) => "it is never lost (max_slot_wal_keep_size is -1), but the server's disk fills".to_owned(),
            (Some(safe), None) => format!("it is lost {} of WAL from now", megabytes(safe)),
            (Some(_), Some(left)) => format!("at the present rate it is lost in {}", minutes(left)),
        };
        let text = format!("replication slot holds back {held} of WAL, {state}; {until}");
        let hint = "Mend what holds the position up (a cache that is away, a transaction that is open for long), or \
                    raise max_slot_wal_keep_size.";
        Some((cause, Notice { line: id.into(), text, hint: hint.to_owned() }))
    }

    /// How long until the slot is lost if it goes on losing ground as it does now; `None` when it does not.
    fn time_left(&mut self, now: Duration, safe: Option<i64>) -> Option<Duration> {
        let Some(safe) = safe else {
            self.safe.clear();
            return None;
        };
        self.safe.push_back((now, safe));
        while self.safe.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_OVER) {
            self.safe.pop_front();
        }
        let age = |(at, _): &(Duration, i64)| now.saturating_sub(*at);
        if self.safe.front().is_none_or(|first| age(first) < RATE_OVER) {
            return None;
        }
        let best = |of: &dyn Fn(&(Duration, i64)) -> bool| {
            self.safe.iter().filter(|sample| of(sample)).map(|(_, safe)| *safe).max()
        };
        let before = best(&|sample| age(sample) >= RATE_OVER * 2 / 3)?;
        let after = best(&|sample| age(sample) <= RATE_OVER / 3)?;
        if before <= after {
            return None;
        }
        let rate = (before - after) as f64 / (RATE_OVER * 2 / 3).as_secs_f64();
        Some(Duration::from_secs((safe.max(0) as f64 / rate) as u64))
    }
}

/// Writes of the application fail now.
fn of_refused(refused: &Refused) -> (Cause, Notice) {
    let (schema, table) = &refused.table;
    let text = format!("the server refuses updates and deletes of table \"{schema}.{table}\": {}", refused.because);
    let notice = Notice { line: Id::WritesRefused.into(), text, hint: refused.mend.clone() };
    (Cause::Refused(schema.clone(), table.clone()), notice)
}

/// They failed until now.
fn mended(refused: &Refused) -> Notice {
    let (schema, table) = &refused.table;
    let text = format!(
        "the server refused updates and deletes of table \"{schema}.{table}\": {}. That is mended: {}",
        refused.because, refused.mend
    );
    let hint =
        "Writes failed until now: let the migration that makes a partition give it a replica identity, and keep \
                indexes named crieur_identity_*."
            .to_owned();
    Notice { line: Id::WritesMended.into(), text, hint }
}

/// A name that the rules have and the server does not.
fn of_missing((schema, table, column): &(String, String, Option<String>)) -> (Cause, Notice) {
    let id = if column.is_none() { Id::TableMissing } else { Id::ColumnMissing };
    let text = match column {
        None => format!("table \"{schema}.{table}\", which rules name, does not exist: no change comes from it"),
        Some(column) => format!(
            "table \"{schema}.{table}\" has no column \"{column}\", which rules read: keys with it are deleted as \
             whole families"
        ),
    };
    let hint = "Correct the name in the rules file; `crieur check` says which rule has it.".to_owned();
    let cause = Cause::Missing(schema.clone(), table.clone(), column.clone());
    (cause, Notice { line: id.into(), text, hint })
}

fn megabytes(bytes: i64) -> String {
    format!("{} MB", bytes.max(0) >> 20)
}

fn minutes(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds => format!("{} hours", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: i64 = 1 << 20;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn healthy() -> Sighting {
        let wal = SlotWal { status: WalStatus::Reserved, safe_bytes: Some(1000 * MB), held_bytes: MB };
        Sighting { publication: "digest".into(), wal: Some(wal), ..Sighting::default() }
    }

    /// Looks every two seconds; at which of them something was said.
    fn said(watch: &mut Watch, looks: u64, sighting: impl Fn(u64) -> Sighting) -> Vec<(u64, String)> {
        let look = |at: u64| {
            let notices = watch.judge(seconds(2 * at), &sighting(at)).notices;
            notices.into_iter().map(move |notice| (2 * at, notice.text)).collect::<Vec<_>>()
        };
        (0..looks).flat_map(look).collect()
    }

    fn with_wal(status: WalStatus, safe_mb: i64) -> Sighting {
        let wal = SlotWal { status, safe_bytes: Some(safe_mb * MB), held_bytes: 100 * MB };
        Sighting { wal: Some(wal), ..healthy() }
    }

    #[test]
    fn a_healthy_server_is_not_worth_a_word() {
        assert_eq!(said(&mut Watch::new("p"), 100, |_| healthy()), []);
        // A position that moves in steps only seems to lose ground.
        let steps = |at: u64| with_wal(WalStatus::Reserved, 500 - (at as i64 % 7) * 10);
        assert_eq!(said(&mut Watch::new("p"), 100, steps), []);
    }

    #[test]
    fn a_slot_that_falls_behind_is_told_before_it_is_lost_and_each_minute() {
        let falling = |at: u64| with_wal(WalStatus::Reserved, 10_000 - at as i64 * 10);
        assert_eq!(said(&mut Watch::new("p"), 70, falling), []);
        let faster = |at: u64| with_wal(WalStatus::Reserved, 10_000 - at as i64 * 40);
        let told = said(&mut Watch::new("p"), 70, faster);
        assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [60, 120], "{told:?}");
        assert!(told[0].1.ends_with("at the present rate it is lost in 7 minutes"), "{told:?}");
    }

    #[test]
    fn each_status_is_told_when_it_appears() {
        let worse = |at: u64| match at {
            0..5 => healthy(),
            5..10 => with_wal(WalStatus::Extended, 900),
            10..15 => with_wal(WalStatus::Unreserved, -5),
            _ => healthy(),
        };
        let told = said(&mut Watch::new("p"), 20, worse);
        assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [10, 20], "{told:?}");
        assert!(told[0].1.contains("more than max_wal_size"), "{told:?}");
        assert!(told[1].1.contains("the next checkpoint"), "{told:?}");
    }

    #[test]
    fn a_table_that_is_not_published_is_swept_every_ten_seconds_and_told_with_its_statement() {
        let mut watch = Watch::new("p");
        let table = ("public".to_owned(), "it's".to_owned());
        let missing = Sighting { unpublished: vec![table.clone()], ..healthy() };
        let (mut swept, mut told) = (Vec::new(), Vec::new());
        for at in (0..62).step_by(2) {
            let judgement = watch.judge(seconds(at), &missing);
            if judgement.sweep == [table.clone()] {
                swept.push(at);
            }
            told.extend(judgement.notices);
        }
        assert_eq!(swept, [0, 10, 20, 30, 40, 50, 60]);
        assert_eq!(told.len(), 2);
        assert_eq!(
            told[0].hint,
            "ALTER PUBLICATION \"p\" ADD TABLE \"public\".\"it's\"; If it is there with a row filter, DROP it first."
        );
        assert_eq!(watch.judge(seconds(62), &healthy()), Judgement::default());
        assert_eq!(watch.judge(seconds(64), &missing).sweep, [table], "it is missing again");
    }

    #[test]
    fn a_stream_that_is_held_back_is_told_each_minute_with_its_cause() {
        let mut watch = Watch::new("p");
        let standby = Sighting { failover: true, standby_slots: "standby1".into(), ..healthy() };
        let told = |watch: &mut Watch, at: u64, sighting: &Sighting| {
            watch.judge(seconds(at), sighting);
            watch.held_back(seconds(at), seconds(at), sighting).map(|notice| (notice.line, notice.text))
        };
        let (line, first) = told(&mut watch, 10, &standby).expect("it is due");
        assert_eq!(line, Line::from(Id::HeldBack));
        assert!(first.ends_with("synchronized_standby_slots = 'standby1' makes it wait for a standby"), "{first}");
        assert_eq!((told(&mut watch, 12, &standby), told(&mut watch, 68, &standby)), (None, None));
        let other = Sighting { failover: false, ..standby };
        let (line, second) = told(&mut watch, 70, &other).expect("a minute is over");
        assert_eq!(line, Id::HeldBack.lasting());
        assert!(second.contains("has sent nothing for 70 seconds") && !second.contains("synchronized"), "{second}");
    }

    #[test]
    fn an_outbox_that_takes_no_rows_is_an_error_and_every_table_is_swept() {
        let tables = vec![("a".to_owned(), "b".to_owned()), ("a".to_owned(), "c".to_owned())];
        let refused = Sighting { refuses: Some("no".into()), unheard: tables.clone(), ..healthy() };
        let judgement = Watch::new("p").judge(seconds(0), &refused);
        assert_eq!((judgement.notices.len(), judgement.sweep), (1, tables));
        assert_eq!(judgement.notices[0].line, Line::from(Id::OutboxRefuses));
    }

    #[test]
    fn a_publication_that_is_missing_or_leaves_kinds_out_is_told_once_for_all_tables() {
        let tables = vec![("a".to_owned(), "b".to_owned()), ("a".to_owned(), "c".to_owned())];
        let gone = Sighting { publication: String::new(), unpublished: tables.clone(), ..healthy() };
        let judgement = Watch::new("p").judge(seconds(0), &gone);
        assert_eq!((judgement.notices.len(), judgement.sweep.len()), (1, 2));
        let partly = Sighting { withheld: vec!["truncate".into()], unpublished: tables, ..healthy() };
        let judgement = Watch::new("p").judge(seconds(0), &partly);
        assert_eq!((judgement.notices.len(), judgement.sweep.len()), (1, 2));
        assert!(judgement.notices[0].text.contains("leaves out truncate"), "{judgement:?}");
    }

    #[test]
    fn a_refused_write_is_an_error_each_minute_what_was_mended_a_warning_and_a_missing_name_is_said_once() {
        let refused = |is_mended| Refused {
            table: ("public".into(), "t".into()),
            because: "it has no replica identity".into(),
            mend: "ALTER TABLE …;".into(),
            is_mended,
        };
        let missing = ("public".to_owned(), "t".to_owned(), Some("ctiy".to_owned()));
        let mut watch = Watch::new("p");
        let mut told = Vec::new();
        for at in (0..=62).step_by(2) {
            let seen = Sighting { refused: vec![refused(false)], missing: vec![missing.clone()], ..healthy() };
            told.extend(watch.judge(seconds(at), &seen).notices.into_iter().map(|notice| (at, notice)));
        }
        let at: Vec<_> = told.iter().map(|(at, notice)| (*at, notice.line.id)).collect();
        assert_eq!(at, [(0, Id::WritesRefused), (0, Id::ColumnMissing), (60, Id::WritesRefused)], "{told:?}");
        assert_eq!(told[0].1.hint, "ALTER TABLE …;");
        let judgement = watch.judge(seconds(64), &Sighting { refused: vec![refused(true)], ..healthy() });
        assert_eq!(judgement.notices.len(), 1);
        assert_eq!(judgement.notices[0].line, Line::from(Id::WritesMended));
        assert!(judgement.notices[0].text.ends_with("That is mended: ALTER TABLE …;"), "{judgement:?}");
        assert_eq!(watch.judge(seconds(66), &healthy()), Judgement::default());
    }

    #[test]
    fn what_may_have_been_truncated_without_a_word_is_swept_when_it_happens() {
        let seen = |digest: Option<&str>| {
            let table = ("public".to_owned(), "t".to_owned());
            Sighting { rooted: digest.map(|digest| (table, digest.to_owned())).into_iter().collect(), ..healthy() }
        };
        let mut watch = Watch::new("p");
        let mut swept = |digest| watch.judge(seconds(0), &seen(digest)).sweep.len();
        assert_eq!(swept(None), 0);
        assert_eq!(swept(Some("x")), 1, "nobody knows what was truncated before");
        assert_eq!(swept(Some("x")), 0);
        assert_eq!(swept(Some("y")), 1);
    }
}
