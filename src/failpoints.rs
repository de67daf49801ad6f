//! Test-only, behind the feature `failpoints`: places to crash at, and guards to switch off.
//!
//! Without the feature every call here is a constant and nothing of it is in the binary. With it, `CRIEUR_CRASH_AT`
//! (`NAME` or `NAME:COUNT`) ends the process at the COUNTth time the named step is reached, as SIGKILL would: no
//! destructor runs, no buffer is flushed. `CRIEUR_WITHOUT` (names, comma separated) switches guards off, so that the
//! torture test can prove that it would notice. `CRIEUR_SOONER` divides pauses of minutes, which no test waits for, and
//! `CRIEUR_OFTENER` those between looks of the verifier.

/// A guard that a test may switch off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Keys wait for a snapshot that contains their transaction.
    Gate,
    /// The mark proves what the cache saw.
    Mark,
    /// Keys are deleted again for readers that store late.
    Echo,
    /// Recent keys are deleted again in a cache that went back; without it the gap is taken as covered, and is not.
    Ring,
    /// Every reply of a pipeline is looked at.
    Replies,
    /// A mark from before the start of the stream proves nothing: that of a cache that was left behind.
    Return,
    /// A mark carries what was deleted since the last one, where the cache does not say who it is.
    Carried,
    /// The outbox is looked at even when no notification comes.
    Looks,
    /// The word of Sentinels is followed between connects.
    Sentinels,
    /// A standby that started again is not read from before it has replayed what was confirmed to it.
    Replay,
    /// A sink waits for the answers of the caches that its pages read.
    Behind,
    /// A sink is purged at the start of the daemon and behind a gap: no mark tells what its pages lack.
    Start,
    /// Behind the repair of a cache that was found to lack deletes, or that nobody waited for, every page is purged.
    Doubt,
    /// A node of a cluster is swept when slots came to it: copies may have been left there.
    Arrivals,
    /// A page is fetched behind the last echo of its keys.
    Pages,
}

/// Steps between receive and confirm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// An event was taken from the source.
    Taken,
    /// Keys of a batch were deleted ahead of the gate.
    Early,
    /// A snapshot was taken.
    Snapshot,
    /// Lookups were answered.
    LookedUp,
    /// A pipeline was answered, nobody looked at the replies yet.
    Answered,
    /// Every reply of a flight was read.
    Deleted,
    /// An echo was answered.
    Echoed,
    /// A sweep ended.
    Swept,
    /// The mark in the cache was read.
    MarkRead,
    /// The mark was written.
    MarkWritten,
    /// The source was told what it may confirm.
    Acknowledged,
    /// A status was sent.
    Status,
}

impl Step {
    /// Every step, in the order of a change's road.
    pub const ALL: [Step; 12] = [
        Step::Taken,
        Step::Early,
        Step::Snapshot,
        Step::LookedUp,
        Step::Answered,
        Step::Deleted,
        Step::Echoed,
        Step::Swept,
        Step::MarkRead,
        Step::MarkWritten,
        Step::Acknowledged,
        Step::Status,
    ];

    /// The step's name in `CRIEUR_CRASH_AT`.
    pub fn name(self) -> String {
        format!("{self:?}").to_ascii_lowercase()
    }
}

/// Whether `guard` is switched off.
#[cfg(feature = "failpoints")]
pub fn without(guard: Guard) -> bool {
    use std::sync::OnceLock;
    static WITHOUT: OnceLock<String> = OnceLock::new();
    let names = WITHOUT.get_or_init(|| std::env::var("CRIEUR_WITHOUT").unwrap_or_default());
    names.split(',').any(|name| name.eq_ignore_ascii_case(&format!("{guard:?}")))
}

/// Whether `guard` is switched off: never, without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn without(_guard: Guard) -> bool {
    false
}

/// A pause of minutes, or the part of it that a test waits for.
#[cfg(feature = "failpoints")]
pub fn sooner(pause: std::time::Duration) -> std::time::Duration {
    let factor = std::env::var("CRIEUR_SOONER").ok().map(|text| text.parse().expect("CRIEUR_SOONER is a number"));
    pause / factor.unwrap_or(1)
}

/// A pause of minutes.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn sooner(pause: std::time::Duration) -> std::time::Duration {
    pause
}

/// A pause between looks, or the part of it that a test waits for.
#[cfg(feature = "failpoints")]
pub fn oftener(pause: std::time::Duration) -> std::time::Duration {
    let factor = std::env::var("CRIEUR_OFTENER").ok().map(|text| text.parse().expect("CRIEUR_OFTENER is a number"));
    pause / factor.unwrap_or(1)
}

/// A pause between looks.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn oftener(pause: std::time::Duration) -> std::time::Duration {
    pause
}

#[cfg(feature = "failpoints")]
thread_local! {
    /// What this thread draws from instead of the system's source, and how much of it was drawn.
    static DRAWN: std::cell::Cell<Option<(u64, u64)>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread's random bytes follow from `seed` alone: a schedule of the simulation can be run again.
#[cfg(feature = "failpoints")]
pub fn draw_from(seed: u64) {
    DRAWN.set(Some((seed, 0)));
}

/// Fills `bytes` from the seed of this thread, where it has one.
#[cfg(feature = "failpoints")]
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    use sha2::Digest;
    let Some((seed, drawn)) = DRAWN.get() else { return false };
    DRAWN.set(Some((seed, drawn + 1)));
    // No draw asks for more than a digest has.
    let digest = sha2::Sha256::digest([seed.to_le_bytes(), drawn.to_le_bytes()].concat());
    bytes.copy_from_slice(&digest[..bytes.len()]);
    true
}

/// Fills nothing: no thread has a seed without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) const fn fill(_bytes: &mut [u8]) -> bool {
    false
}

/// The process is at `step`; ends here when it was told to.
#[cfg(feature = "failpoints")]
pub fn reached(step: Step) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CRASH_AT: OnceLock<(String, u64)> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let (name, count) = CRASH_AT.get_or_init(|| {
        let text = std::env::var("CRIEUR_CRASH_AT").unwrap_or_default();
        match text.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().expect("CRIEUR_CRASH_AT is NAME:COUNT")),
            None => (text, 1),
        }
    });
    if !name.is_empty() && *name == step.name() && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
        eprintln!("crash point: {}", step.name());
        std::process::abort();
    }
}

/// The process is at `step`: nothing happens without the feature.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn reached(_step: Step) {}
