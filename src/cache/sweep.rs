//! Patterns: one SCAN pass over the keyspace for all of them, and one before it for their leases.
//!
//! SCAN returns every key that is there from the beginning of a pass to its end (documentation of SCAN, "Scan
//! guarantees"), some twice; deleting while scanning does not change that. A pass that broke starts again from the
//! beginning with the caller's next attempt: a cursor means nothing on another connection. The steps of that attempt are
//! smaller: the server may have closed the connection because a page was too large for it. The invariant: a key is
//! deleted only when a pattern matches it and no protected pattern does, and its lease goes with it and only with it.
//!
//! Leases come first: a reader's store turns a lease into a key in one step. In a single pass the key could appear
//! where the scan has been, and the lease be gone before the scan comes to it; neither would be seen.

use std::cell::Cell;
use std::collections::HashMap;

use ::redis::Cmd;

use super::health::Progress;
use super::speak::{Speaks, count};
use super::unlink::Packing;
use super::{Swept, lease, scan};
use crate::config::Leases;
use crate::error::Result;
use crate::glob;
use crate::keys::KeySet;

/// Buckets that one SCAN visits where each command is billed.
const BILLED_COUNT: u32 = 1000;
/// Buckets that one SCAN visits elsewhere: the server runs it without looking at its other clients. With 1000 the p99 of
/// their GETs beside a sweep was six to eleven times the quiet one, with 250 two to three times. The sweep took as
/// long where it deleted, and a tenth to a quarter longer over keys of others.
const FREE_COUNT: u32 = 250;

/// How many buckets the next SCAN visits. A page that does not fit into `client-output-buffer-limit` ends the connection
/// (`checkClientOutputBufferLimits`, src/networking.c), and would do so at each attempt.
#[derive(Debug)]
pub(super) struct Steps {
    buckets: Cell<u32>,
    /// Never more.
    most: u32,
    /// Passes since a page did not come.
    passes: Cell<u32>,
}

/// So many passes later the steps become larger again: what was in the way may be gone.
const PASSES: u32 = 16;

impl Steps {
    pub(super) fn new(packing: Packing) -> Self {
        let most = match packing {
            Packing::Free => FREE_COUNT,
            Packing::Billed => BILLED_COUNT,
        };
        Steps { buckets: Cell::new(most), most, passes: Cell::default() }
    }

    /// A page did not come.
    fn shorten(&self) {
        self.passes.set(0);
        self.buckets.set((self.buckets.get() / 4).max(1));
    }

    /// A pass came to its end.
    fn passed(&self) {
        self.passes.set(self.passes.get().wrapping_add(1));
        if self.passes.get().is_multiple_of(PASSES) {
            self.buckets.set((self.buckets.get() * 4).min(self.most));
        }
    }
}

/// A longer pattern is shortened to what stands before its first values: the server may refuse to read it.
const MATCH_BYTES_MAX: usize = 4096;

/// What a pass looks for.
pub(super) struct SweepPlan<'a> {
    exact: Vec<&'a [u8]>,
    globs: usize,
    /// Whether what the server returns matches.
    is_matched: bool,
    /// Globs by literal prefix: a key is compared only with those whose prefix it has.
    by_prefix: HashMap<Vec<u8>, Vec<&'a [u8]>, foldhash::fast::RandomState>,
    /// Lengths of those prefixes, ascending.
    lengths: Vec<usize>,
    /// What the server is asked to return.
    matching: Vec<u8>,
    /// The same for the leases of these keys.
    matching_leases: Vec<u8>,
    protect: &'a [Vec<u8>],
    leases: Leases,
}

impl<'a> SweepPlan<'a> {
    pub(super) fn new(patterns: &'a KeySet, protect: &'a [Vec<u8>], leases: Leases) -> Self {
        let mut plan = SweepPlan {
            exact: Vec::new(),
            globs: 0,
            is_matched: false,
            by_prefix: HashMap::default(),
            lengths: Vec::new(),
            matching: Vec::new(),
            matching_leases: Vec::new(),
            protect,
            leases,
        };
        let mut common: Option<Vec<u8>> = None;
        for pattern in patterns.iter().map(|pattern| pattern.bytes) {
            if glob::is_literal(pattern) {
                plan.exact.push(pattern);
                continue;
            }
            let prefix = glob::literal_prefix(pattern);
            common = Some(common.map_or_else(|| prefix.clone(), |common| shared(common, &prefix)));
            plan.globs += 1;
            plan.matching = pattern.to_vec();
            plan.by_prefix.entry(prefix).or_default().push(pattern);
        }
        plan.lengths = plan.by_prefix.keys().map(Vec::len).collect();
        plan.lengths.sort_unstable();
        plan.lengths.dedup();
        let mut common = common.unwrap_or_default();
        common.truncate(MATCH_BYTES_MAX);
        let mut any = Vec::new();
        glob::escape_into(&mut any, &common);
        any.push(b'*');
        // A brace means nothing in a pattern. Behind the prefix anything may follow: `condemns` looks closer.
        plan.matching_leases = [lease::BEFORE, &any].concat();
        plan.is_matched = plan.globs == 1 && plan.matching.len() <= MATCH_BYTES_MAX;
        if !plan.is_matched && plan.globs > 0 {
            plan.matching = any;
        }
        plan
    }

    /// The key whose lease the scan returned, if it goes.
    fn condemned_by_lease<'k>(&self, lease: &'k [u8]) -> Option<&'k [u8]> {
        lease::key_of(lease).filter(|key| self.names(key) && !self.protects(key))
    }

    /// Whether a key that the scan returned goes.
    fn condemns(&self, key: &[u8]) -> bool {
        // A single glob goes to the server as it is: the server has matched it, and it is the authority.
        (self.is_matched || self.names(key)) && !self.protects(key)
    }

    /// Whether a pattern matches `key`.
    fn names(&self, key: &[u8]) -> bool {
        let named = |length: &usize| {
            let globs = key.get(..*length).and_then(|prefix| self.by_prefix.get(prefix));
            globs.is_some_and(|globs| globs.iter().any(|pattern| glob::matches(pattern, key)))
        };
        self.lengths.iter().any(named)
    }

    fn protects(&self, key: &[u8]) -> bool {
        self.protect.iter().any(|pattern| glob::matches(pattern, key))
    }
}

fn shared(mut left: Vec<u8>, right: &[u8]) -> Vec<u8> {
    let length = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    left.truncate(length);
    left
}

/// Deletes keys that were found, each with its lease, over the connection of the scan or elsewhere; how many existed.
pub(super) trait Finish<K>: AsyncFn(&mut K, &[&[u8]]) -> Result<u64> {}

impl<K, T: AsyncFn(&mut K, &[&[u8]]) -> Result<u64>> Finish<K> for T {}

/// What a sweep works with besides its connection.
pub(super) struct SweepGround<'a, L> {
    /// How many buckets a SCAN visits.
    pub(super) steps: &'a Steps,
    /// How far the sweep is.
    pub(super) progress: &'a Progress,
    /// How found keys are deleted.
    pub(super) finish: L,
}

/// The passes.
pub(super) async fn run<K: Speaks, L: Finish<K>>(
    ground: &SweepGround<'_, L>,
    link: &mut K,
    plan: &SweepPlan<'_>,
) -> Result<Swept> {
    let progress = ground.progress;
    progress.begin(size(link).await?);
    let mut swept = Swept::default();
    let exact: Vec<Vec<u8>> = plan.exact.iter().map(|pattern| glob::literal_prefix(pattern)).collect();
    let keys = exact.iter().map(Vec::as_slice).filter(|key| !plan.protects(key));
    swept.deleted += finish(ground, link, keys).await?;
    progress.deleted(swept.deleted);
    if plan.globs == 0 {
        return Ok(swept);
    }
    match plan.leases {
        Leases::None => {}
        Leases::Companion => sweep_leases(ground, link, plan).await?,
    }
    let mut cursor = b"0".to_vec();
    loop {
        let keys;
        (cursor, keys) = page(ground, link, &cursor, &plan.matching).await?;
        swept.scanned += keys.len() as u64;
        let condemned = keys.iter().map(Vec::as_slice).filter(|key| plan.condemns(key));
        swept.deleted += finish(ground, link, condemned).await?;
        progress.visited(ground.steps.buckets.get());
        progress.deleted(swept.deleted);
        if cursor == b"0" {
            ground.steps.passed();
            return Ok(swept);
        }
    }
}

/// Deletes the leases of condemned keys, most of which are not stored yet; nothing of it is counted.
async fn sweep_leases<K: Speaks, L: Finish<K>>(
    ground: &SweepGround<'_, L>,
    link: &mut K,
    plan: &SweepPlan<'_>,
) -> Result<()> {
    let mut cursor = b"0".to_vec();
    loop {
        let leases;
        (cursor, leases) = page(ground, link, &cursor, &plan.matching_leases).await?;
        let condemned = leases.iter().filter_map(|lease| plan.condemned_by_lease(lease));
        finish(ground, link, condemned).await?;
        if cursor == b"0" {
            return Ok(());
        }
    }
}

/// How many of the keys existed.
async fn finish<'a, K: Speaks, L: Finish<K>>(
    ground: &SweepGround<'_, L>,
    link: &mut K,
    keys: impl Iterator<Item = &'a [u8]>,
) -> Result<u64> {
    let keys: Vec<&[u8]> = keys.collect();
    if keys.is_empty() { Ok(0) } else { (ground.finish)(link, &keys).await }
}

/// One page; the next attempt takes smaller ones where it did not come.
async fn page<L>(
    ground: &SweepGround<'_, L>,
    link: &mut impl Speaks,
    cursor: &[u8],
    matching: &[u8],
) -> Result<scan::KeyPage> {
    let steps = ground.steps;
    let answer = scan::ask(link, cursor, matching, steps.buckets.get()).await.inspect_err(|_| steps.shorten())?;
    scan::read(answer)
}

/// DBSIZE only feeds the display: a user that may not ask sees no total.
async fn size(link: &mut impl Speaks) -> Result<u64> {
    let mut command = Cmd::new();
    command.arg("DBSIZE");
    let value = link.ask(command).await?;
    Ok(count("DBSIZE", &value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::FamilyId;

    fn patterns(texts: &[&str]) -> KeySet {
        let mut set = KeySet::default();
        for text in texts {
            set.insert(text.as_bytes(), FamilyId(0), 0);
        }
        set
    }

    #[test]
    fn the_server_is_asked_for_the_narrowest_pattern_that_covers_all() {
        let cases: [(&[&str], &str, usize, usize); 6] = [
            (&["user:*"], "user:*", 0, 1),
            (&["user:*", "user:1:*:x"], "user:*", 0, 2),
            (&["a\\*b:*", "a\\*c:*"], "a\\**", 0, 2),
            (&["user:*", "page:*"], "*", 0, 2),
            (&["user:1", "page:\\*"], "", 2, 0),
            (&["user:1", "page:*"], "page:*", 1, 1),
        ];
        for (texts, matching, exact, globs) in cases {
            let set = patterns(texts);
            let plan = SweepPlan::new(&set, &[], Leases::None);
            assert_eq!((plan.matching.as_slice(), plan.exact.len(), plan.globs), (matching.as_bytes(), exact, globs));
        }
    }

    #[test]
    fn a_pattern_that_the_server_may_not_read_is_shortened_and_still_takes_only_its_keys() {
        let long = "\\*".repeat(MATCH_BYTES_MAX);
        let set = patterns(&[&format!("a:{long}:*")]);
        let plan = SweepPlan::new(&set, &[], Leases::Companion);
        assert!(plan.matching.len() <= 2 * MATCH_BYTES_MAX + 1 && plan.matching.ends_with(b"\\**"));
        assert!(plan.matching_leases.len() <= 2 * MATCH_BYTES_MAX + 10);
        let stars = "*".repeat(MATCH_BYTES_MAX);
        assert!(plan.condemns(format!("a:{stars}:1").as_bytes()));
        assert!(!plan.condemns(format!("a:{stars}*:1").as_bytes()));
        assert!(glob::matches(&plan.matching, format!("a:{stars}:1").as_bytes()));
    }

    #[test]
    fn a_key_goes_when_a_pattern_matches_and_no_protected_one_does() {
        let set = patterns(&["user:*", "user:7:*:en", "?x", "page:\\**"]);
        let protect = [b"*:lock".to_vec()];
        let plan = SweepPlan::new(&set, &protect, Leases::None);
        let cases = [
            ("user:1", true),
            ("user:1:lock", false),
            ("ax", true),
            ("axe", false),
            ("page:*1", true),
            ("page:1", false),
        ];
        for (key, goes) in cases {
            assert_eq!(plan.condemns(key.as_bytes()), goes, "{key}");
        }
    }

    #[test]
    fn a_lease_goes_with_its_key_whether_that_exists_or_not_and_only_with_it() {
        let protect = [b"*:lock".to_vec()];
        for texts in [&["user:*"][..], &["user:*", "page:\\**"]] {
            let set = patterns(texts);
            let plan = SweepPlan::new(&set, &protect, Leases::Companion);
            let cases = [
                ("lease:{user:1}", Some("user:1")),
                ("lease:{user:}x}", Some("user:}x")),
                ("lease:{user:1:lock}", None),
                ("lease:{user}", None),
                ("lease:{user:1", None),
                ("user:1", None),
            ];
            for (found, goes) in cases {
                assert!(goes.is_none() || glob::matches(&plan.matching_leases, found.as_bytes()), "{found}");
                assert_eq!(plan.condemned_by_lease(found.as_bytes()), goes.map(str::as_bytes), "{found}");
            }
        }
    }

    #[test]
    fn steps_become_small_behind_failures_and_large_again_behind_passes() {
        let steps = Steps::new(Packing::Billed);
        let seen = |step: fn(&Steps), times| {
            (0..times).for_each(|_| step(&steps));
            steps.buckets.get()
        };
        assert_eq!(seen(Steps::passed, 100), 1000);
        assert_eq!((seen(Steps::shorten, 1), seen(Steps::shorten, 1)), (250, 62));
        assert_eq!((seen(Steps::passed, 15), seen(Steps::passed, 1), seen(Steps::passed, 32)), (62, 248, 1000));
        assert_eq!(seen(Steps::shorten, 20), 1);
    }

    #[test]
    fn steps_that_cost_nothing_are_short() {
        let steps = Steps::new(Packing::Free);
        let seen = |step: fn(&Steps), times| {
            (0..times).for_each(|_| step(&steps));
            steps.buckets.get()
        };
        assert_eq!(seen(Steps::passed, 100), 250);
        assert_eq!((seen(Steps::shorten, 2), seen(Steps::passed, 64)), (15, 250));
    }
}
