//! Writers of the outbox: transactions that take their number at their first statement and commit at any time later.
//!
//! What their statement leaves in the outbox is decided at the statement, as triggers do; what they change is decided
//! at their commit, so that the world's log is in the order of commits.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::server::{Value, notification};
use super::tables::{Collapse, OWNERS, Row, SHELVES, THINGS, array};
use crate::simulation::scenario::Kind;
use crate::simulation::world::{Commit, Shared, World};

/// What the triggers do with a transaction's statements.
enum Capture {
    /// A row for each; their numbers begin with this one.
    Rows(i64),
    /// The outbox is full: nothing where a row of this round says it of the table already.
    Collapsed { round: usize, relied: BTreeMap<i32, i64> },
    /// There are none.
    Nothing,
}

struct Begun {
    xid: u32,
    capture: Capture,
}

/// Begins transactions until the plan's last, and waits for their end.
pub async fn write(world: Shared) {
    let until = world.borrow().plan.written;
    let mut open = Vec::new();
    while Instant::now() < until {
        let wait = world.borrow_mut().pause(20);
        sleep(wait).await;
        open.push(tokio::task::spawn_local(transaction(Rc::clone(&world))));
    }
    for transaction in open {
        transaction.await.expect("a writer does not panic");
    }
}

async fn transaction(world: Shared) {
    let begun = world.borrow_mut().begin();
    let (wait, queue) = {
        let mut world = world.borrow_mut();
        let queues = world.plan.kind == Kind::Late && world.dice.one_in(2);
        (world.lasts(), queues.then(|| Rc::clone(&world.tables().moved)))
    };
    sleep(wait).await;
    if let Some(moved) = queue {
        // Its row is another's: it goes on as soon as that one commits, or never meets one.
        let _ = timeout(Duration::from_millis(300), moved.notified()).await;
    }
    world.borrow_mut().end_of(begun);
}

impl World {
    fn lasts(&mut self) -> Duration {
        let long = if matches!(self.plan.kind, Kind::Late | Kind::Overflow) { 3 } else { 10 };
        match (self.dice.one_in(long), self.dice.one_in(3)) {
            (true, _) => self.pause(700),
            (false, true) => self.pause(40),
            (false, false) => self.pause(2),
        }
    }

    fn begin(&mut self) -> Begun {
        self.xids += 1;
        let (xid, published) = (self.xids, self.published);
        let tables = self.tables();
        tables.open.insert(xid);
        tables.ids += 10;
        let capture = if !published {
            Capture::Nothing
        } else if tables.full {
            let round = tables.rounds.len();
            let says = |row: &&mut Collapse| row.round == round && row.closing.is_none() && row.gone.is_none();
            let rows = tables.collapse.iter_mut().filter(says);
            let relied = rows.map(|row| {
                row.relying.insert(xid);
                (row.shape, row.id)
            });
            Capture::Collapsed { round, relied: relied.collect() }
        } else {
            Capture::Rows(tables.ids)
        };
        Begun { xid, capture }
    }

    /// Commits, or rolls back; a server that was started again meanwhile has forgotten the transaction.
    fn end_of(&mut self, Begun { xid, capture }: Begun) {
        let rolls_back = self.dice.one_in(12);
        let tables = self.tables();
        if !tables.open.remove(&xid) {
            return;
        }
        tables.completed = tables.completed.max(xid);
        for row in &mut tables.collapse {
            row.relying.remove(&xid);
        }
        if rolls_back {
            return;
        }
        let now = Instant::now();
        let mut commit = self.commit(xid);
        commit.visible_at = now;
        commit.flushed_at = commit.flushed_at.max(self.tables().flushed);
        commit.replayed_at = commit.replayed_at.max(commit.flushed_at);
        commit.published = !matches!(capture, Capture::Nothing);
        self.tables().flushed = commit.flushed_at;
        self.captured(&commit, capture);
        if commit.moved.is_some() {
            self.tables().moved.notify_waiters();
        }
        self.log_commit(commit);
        let notification = notification();
        self.tables().listeners.retain(|session| session.send(notification.clone()).is_ok());
    }

    fn captured(&mut self, commit: &Commit, capture: Capture) {
        let things: Vec<[u64; 1]> = commit.rows.iter().map(|row| [*row]).collect();
        let shelf = commit.shelf.map(|shelf| images(&[[shelf]]));
        let (from, to) = commit.moved.map(|m| (images(&[[m.row, m.from]]), images(&[[m.row, m.to]]))).unzip();
        let statements =
            [(THINGS, None, (!things.is_empty()).then(|| images(&things))), (SHELVES, None, shelf), (OWNERS, from, to)];
        let statements = statements.into_iter().filter(|(_, _, new)| new.is_some());
        match capture {
            Capture::Nothing => {}
            Capture::Rows(first) => {
                let rows = (first..).zip(statements).map(|(id, images)| self.row(commit, id, images));
                let rows: Vec<Row> = rows.collect();
                self.tables().rows.extend(rows);
            }
            Capture::Collapsed { round, relied } => {
                for (shape, _, _) in statements {
                    let tables = self.tables();
                    let relied = relied.get(&shape).and_then(|id| tables.collapse.iter_mut().find(|row| row.id == *id));
                    if let Some(row) = relied {
                        row.relied.push(commit.id);
                        continue;
                    }
                    tables.ids += 1;
                    tables.collapse.push(Collapse {
                        id: tables.ids,
                        shape,
                        round,
                        commit: commit.id,
                        relying: Default::default(),
                        relied: vec![commit.id],
                        closing: None,
                        gone: None,
                    });
                }
            }
        }
    }

    /// One statement's row; of some the trigger only says that the table is to be swept.
    fn row(&mut self, commit: &Commit, id: i64, (shape, old, new): (i32, Value, Value)) -> Row {
        let op = if old.is_some() { b'U' } else { b'I' };
        let unclear = self.dice.one_in(60);
        let (op, old, new) = if unclear { (b'S', None, None) } else { (op, old, new) };
        let note = unclear.then(|| b"simulated".to_vec());
        Row {
            xid: commit.xid,
            id,
            op,
            shape,
            old,
            new,
            note,
            at: Instant::now(),
            commit: commit.id,
            position: None,
            gone: None,
        }
    }
}

fn images<const N: usize>(rows: &[[u64; N]]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = rows.iter().flatten().map(|value| value.to_string().into_bytes()).collect();
    array(25, &[rows.len(), N], &values)
}
