//! The task that owns the session: it looks for rows, renews the lease, and removes what is confirmed.
//!
//! A task of its own because the lease must go on whatever holds up the loop: a cache that is away, a full batch. One
//! thing is asked at a time, so that every kind of pooler works. A pause between looks is 20 milliseconds under
//! load and grows to a second when nothing comes; a notification cuts it short and changes nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::decode::outbox::Shape;
use crate::error::{Error, Result};
use crate::failpoints::{Guard, without};
use crate::observe::{Id, log};
use crate::postgres::link::answered;
use crate::postgres::session::Session;
use crate::reminder::Reminder;
use crate::source::outbox::begin::ERA_BYTES;
use crate::source::outbox::lease::{self, Lasting, RENEW_INTERVAL, Removed};
use crate::source::outbox::options::OutboxOptions;
use crate::source::outbox::overflow::{self, Closing};
use crate::source::outbox::page::{self, Page, Poll, RowName, runs};
use crate::source::outbox::taken::Taken;

/// The pause between looks under load, and when nothing has come for long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Longer than any test waits, for one that wants to see that a notification wakes the task.
const PAUSE_UNLOOKED: Duration = Duration::from_secs(3_600);

/// The pause behind a look when a notification came.
const PAUSE_NOTIFIED: Duration = Duration::from_millis(1);

/// The lease that a daemon keeps while it begins anew lasts twice as long.
const PAUSE_KEPT: Duration = Duration::from_millis(2_500);

/// Removals that only follow each other wait so long: each is a write of the lease's row.
const REMOVE_INTERVAL: Duration = Duration::from_millis(50);

/// What the source wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Orders {
    /// Everything up to this position is answered.
    pub(super) confirmed: u64,
    /// The end: remove what is confirmed.
    pub(super) close: bool,
    /// This daemon goes on at once: the lease stays its own.
    pub(super) keep: bool,
}

/// How often it is looked whether the outbox was full, and then whether its writers have ended.
const TEND_INTERVAL: Duration = Duration::from_secs(2);
const ELDERS_INTERVAL: Duration = Duration::from_millis(100);

/// How often a large file of an empty outbox is given back.
const SHRINK_INTERVAL: Duration = Duration::from_secs(10);

/// Rows, and the shapes that they are the first to name.
#[derive(Debug, Default)]
pub(super) struct RowBatch {
    pub(super) page: Page,
    /// The position of each row.
    pub(super) positions: Vec<u64>,
    pub(super) shapes: Vec<(i32, Shape)>,
    /// Instead of rows: tables to be swept, by their shapes, in the name of this transaction.
    pub(super) sweeps: Option<(u64, Vec<i32>)>,
}

/// Everything of the task.
pub(super) struct Worker {
    session: Session,
    options: Arc<OutboxOptions>,
    owner: String,
    lasting: Arc<Lasting>,
    /// When the lease was renewed last, or taken.
    renewed: Instant,
    orders: watch::Receiver<Orders>,
    batches: mpsc::Sender<Result<RowBatch>>,
    /// Positions of this era come behind this one.
    first: u64,
    /// The last position that was given out.
    received: u64,
    poll: Poll,
    /// What was handed over and is not removed.
    taken: Taken,
    closing: Option<Closing>,
    /// That old transactions are waited for.
    elders_said: Reminder<Id, Instant>,
    known: std::collections::HashSet<i32>,
    pause: Duration,
    polled: Instant,
    due: Due,
    /// The last page was not the end of its look.
    unfinished: bool,
}

/// When each of the task's works comes next.
struct Due {
    look: Instant,
    renewal: Instant,
    removal: Instant,
    tending: Instant,
    shrinking: Instant,
}

impl Worker {
    /// The lease was asked for at `taken_at`, and nothing since; positions come behind `first`.
    pub(super) fn new(
        session: Session,
        (options, owner, lasting): (Arc<OutboxOptions>, String, Arc<Lasting>),
        (first, taken_at): (u64, Instant),
        orders: watch::Receiver<Orders>,
        batches: mpsc::Sender<Result<RowBatch>>,
    ) -> Self {
        let now = Instant::now();
        Worker {
            session,
            options,
            owner,
            lasting,
            renewed: taken_at,
            orders,
            batches,
            first,
            received: first,
            poll: Poll::new(),
            taken: Taken::default(),
            closing: None,
            elders_said: Reminder::default(),
            known: Default::default(),
            pause: PAUSE_MIN,
            polled: now,
            due: Due {
                look: now,
                renewal: now + RENEW_INTERVAL,
                removal: now,
                tending: now,
                shrinking: now + SHRINK_INTERVAL,
            },
            unfinished: false,
        }
    }

    /// Works until it is told to close, or nobody is left to tell, or something fails: then that is the last it says.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.work().await {
            let _ = self.batches.send(Err(error)).await; // Nobody may be left to hear it.
        }
    }

    async fn work(&mut self) -> Result<()> {
        loop {
            let orders = *self.orders.borrow_and_update();
            if orders.close {
                return self.close(orders).await;
            }
            let due = self.taken.is_due(orders.confirmed);
            tokio::select! {
                biased;
                () = self.session.ended.notified() => return Err(Error::transient("the session with the outbox ended")),
                () = sleep_until(self.due.removal), if due => self.remove(orders.confirmed).await?,
                () = sleep_until(self.due.renewal) => self.remove(0).await?,
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = self.session.notified.notified() => {
                    self.due.look = self.due.look.min(self.polled + PAUSE_NOTIFIED);
                }
                permit = ready(self.due.tending, self.batches.clone()), if !self.unfinished => {
                    let Some(permit) = permit else { return Ok(()) };
                    if let Some(batch) = self.tend().await? {
                        permit.send(Ok(batch));
                    }
                }
                permit = ready(self.due.look, self.batches.clone()) => {
                    let Some(permit) = permit else { return Ok(()) };
                    if let Some(batch) = self.look().await? {
                        permit.send(Ok(batch));
                    }
                }
            }
        }
    }

    /// Nothing new was there at the last look.
    fn is_drained(&self) -> bool {
        self.pause > PAUSE_MIN
    }

    /// Gives back what a flood left: disk, and tables that are to be swept because the outbox was full.
    async fn tend(&mut self) -> Result<Option<RowBatch>> {
        let now = Instant::now();
        let (client, limit) = (&self.session.client, self.options.answer_timeout);
        if self.is_drained() && self.taken.is_empty() && self.due.shrinking <= now {
            self.due.shrinking = now + SHRINK_INTERVAL;
            answered(limit, overflow::shrink(client)).await?;
        }
        let fresh = self.closing.is_none();
        if fresh {
            self.closing = answered(limit, overflow::close(client)).await?;
            self.elders_said = Reminder::begun(Id::OutboxWaits, now);
        }
        self.due.tending = now + if self.closing.is_some() { ELDERS_INTERVAL } else { TEND_INTERVAL };
        let Some(closing) = &self.closing else { return Ok(None) };
        let over = answered(limit, overflow::is_over(client, closing)).await?;
        let (xid, shapes) = (closing.xid, closing.shapes.clone());
        // What is visible does not wait for what is not: it is swept now, and once more when that has ended.
        match over {
            true => {
                let ids = self.closing.take().map_or_else(Vec::new, |closing| closing.ids);
                self.sweeps(xid, shapes, ids).await.map(Some)
            }
            false if fresh => self.sweeps(xid, shapes, Vec::new()).await.map(Some),
            false => {
                self.remind(now);
                Ok(None)
            }
        }
    }

    /// Tables to be swept; the collapse rows go when that is confirmed.
    async fn sweeps(&mut self, xid: u64, tables: Vec<i32>, ids: Vec<i64>) -> Result<RowBatch> {
        let shapes = self.unknown(tables.clone()).await?;
        self.received += 1;
        self.taken.collapsed(self.received, ids);
        Ok(RowBatch { positions: vec![self.received], shapes, sweeps: Some((xid, tables)), ..RowBatch::default() })
    }

    /// Says each minute that old transactions are waited for.
    fn remind(&mut self, now: Instant) {
        if self.elders_said.is_due(&Id::OutboxWaits, now) {
            let hint = "pg_stat_activity and pg_prepared_xacts name them; the outbox was full while they ran.";
            log!(
                Id::OutboxWaits,
                hint,
                "old transactions are still open: tables that changed meanwhile are swept again at their end"
            );
        }
    }

    /// Asks for the shapes among these that nobody has named before.
    async fn unknown(&mut self, mut ids: Vec<i32>) -> Result<Vec<(i32, Shape)>> {
        ids.retain(|id| !self.known.contains(id));
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let shapes = answered(self.options.answer_timeout, page::shapes(&self.session.client, &ids)).await?;
        self.known.extend(shapes.iter().map(|(id, _)| *id));
        Ok(shapes)
    }

    /// The next page, and when to look again. `None` when there is nothing to say.
    async fn look(&mut self) -> Result<Option<RowBatch>> {
        let before = Instant::now();
        let limit = self.options.answer_timeout;
        let page = answered(limit, self.poll.page(&self.session.client)).await?;
        self.polled = Instant::now();
        let shapes = self.unknown(page.shapes().collect()).await?;
        self.pause = if page.len() > 0 { PAUSE_MIN } else { (self.pause * 5 / 4).min(PAUSE_MAX) };
        // Looking never takes more than a fifth of the time.
        let pause = if page.is_last { self.pause.max((self.polled - before) * 4) } else { Duration::ZERO };
        self.due.look = self.polled + if without(Guard::Looks) && page.is_last { PAUSE_UNLOOKED } else { pause };
        let ends = std::mem::replace(&mut self.unfinished, !page.is_last);
        let positions = self.take(&page)?;
        if page.is_last {
            self.taken.look(self.received, &self.poll.snapshot());
        }
        if page.len() == 0 && !ends {
            return Ok(None);
        }
        if self.received - self.first >= ERA_BYTES / 2 {
            return Err(Error::transient("the outbox's positions of this era are used up"));
        }
        Ok(Some(RowBatch { page, positions, shapes, sweeps: None }))
    }

    /// Gives each row its position, and keeps what names them all.
    fn take(&mut self, page: &Page) -> Result<Vec<u64>> {
        let (names, bytes): (Vec<RowName>, Vec<u64>) = page.names()?.into_iter().unzip();
        let mut positions = Vec::with_capacity(bytes.len());
        for bytes in bytes {
            self.received += bytes;
            positions.push(self.received);
        }
        let mut taken = 0;
        for run in runs(&names) {
            taken += run.rows;
            self.taken.rows(positions[taken - 1], run);
        }
        Ok(positions)
    }

    /// Removes what is confirmed, and renews the lease.
    async fn remove(&mut self, confirmed: u64) -> Result<()> {
        let now = Instant::now();
        self.lasting.learn(now - self.renewed);
        let removal = self.taken.removal(confirmed);
        let lease = (self.options.slot.as_str(), self.owner.as_str(), &*self.lasting);
        let removed = lease::remove(&self.session.client, lease, &removal);
        let pause = match answered(self.options.answer_timeout, removed).await? {
            Removed::Gone(rows) => {
                self.forget(&removal.collapsed).await?;
                self.taken.removed(&removal, rows);
                REMOVE_INTERVAL
            }
            Removed::Recorded => {
                let ids = self.taken.recorded(confirmed);
                self.forget(&ids).await?;
                RENEW_INTERVAL
            }
            Removed::Lost => return Err(Error::transient("another daemon has taken over the outbox")),
        };
        self.renewed = now;
        (self.due.renewal, self.due.removal) = (now + RENEW_INTERVAL, now + pause);
        Ok(())
    }

    /// Tables that were collapsed are swept.
    async fn forget(&self, ids: &[i64]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        answered(self.options.answer_timeout, overflow::forget(&self.session.client, ids)).await
    }

    async fn close(&mut self, orders: Orders) -> Result<()> {
        if orders.keep {
            // Until the next session has it.
            self.renewed = self.renewed.checked_sub(PAUSE_KEPT).unwrap_or(self.renewed);
            return self.remove(orders.confirmed).await;
        }
        self.remove(orders.confirmed).await?;
        answered(self.options.answer_timeout, lease::release(&self.session.client, &self.options.slot, &self.owner))
            .await
    }
}

/// Waits until it is time to look and there is room for what is found.
async fn ready(due: Instant, batches: mpsc::Sender<Result<RowBatch>>) -> Option<mpsc::OwnedPermit<Result<RowBatch>>> {
    sleep_until(due).await;
    batches.reserve_owned().await.ok()
}
