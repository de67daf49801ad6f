//! What the daemon knows of the mark, and its memory of recent deletes: `Held` in `src/proof.rs`, `src/ring.rs`.

use crieur::ledger::window::SpanId;

use super::world::Mark;

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Held {
    #[default]
    Nothing,
    Trusted(Vec<Mark>),
    Gap {
        was: Option<Mark>,
        maybe: Option<Mark>,
    },
}

impl Held {
    /// What the next mark may replace.
    pub fn expected(&self) -> Vec<Option<Mark>> {
        match self {
            Held::Nothing => vec![None],
            Held::Trusted(known) if known.is_empty() => vec![None],
            Held::Trusted(known) => known.iter().copied().map(Some).collect(),
            Held::Gap { was, maybe } => std::iter::once(*was).chain(maybe.map(Some)).collect(),
        }
    }

    /// The mark may be there: the answer was lost.
    pub fn lost(&mut self, mark: Mark) {
        match self {
            Held::Nothing => {}
            Held::Trusted(known) => known.push(mark),
            Held::Gap { maybe, .. } => *maybe = Some(mark),
        }
    }
}

/// Spans of what was deleted, and whether it was a sweep.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Ring {
    entries: Vec<(SpanId, bool)>,
    marks: Vec<(Mark, SpanId)>,
}

impl Ring {
    pub fn push(&mut self, last: SpanId, swept: bool) {
        self.entries.push((last, swept));
    }

    pub fn marked(&mut self, mark: Mark, first: SpanId) {
        self.marks.push((mark, first));
    }

    pub fn take_since(&mut self, found: Mark) -> Option<Vec<bool>> {
        let first = self.marks.iter().find(|(mark, _)| *mark == found)?.1;
        let (lacking, kept) = self.entries.drain(..).partition(|(last, _)| *last >= first);
        self.entries = kept;
        let lacking: Vec<(SpanId, bool)> = lacking;
        Some(lacking.into_iter().map(|(_, swept)| swept).collect())
    }
}
