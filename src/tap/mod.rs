//! The tap: what flows by, as transactions with what they delete.
//!
//! `record`, `replay`, the dry run and `diff` draw from it, on the daemon's own road and beside the daemon: nothing is
//! confirmed, nothing deleted.
//!
//! ```text
//!  frames ──assembler──> events ──intake──> transactions ──lookups──> settled
//! ```

mod settled;
mod transactions;

use crate::change::{Event, Oid};
use crate::control::{Catalogue, Named};
use crate::decode::Assembler;
use crate::error::Result;
use crate::feed::intake::Need;
use crate::lsn::Lsn;
use crate::rules::Rules;

pub use settled::Settled;
pub use transactions::Transaction;
use transactions::Transactions;

/// What one event came to.
#[derive(Debug, Default)]
pub struct Tapped {
    /// The relation that was new, and the tables that its rows belong to.
    pub tables: Option<(Oid, Option<Named>)>,
    /// A transaction that deletes something, or a piece of one that is large.
    pub transaction: Option<Transaction>,
}

/// Events in, transactions out.
#[derive(Debug)]
pub struct Tap<'r, A> {
    rules: &'r Rules,
    transactions: Transactions<A>,
}

impl<'r, A: Copy + Ord> Tap<'r, A> {
    /// `bytes_max` bounds the keys of the transactions that are still open, and those of the one that arrives.
    pub fn new(rules: &'r Rules, bytes_max: usize) -> Self {
        Tap { rules, transactions: Transactions::new(bytes_max) }
    }

    /// Takes one event in.
    pub async fn event(&mut self, event: Event<'_, A>, catalogue: &impl Catalogue) -> Result<Tapped> {
        let (need, transaction) = self.transactions.event(event, self.rules);
        let mut tables = None;
        if let Need::Tables(relation) = &need {
            let (oid, named) = (relation.oid, catalogue.tables_of(relation.oid).await?);
            self.transactions.resolved(need, named.clone(), self.rules);
            tables = Some((oid, named));
        }
        Ok(Tapped { tables, transaction })
    }

    /// Commits that were taken in, those that delete nothing included.
    pub fn commits(&self) -> u64 {
        self.transactions.commits()
    }
}

/// The same from frames that nobody has looked into.
#[derive(Debug)]
pub struct FrameTap<'r> {
    assembler: Assembler,
    tap: Tap<'r, Lsn>,
}

impl<'r> FrameTap<'r> {
    /// As [`Tap::new`].
    pub fn new(rules: &'r Rules, bytes_max: usize) -> Self {
        FrameTap { assembler: Assembler::default(), tap: Tap::new(rules, bytes_max) }
    }

    /// Takes in what one frame holds.
    pub async fn payload(&mut self, payload: &[u8], catalogue: &impl Catalogue) -> Result<Vec<Tapped>> {
        let mut out = Vec::new();
        let mut step = self.assembler.step(payload)?;
        while let Some(taken) = step {
            let tapped = self.tap.event(self.assembler.event(taken, |lsn| lsn), catalogue).await?;
            if tapped.tables.is_some() || tapped.transaction.is_some() {
                out.push(tapped);
            }
            step = self.assembler.queued()?;
        }
        Ok(out)
    }
}
