//! The simulated server's tables of the outbox, and what the daemon's statements do with them. A transaction's rows
//! appear when it commits, whatever its number; a removal that was not flushed is undone by a crash.
//!
//! Statements are known by what is characteristic in their text: one that is not known ends the simulation.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::server::{Reply, Value};
use crate::simulation::world::World;

/// Numbers of transactions pass from one epoch to the next while a seed runs.
const FIRST: u64 = (1 << 32) - 60;

/// All 64 bits of a number: the first three of an epoch are nobody's.
pub fn xid8(xid: u32) -> u64 {
    let xid = FIRST + u64::from(xid);
    if xid >> 32 == 0 { xid } else { xid + 3 }
}

/// A row of `crieur.outbox`.
pub struct Row {
    pub xid: u32,
    pub id: i64,
    pub op: u8,
    pub shape: i32,
    pub old: Value,
    pub new: Value,
    pub note: Value,
    pub at: Instant,
    /// The transaction in the world's log.
    pub commit: u32,
    /// The daemon that has the lease gave it no higher position, if any.
    pub position: Option<u64>,
    /// Removed, and when that will be flushed.
    pub gone: Option<Instant>,
}

impl Row {
    /// As the daemon counts its positions.
    fn bytes(&self) -> u64 {
        64 + [&self.old, &self.new, &self.note].into_iter().flatten().map(Vec::len).sum::<usize>() as u64
    }
}

/// A row of `crieur.collapse`.
pub struct Collapse {
    pub id: i64,
    pub shape: i32,
    pub round: usize,
    /// Who wrote it.
    pub commit: u32,
    /// Numbers of the transactions that wrote nothing because of it, and what became of those that committed.
    pub relying: BTreeSet<u32>,
    pub relied: Vec<u32>,
    pub closing: Option<Instant>,
    pub gone: Option<Instant>,
}

/// The row of `crieur.progress`.
#[derive(Clone, Default)]
struct Progress {
    era: u64,
    confirmed: u64,
    owner: Option<String>,
    until: Option<Instant>,
}

pub struct Tables {
    began: Instant,
    /// Transactions that have a number and have not ended.
    pub open: BTreeSet<u32>,
    /// The youngest that has ended.
    pub completed: u32,
    pub rows: Vec<Row>,
    pub collapse: Vec<Collapse>,
    /// When each closing of collapse rows is flushed: their count is the round.
    pub rounds: Vec<Instant>,
    /// Every state of the row, and when it is flushed.
    progress: Vec<(Instant, Progress)>,
    /// Everything so far is flushed then.
    pub flushed: Instant,
    /// The daemon that has the lease gave out no higher position.
    given: u64,
    pub ids: i64,
    /// Most rows of a page.
    page_rows: usize,
    notify: bool,
    /// Writers find the outbox full.
    pub full: bool,
    /// Somebody records: rows stay.
    pub recording: bool,
    /// The line to this daemon stands still until then.
    pub stalled: Option<(u32, Instant)>,
    /// Which outbox: one that was made anew is another.
    pub nonce: u64,
    /// A thing went to another owner.
    pub moved: Rc<Notify>,
    pub sessions: Vec<AbortHandle>,
    pub listeners: Vec<UnboundedSender<Vec<u8>>>,
}

impl Tables {
    pub fn new(page_rows: usize, notify: bool) -> Self {
        let now = Instant::now();
        Tables {
            began: now,
            open: BTreeSet::new(),
            completed: 2,
            rows: Vec::new(),
            collapse: Vec::new(),
            rounds: Vec::new(),
            progress: vec![(now, Progress::default())],
            flushed: now,
            given: 0,
            ids: 0,
            page_rows,
            notify,
            full: false,
            recording: false,
            stalled: None,
            nonce: 0,
            moved: Rc::default(),
            sessions: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// First transaction that is not known to have begun, and those below it that have not ended.
    pub fn snapshot(&self) -> (u32, Vec<u32>) {
        let xmax = self.completed + 1;
        (xmax, self.open.range(..xmax).copied().collect())
    }

    fn snapshot_text(&self) -> String {
        let (xmax, open) = self.snapshot();
        let list: Vec<String> = open.iter().map(|xid| xid8(*xid).to_string()).collect();
        format!("{}:{}:{}", xid8(open.first().copied().unwrap_or(xmax)), xid8(xmax), list.join(","))
    }

    pub fn confirmed(&self) -> u64 {
        self.state().confirmed
    }

    fn state(&self) -> &Progress {
        &self.progress.last().expect("there is a first one").1
    }

    /// Bytes of rows that are there, and whether a table is still to be swept.
    pub fn left(&self) -> (u64, bool) {
        let rows = self.rows.iter().filter(|row| row.gone.is_none());
        (rows.map(Row::bytes).sum(), self.collapse.iter().any(|row| row.gone.is_none()))
    }

    /// Transactions whose keys a cache with this position in its mark must not hold.
    pub fn covered(&self, upto: u64) -> BTreeSet<u32> {
        // A row may be gone that this cache never heard of: the position goes on without one that is away.
        let is_covered = |row: &Row| row.position.map_or(row.gone.is_some(), |position| position <= upto);
        let open: BTreeSet<u32> = self.rows.iter().filter(|row| !is_covered(row)).map(|row| row.commit).collect();
        self.rows.iter().map(|row| row.commit).filter(|commit| !open.contains(commit)).collect()
    }

    /// Every session ends.
    pub fn cut(&mut self) {
        self.sessions.drain(..).for_each(|session| session.abort());
        self.listeners.clear();
    }

    /// What was to be flushed later than `then` never was; `kept` says which transactions are still there.
    pub fn lose(&mut self, then: Instant, kept: impl Fn(u32) -> bool) {
        let undo = |at: &mut Option<Instant>| *at = at.filter(|at| *at <= then);
        self.rows.retain(|row| kept(row.commit));
        self.collapse.retain(|row| kept(row.commit));
        self.rows.iter_mut().for_each(|row| undo(&mut row.gone));
        for row in &mut self.collapse {
            undo(&mut row.gone);
            undo(&mut row.closing);
            row.relied.retain(|commit| kept(*commit));
            row.relying.clear();
        }
        self.rounds.retain(|at| *at <= then);
        let durable = self.progress.iter().take_while(|(at, _)| *at <= then).count();
        self.progress.truncate(durable.max(1));
        self.open.clear();
        self.flushed = Instant::now();
    }

    /// The schema is dropped and made again.
    pub fn reinstall(&mut self) {
        let now = Instant::now();
        *self = Tables {
            began: self.began,
            completed: self.completed,
            given: self.given,
            moved: Rc::clone(&self.moved),
            nonce: self.nonce + 1,
            stalled: self.stalled,
            sessions: std::mem::take(&mut self.sessions),
            ..Tables::new(self.page_rows, self.notify)
        };
        self.progress = vec![(now, Progress::default())];
    }

    fn micros(&self, at: Instant) -> Value {
        let micros = 800_000_000_000_000 + at.duration_since(self.began).as_micros() as u64;
        Some(micros.to_be_bytes().to_vec())
    }

    /// `poll.sql`.
    fn poll(&mut self, params: &[Value]) -> Reply {
        let text = |index: usize| params[index].as_deref().map(|text| std::str::from_utf8(text).expect("UTF-8"));
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let xmax = number(text(0).expect("a number"));
        let in_progress: Vec<u64> =
            elements(params[1].as_deref().expect("an array")).iter().map(|xid| number(xid)).collect();
        let id = params[3].as_deref().expect("a number").try_into().map(i64::from_be_bytes).expect("eight bytes");
        let behind = (number(text(2).expect("a number")), id);
        let first = text(4);
        let mut rows: Vec<usize> = (0..self.rows.len()).filter(|index| self.rows[*index].gone.is_none()).collect();
        rows.retain(|index| {
            let row = &self.rows[*index];
            let xid = xid8(row.xid);
            let is_new = xid >= xmax || in_progress.contains(&xid);
            is_new && (xid, row.id) > behind && first.is_none_or(|first| visible(xid, first))
        });
        rows.sort_by_key(|index| (self.rows[*index].xid, self.rows[*index].id));
        let complete = rows.len() < self.page_rows;
        rows.truncate(self.page_rows);
        for index in &rows {
            self.given += self.rows[*index].bytes();
            self.rows[*index].position = Some(self.given);
        }
        self.page(&rows, complete)
    }

    fn page(&self, rows: &[usize], complete: bool) -> Reply {
        let head = [Some(self.snapshot_text().into_bytes()), self.micros(Instant::now())];
        let row = |index: &usize| {
            let row = &self.rows[*index];
            let values = [
                Some(xid8(row.xid).to_string().into_bytes()),
                Some(row.id.to_be_bytes().to_vec()),
                Some(vec![row.op]),
                Some(row.shape.to_be_bytes().to_vec()),
                row.old.clone(),
                row.new.clone(),
                row.note.clone(),
                self.micros(row.at),
                Some(vec![u8::from(complete)]),
            ];
            head.iter().cloned().chain(values).collect()
        };
        let types = vec![25, 1184, 25, 20, 25, 23, 1009, 1009, 25, 1184, 16];
        let mut rows: Vec<Vec<Value>> = rows.iter().map(row).collect();
        if rows.is_empty() {
            rows.push(head.into_iter().chain(vec![None; 9]).collect());
        }
        Reply { types, rows }
    }
}

/// Elements of an array in the binary form.
fn elements(array: &[u8]) -> Vec<&str> {
    let mut rest = array.get(20..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (element, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        found.push(std::str::from_utf8(element).expect("UTF-8"));
        rest = behind;
    }
    found
}

/// `pg_visible_in_snapshot`.
fn visible(xid: u64, snapshot: &str) -> bool {
    let mut parts = snapshot.split(':').skip(1);
    let xmax: u64 = parts.next().and_then(|xmax| xmax.parse().ok()).expect("a snapshot");
    let in_progress = parts.next().expect("a snapshot").split(',');
    xid < xmax && in_progress.filter(|other| !other.is_empty()).all(|other| other.parse() != Ok(xid))
}

/// An array in the binary form, of as many dimensions as it has extents.
pub fn array(element: u32, extents: &[usize], values: &[Vec<u8>]) -> Vec<u8> {
    let mut out = [extents.len() as u32, 0, element].map(u32::to_be_bytes).concat();
    extents.iter().for_each(|extent| out.extend([*extent as u32, 1].map(u32::to_be_bytes).concat()));
    values.iter().for_each(|value| out.extend([&(value.len() as u32).to_be_bytes()[..], value].concat()));
    out
}

/// Tables by their shapes.
pub const THINGS: i32 = 1;
pub const SHELVES: i32 = 2;
pub const OWNERS: i32 = 3;

/// Whether a change of the table may concern the key.
fn is_of(shape: i32, key: &str) -> bool {
    let families: &[&str] = match shape {
        THINGS => &["thing:", "owner:"],
        SHELVES => &["shelf:"],
        _ => &["owner:"],
    };
    families.iter().any(|family| key.starts_with(family))
}

/// `shapes.sql`.
fn shapes(ids: &[u8]) -> Reply {
    let shape = |id: i32| {
        let (name, columns): (&str, &[&str]) = match id {
            THINGS => ("things", &["id"]),
            SHELVES => ("shelves", &["id"]),
            OWNERS => ("owners", &["id", "n"]),
            id => panic!("no row names shape {id}"),
        };
        let names: Vec<Vec<u8>> = columns.iter().map(|name| name.as_bytes().to_vec()).collect();
        let kinds = vec![25_u32.to_be_bytes().to_vec(); columns.len()];
        vec![
            Some(id.to_be_bytes().to_vec()),
            Some(id.to_be_bytes().to_vec()),
            Some(b"public".to_vec()),
            Some(name.as_bytes().to_vec()),
            Some(array(25, &[columns.len()], &names)),
            Some(array(26, &[columns.len()], &kinds)),
        ]
    };
    let ids = ids[20..].chunks(8).map(|id| i32::from_be_bytes(id[4..].try_into().expect("four bytes")));
    Reply { types: vec![23, 26, 25, 25, 1009, 1028], rows: ids.map(shape).collect() }
}

/// One row of texts.
fn row(values: &[Option<String>]) -> Reply {
    let values: Vec<Value> = values.iter().map(|value| value.clone().map(String::into_bytes)).collect();
    Reply { types: vec![25; values.len()], rows: vec![values] }
}

fn texts<const N: usize>(values: [String; N]) -> Reply {
    row(&values.map(Some))
}

/// The literal behind `before`.
fn literal<'a>(sql: &'a str, before: &str) -> &'a str {
    let behind = sql.split_once(&format!("{before}'")).unwrap_or_else(|| panic!("no {before} in {sql}")).1;
    behind.split('\'').next().unwrap_or_default()
}

fn numbers<T: std::str::FromStr>(list: &str) -> Vec<T> {
    let list = list.trim_start_matches('{').trim_end_matches('}').split(',');
    list.filter_map(|number| number.trim().parse().ok()).collect()
}

impl World {
    pub fn tables(&mut self) -> &mut Tables {
        self.outbox.as_mut().expect("a simulation of the outbox")
    }

    /// Runs a statement of the daemon.
    pub fn statement(&mut self, sql: &str, params: &[Value]) -> Reply {
        match sql {
            _ if sql.contains("RETURNING p.era") => {
                self.acquire(literal(sql, "SET owner = "), literal(sql, "secs => "))
            }
            _ if sql.contains("SELECT FROM mine") => self.remove(sql),
            _ if sql.contains("SET owner = NULL") => self.release(literal(sql, "AND owner = ")),
            _ if sql.contains("pg_control_system") => {
                texts(["f".into(), "1".into(), "sim".into(), format!("{:08X}", self.timeline)])
            }
            _ if sql.contains("FROM crieur.setting") => {
                let notify = if self.tables().notify { "t" } else { "f" };
                let nonce = self.tables().nonce.to_string();
                texts([self.run.to_string(), self.publication.to_string(), nonce, notify.into(), "1".into()])
            }
            _ if sql.contains("FROM crieur.outbox AS o") => self.tables().poll(params),
            _ if sql.contains("FROM crieur.shape AS s") => shapes(params[0].as_deref().expect("an array")),
            _ if sql.contains("EXISTS (SELECT FROM crieur.collapse)") => {
                let any = self.tables().left().1;
                Reply { types: vec![16], rows: vec![vec![Some(vec![u8::from(any)])]] }
            }
            _ if sql.contains("crieur.close_collapsed()") => self.close(),
            _ if sql.contains("pg_current_xact_id()") => texts([xid8(self.number()).to_string()]),
            _ if sql.contains("pg_snapshot_xmin") => {
                self.tables().given += 1; // What is to be swept may get a position.
                let text = self.tables().snapshot_text();
                texts([text.split(':').next().unwrap_or_default().to_owned()])
            }
            _ if sql.contains("DELETE FROM crieur.collapse") => self.forget(sql),
            _ if sql.contains("crieur.shrink()") => texts(["f".into()]),
            _ => panic!("the simulated server does not know the statement {sql}"),
        }
    }

    /// A transaction that begins and ends at once; its number.
    pub fn number(&mut self) -> u32 {
        self.xids += 1;
        self.tables().completed = self.xids;
        self.xids
    }

    /// When what is done now will be flushed: it waits for nobody.
    fn lazily(&mut self) -> Instant {
        let wait = self.pause(100);
        let tables = self.tables();
        tables.flushed = tables.flushed.max(Instant::now() + wait);
        tables.flushed
    }

    /// Everything is flushed: a commit that waits for it.
    fn flush(&mut self) {
        let now = Instant::now();
        self.log.iter_mut().for_each(|commit| commit.flushed_at = commit.flushed_at.min(now));
        let tables = self.tables();
        tables.flushed = now;
        let flush = |at: &mut Option<Instant>| *at = at.map(|at| at.min(now));
        tables.rows.iter_mut().for_each(|row| flush(&mut row.gone));
        for row in &mut tables.collapse {
            flush(&mut row.gone);
            flush(&mut row.closing);
        }
        tables.rounds.iter_mut().chain(tables.progress.iter_mut().map(|(at, _)| at)).for_each(|at| *at = now.min(*at));
    }

    fn set_progress(&mut self, at: Instant, progress: Progress) {
        self.tables().progress.push((at, progress));
    }

    /// `acquire.sql`.
    fn acquire(&mut self, owner: &str, seconds: &str) -> Reply {
        let now = Instant::now();
        let progress = self.tables().state().clone();
        let is_free = progress.owner.as_deref().is_none_or(|other| other == owner);
        if !is_free && progress.until.is_some_and(|until| until >= now) {
            return row(&[None, None, progress.owner]);
        }
        let seconds = Duration::from_secs_f64(seconds.parse().expect("seconds"));
        let (era, confirmed) = (progress.era + 1, progress.confirmed);
        let tables = self.tables();
        tables.given = era << 40;
        // What is gone does not come again; a mark that is behind says no more than before.
        tables.rows.iter_mut().filter(|row| row.gone.is_none()).for_each(|row| row.position = None);
        self.flush();
        self.set_progress(now, Progress { era, confirmed, owner: Some(owner.to_owned()), until: Some(now + seconds) });
        row(&[Some(era.to_string()), Some(confirmed.to_string()), progress.owner])
    }

    /// `remove.sql`.
    fn remove(&mut self, sql: &str) -> Reply {
        let (now, owner) = (Instant::now(), literal(sql, "p.owner = "));
        let flag = |is: bool| if is { "t" } else { "f" }.to_owned();
        let recording = self.tables().recording;
        let mut progress = self.tables().state().clone();
        if progress.owner.as_deref() != Some(owner) {
            return texts([flag(false), flag(recording), "0".to_owned()]);
        }
        let seconds = Duration::from_secs_f64(literal(sql, "secs => ").parse().expect("seconds"));
        let upto = literal(sql, "greatest(p.confirmed, ").parse().expect("a position");
        if upto > progress.confirmed {
            self.given_on(self.run, upto);
        }
        progress.confirmed = progress.confirmed.max(upto);
        progress.until = Some(now + seconds);
        let at = self.lazily();
        self.set_progress(at, progress);
        let lists: Vec<&str> = sql.split_once("unnest(").expect("runs").1.split('\'').collect();
        let (firsts, lasts): (Vec<i64>, Vec<i64>) = (numbers(lists[3]), numbers(lists[5]));
        let runs = numbers::<u64>(lists[1]).into_iter().zip(firsts.into_iter().zip(lasts));
        let runs: Vec<(u64, (i64, i64))> = runs.collect();
        let seen = literal(sql, "pg_snapshot_xmax(nullif(").to_owned();
        let named = |row: &Row| {
            let xid = xid8(row.xid);
            runs.iter().any(|(of, (first, last))| *of == xid && (*first..=*last).contains(&row.id))
                || (!seen.is_empty() && visible(xid, &seen))
        };
        let mut gone = 0;
        if !recording {
            let tables = self.outbox.as_mut().expect("a simulation of the outbox");
            for row in tables.rows.iter_mut().filter(|row| row.gone.is_none() && named(row)) {
                (row.gone, gone) = (Some(at), gone + 1);
                let xid = xid8(row.xid);
                let holding = self.stores.iter().filter(|store| !store.is_excused());
                if let Some(keys) = holding.filter_map(|store| store.owed.get(&row.commit)).next() {
                    self.failure = Some(format!("removed a row of {xid} with {keys:?} undeleted"));
                }
            }
        }
        texts([flag(true), flag(recording), gone.to_string()])
    }

    fn release(&mut self, owner: &str) -> Reply {
        let progress = self.tables().state().clone();
        if progress.owner.as_deref() == Some(owner) {
            let at = self.lazily();
            self.set_progress(at, Progress { owner: None, until: None, ..progress });
        }
        Reply::default()
    }

    /// `crieur.close_collapsed()`: what is there is closed, and the round is over.
    fn close(&mut self) -> Reply {
        let at = self.lazily();
        let tables = self.tables();
        tables.rounds.push(at);
        let rows = tables.collapse.iter_mut().filter(|row| row.gone.is_none());
        let (mut ids, mut shapes) = (Vec::new(), BTreeSet::new());
        for row in rows {
            row.closing.get_or_insert(at);
            ids.push(row.id.to_string());
            shapes.insert(row.shape.to_string());
        }
        let shapes: Vec<String> = shapes.into_iter().collect();
        texts([format!("{{{}}}", ids.join(",")), format!("{{{}}}", shapes.join(","))])
    }

    /// The daemon says that these tables are swept: everybody who relied on it has ended, and was swept in each cache that
    /// holds the position.
    fn forget(&mut self, sql: &str) -> Reply {
        let at = self.lazily();
        let list = sql.split_once("IN (").expect("a list").1.split(')').next().unwrap_or_default();
        let ids: Vec<i64> = numbers(list);
        let tables = self.outbox.as_mut().expect("a simulation of the outbox");
        for row in tables.collapse.iter_mut().filter(|row| ids.contains(&row.id) && row.gone.is_none()) {
            row.gone = Some(at);
            let (shape, relying) = (row.shape, &row.relying);
            let holding = self.stores.iter().filter(|store| !store.is_excused());
            let of = |commit| holding.clone().filter_map(move |store| store.owed.get(commit));
            let owed = row.relied.iter().flat_map(of).flatten();
            let owed: Vec<&String> = owed.filter(|key| is_of(shape, key)).collect();
            if !owed.is_empty() || !relying.is_empty() {
                self.failure = Some(format!("shape {shape} counts as swept: {owed:?} undeleted, {relying:?} open"));
            }
        }
        Reply::default()
    }
}
