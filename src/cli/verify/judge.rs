//! Suspects: values that the database contradicts, on their way to a verdict.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cli::verify::ask::Asker;
use crate::cli::verify::eyes::{Eyes, ValueLook};
use crate::cli::verify::position::{Committed, Deletes, committed};
use crate::error::Result;

/// Behind the longest echo: timers are late, and clocks of two machines differ.
const SLACK: Duration = Duration::from_millis(500);

/// A value that the database contradicts.
#[derive(Debug)]
pub struct Suspect {
    /// The cache and the `[[verify]]`, by their numbers.
    pub of: (usize, usize),
    /// The key.
    pub key: Vec<u8>,
    value: Vec<u8>,
    /// When it was contradicted first.
    pub since: Instant,
    stage: Stage,
}

/// What is still to come.
#[derive(Debug)]
enum Stage {
    /// A look behind the echoes of all that was committed by the first.
    Echoes(Rc<Committed>),
    /// A look behind the deletes of all that was committed by the second.
    Deletes(Rc<Committed>),
    /// It is stale.
    Stale,
}

/// What became of suspects.
#[derive(Debug, Default)]
pub struct Judged {
    /// Found stale now.
    pub stale: Vec<Suspect>,
    /// Gone, or true by now: their deletes were on the way.
    pub cleared: u64,
    /// Found stale before, and gone or true by now.
    pub mended: Vec<Suspect>,
}

impl Suspect {
    /// Of a look that was contradicted, before `committed` was asked for.
    pub fn new(of: (usize, usize), key: Vec<u8>, value: Vec<u8>, committed: Rc<Committed>) -> Self {
        Suspect { of, key, value, since: Instant::now(), stage: Stage::Echoes(committed) }
    }

    /// Whether it is stale.
    pub fn is_stale(&self) -> bool {
        matches!(self.stage, Stage::Stale)
    }

    /// Whether another look would say more now.
    async fn is_due(&self, eyes: &Eyes, asker: &Asker, mark: Option<&[u8]>) -> Result<bool> {
        let (committed, which) = match &self.stage {
            Stage::Echoes(_) if self.since.elapsed() < eyes.caches[self.of.0].longest_echo() + SLACK => {
                return Ok(false);
            }
            Stage::Echoes(committed) => (committed, Deletes::Echoes),
            Stage::Deletes(committed) => (committed, Deletes::First),
            Stage::Stale => return Ok(true),
        };
        committed.is_deleted(&asker.session, &eyes.access.slot, mark, which).await
    }
}

/// Looks at the suspects again of which that says more now, in caches that may be asked; the others wait.
pub async fn judge(
    eyes: &Eyes,
    asker: &Asker,
    suspects: &mut Vec<Suspect>,
    may_ask: &dyn Fn(usize) -> bool,
) -> Result<Judged> {
    let mut judged = Judged::default();
    let mut groups: BTreeMap<(usize, usize), Vec<Suspect>> = BTreeMap::new();
    let slot = &eyes.access.slot;
    let mut marks: BTreeMap<usize, Option<Vec<u8>>> = BTreeMap::new();
    let mut waiting = Vec::new();
    // Nothing is taken out of the list before the answers are there: an error leaves it as it is.
    for (index, suspect) in suspects.iter().enumerate() {
        let cache = suspect.of.0;
        if !may_ask(cache) {
            waiting.push((index, false));
            continue;
        }
        let mark = match marks.entry(cache) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(eyes.caches[cache].cache.mark_for_readers(slot).await?),
        };
        let mark = mark.as_deref();
        waiting.push((index, suspect.is_due(eyes, asker, mark).await?));
    }
    let mut due = waiting.into_iter().map(|(_, is_due)| is_due);
    let (ready, rest): (Vec<Suspect>, Vec<Suspect>) = suspects.drain(..).partition(|_| due.next() == Some(true));
    *suspects = rest;
    for suspect in ready {
        groups.entry(suspect.of).or_default().push(suspect);
    }
    for (of, group) in groups {
        let keys: Vec<Vec<u8>> = group.iter().map(|suspect| suspect.key.clone()).collect();
        let looks = eyes.look(asker, of, &keys).await?;
        let next = Rc::new(committed(&asker.session, &eyes.access).await?);
        // The cache that was looked at may be another one than the mark was read in.
        let mark = eyes.caches[of.0].cache.mark_for_readers(slot).await?;
        for (mut suspect, look) in group.into_iter().zip(looks) {
            let is_contradicted = look == ValueLook::Contradicted(suspect.value.clone());
            if !is_contradicted {
                if suspect.is_stale() {
                    judged.mended.push(suspect)
                } else {
                    judged.cleared += 1
                }
                continue;
            }
            if suspect.is_stale() || !suspect.is_due(eyes, asker, mark.as_deref()).await? {
                suspects.push(suspect);
                continue;
            }
            suspect.stage = match suspect.stage {
                Stage::Echoes(_) => Stage::Deletes(Rc::clone(&next)),
                Stage::Deletes(_) | Stage::Stale => Stage::Stale,
            };
            if suspect.is_stale() { judged.stale.push(suspect) } else { suspects.push(suspect) }
        }
    }
    Ok(judged)
}
