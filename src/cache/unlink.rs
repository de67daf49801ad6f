//! Keys, packed into UNLINK commands: how many in one command, how many before the replies are awaited.
//!
//! Nothing is sent here. The invariant: a key and its lease stand in the same command, which the server runs as one
//! step, so no reader sees one without the other.

use ::redis::{Cmd, Pipeline};

use super::lease;
use crate::config::{Leases, Metering};

/// Arguments of one UNLINK: the server runs one command without looking at its other clients.
const COMMAND_ARGUMENTS_MAX: usize = 500;
/// Bytes of keys in one UNLINK, unless a single key is longer.
const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Bytes of keys sent before the replies are awaited: bounds the packed copies of a call.
const PIPELINE_BYTES_MAX: usize = 1024 * 1024;
/// Commands sent before the replies are awaited.
const PIPELINE_COMMANDS_MAX: usize = 20;
/// Commands with one key that are sent before the replies are awaited.
const ALONE_MAX: usize = 500;
/// Bytes of one command where each is billed; Upstash reads up to 10 MB.
const BILLED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest key there.
const BILLED_KEY_BYTES_MAX: usize = 32 * 1024;
/// The longest argument that every server reads: `proto-max-bulk-len` cannot be set lower (src/config.c).
const ARGUMENT_BYTES_SURE: usize = 1024 * 1024;

/// How keys are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    /// Into commands that do not keep a server from its other clients.
    Free,
    /// Into as few commands as possible, since each is billed.
    Billed,
}

impl Packing {
    pub(super) fn of(metering: Metering) -> Packing {
        match metering {
            Metering::None => Packing::Free,
            Metering::ByCommand => Packing::Billed,
        }
    }

    /// Whether a key of `length` bytes may be refused for its length. The server closes the connection then; one that
    /// bills holds no such key.
    #[inline]
    pub(super) fn is_long(self, length: usize, leases: Leases) -> bool {
        match (self, leases) {
            (Packing::Free, Leases::None) => length > ARGUMENT_BYTES_SURE,
            (Packing::Free, Leases::Companion) => length + lease::BYTES > ARGUMENT_BYTES_SURE,
            (Packing::Billed, _) => length > BILLED_KEY_BYTES_MAX,
        }
    }

    /// Whether the lease of such a key goes with it: one that is too long nobody can have stored.
    #[inline]
    pub(super) fn takes_lease(self, length: usize, leases: Leases) -> bool {
        match (leases, self) {
            (Leases::None, _) => false,
            (Leases::Companion, Packing::Free) => true,
            (Leases::Companion, Packing::Billed) => length + lease::BYTES <= BILLED_KEY_BYTES_MAX,
        }
    }

    #[inline]
    fn arguments_max(self) -> usize {
        match self {
            Packing::Free => COMMAND_ARGUMENTS_MAX,
            Packing::Billed => 20_000,
        }
    }

    #[inline]
    fn command_bytes_max(self) -> usize {
        match self {
            Packing::Free => COMMAND_BYTES_MAX,
            Packing::Billed => BILLED_BYTES_MAX,
        }
    }

    #[inline]
    fn pipeline_bytes_max(self) -> usize {
        match self {
            Packing::Free => PIPELINE_BYTES_MAX,
            Packing::Billed => BILLED_BYTES_MAX,
        }
    }
}

/// UNLINK commands that go out together.
pub(super) struct Unlinks {
    leases: Leases,
    packing: Packing,
    full: Vec<Cmd>,
    /// Each with one key, behind all others.
    alone: Vec<Cmd>,
    last: Option<Cmd>,
    last_arguments: usize,
    last_bytes: usize,
    keys: u64,
    bytes: usize,
    /// The lease of the last key; kept for its memory.
    lease: Vec<u8>,
}

impl Unlinks {
    pub(super) fn new(leases: Leases, packing: Packing) -> Self {
        let (full, alone, last, lease) = (Vec::new(), Vec::new(), None, Vec::new());
        Unlinks { leases, packing, full, alone, last, last_arguments: 0, last_bytes: 0, keys: 0, bytes: 0, lease }
    }

    /// Arguments and bytes that a key of `length` bytes adds.
    #[inline]
    fn cost(&self, length: usize) -> (usize, usize) {
        match self.packing.takes_lease(length, self.leases) {
            false => (1, length),
            true => (2, 2 * length + lease::BYTES),
        }
    }

    /// Whether a key of `length` bytes must wait for the next pipeline.
    #[inline]
    pub(super) fn is_full(&self, length: usize) -> bool {
        let (arguments, bytes) = self.cost(length);
        let commands = self.full.len() + usize::from(self.last.is_some());
        let opens = self.last.is_some() && self.ends_command(arguments, bytes);
        (commands > 0 || !self.alone.is_empty())
            && (self.alone.len() >= ALONE_MAX
                || self.bytes + bytes > self.packing.pipeline_bytes_max()
                || (opens && commands >= PIPELINE_COMMANDS_MAX))
    }

    #[inline]
    fn ends_command(&self, arguments: usize, bytes: usize) -> bool {
        self.last_arguments + arguments > self.packing.arguments_max()
            || self.last_bytes + bytes > self.packing.command_bytes_max()
    }

    #[inline]
    pub(super) fn push(&mut self, key: &[u8]) {
        let (arguments, bytes) = self.cost(key.len());
        if self.ends_command(arguments, bytes) {
            self.full.extend(self.last.take());
        }
        let command = self.last.get_or_insert_with(|| {
            (self.last_arguments, self.last_bytes) = (0, 0);
            let mut command = Cmd::with_capacity(COMMAND_ARGUMENTS_MAX + 1, 16 * 1024);
            command.arg("UNLINK");
            command
        });
        command.arg(key);
        if self.packing.takes_lease(key.len(), self.leases) {
            lease::write(&mut self.lease, key);
            command.arg(self.lease.as_slice());
        }
        self.last_arguments += arguments;
        self.last_bytes += bytes;
        self.keys += 1;
        self.bytes += bytes;
    }

    /// A key whose own answer is wanted. Its answer comes behind those of all keys that were pushed otherwise.
    pub(super) fn push_alone(&mut self, key: &[u8]) {
        let mut command = Cmd::with_capacity(3, key.len() * 2 + 32);
        command.arg("UNLINK").arg(key);
        if self.packing.takes_lease(key.len(), self.leases) {
            lease::write(&mut self.lease, key);
            command.arg(self.lease.as_slice());
        }
        self.alone.push(command);
        self.keys += 1;
        self.bytes += self.cost(key.len()).1;
    }

    /// What is to be sent, with its keys (leases not counted) and its bytes; nothing is left.
    pub(super) fn take(&mut self) -> (Pipeline, u64, usize) {
        let unlinks = std::mem::replace(self, Unlinks::new(self.leases, self.packing));
        let mut pipeline = Pipeline::with_capacity(unlinks.full.len() + 1 + unlinks.alone.len());
        for command in unlinks.full.into_iter().chain(unlinks.last).chain(unlinks.alone) {
            pipeline.add_command(command);
        }
        (pipeline, unlinks.keys, unlinks.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::redis::Arg;

    /// Arguments of each command of each pipeline that `lengths` are sent in.
    fn shape(leases: Leases, lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut pipelines = Vec::new();
        let mut unlinks = Unlinks::new(leases, Packing::Free);
        let mut close = |unlinks: &mut Unlinks| {
            let (pipeline, ..) = unlinks.take();
            pipelines.push(pipeline.cmd_iter().map(|command| command.args_iter().len() - 1).collect());
        };
        for length in lengths {
            if unlinks.is_full(length) {
                close(&mut unlinks);
            }
            unlinks.push(&vec![b'k'; length]);
        }
        close(&mut unlinks);
        pipelines
    }

    #[test]
    fn commands_and_pipelines_are_bounded_in_arguments_and_bytes() {
        let mib = 1024 * 1024;
        let plain = |lengths| shape(Leases::None, lengths);
        assert_eq!(plain(vec![8; 1]), [[1]]);
        assert_eq!(plain(vec![8; 1001]), [[500, 500, 1]]);
        assert_eq!(plain(vec![0; 10_001]), [vec![500; 20], vec![1]]);
        assert_eq!(plain(vec![200 * 1024; 6]), [vec![1; 5], vec![1]]);
        assert_eq!(plain(vec![8, 2 * mib, 8]), [[1], [1], [1]]);
    }

    #[test]
    fn a_key_and_its_lease_are_never_in_two_commands() {
        let mib = 1024 * 1024;
        let leased = |lengths| shape(Leases::Companion, lengths);
        assert_eq!(leased(vec![8; 1]), [[2]]);
        assert_eq!(leased(vec![8; 501]), [[500, 500, 2]]);
        assert_eq!(leased(vec![0; 5_001]), [vec![500; 20], vec![2]]);
        assert_eq!(leased(vec![100 * 1024; 6]), [vec![2; 5], vec![2]]);
        assert_eq!(leased(vec![8, 2 * mib, 8]), [[2], [2], [2]]);
    }

    #[test]
    fn the_lease_follows_its_key() {
        let mut unlinks = Unlinks::new(Leases::Companion, Packing::Free);
        unlinks.push(b"a{b}");
        unlinks.push(b"c");
        let (pipeline, keys, bytes) = unlinks.take();
        let command = pipeline.cmd_iter().next().expect("one was pushed");
        let text = |argument| match argument {
            Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(), // Arg is foreign and non-exhaustive.
        };
        let arguments: Vec<String> = command.args_iter().map(text).collect();
        assert_eq!(arguments, ["UNLINK", "a{b}", "lease:{a{b}}", "c", "lease:{c}"]);
        assert_eq!((keys, bytes), (2, 4 + 12 + 1 + 9));
        assert!(unlinks.take().0.is_empty());
    }

    #[test]
    fn a_key_is_long_when_it_or_its_lease_may_be_refused() {
        for (packing, leases, most) in [
            (Packing::Free, Leases::None, 1 << 20),
            (Packing::Free, Leases::Companion, (1 << 20) - 8),
            (Packing::Billed, Leases::None, 32 * 1024),
            (Packing::Billed, Leases::Companion, 32 * 1024),
        ] {
            let is_long = |length| packing.is_long(length, leases);
            assert!(!is_long(0) && !is_long(most) && is_long(most + 1), "{packing:?} {leases:?}");
        }
    }

    #[test]
    fn a_key_that_just_fits_goes_without_the_lease_that_does_not() {
        let arguments = |length: usize| {
            let mut unlinks = Unlinks::new(Leases::Companion, Packing::Billed);
            unlinks.push(&vec![b'k'; length]);
            unlinks.take().0.cmd_iter().map(|command| command.args_iter().len()).sum::<usize>()
        };
        assert_eq!([32 * 1024 - 8, 32 * 1024 - 7, 32 * 1024].map(arguments), [3, 2, 2]);
    }

    #[test]
    fn a_key_whose_answer_is_wanted_goes_alone_behind_the_others_with_its_lease() {
        let mut unlinks = Unlinks::new(Leases::Companion, Packing::Free);
        (0..3).for_each(|_| unlinks.push(b"k"));
        unlinks.push_alone(b"w");
        unlinks.push(b"k");
        unlinks.push_alone(b"x");
        assert!(!unlinks.is_full(8));
        let (pipeline, keys, bytes) = unlinks.take();
        let arguments: Vec<usize> = pipeline.cmd_iter().map(|command| command.args_iter().len() - 1).collect();
        assert_eq!((arguments, keys, bytes), (vec![8, 2, 2], 6, 6 * 10));
        let mut unlinks = Unlinks::new(Leases::None, Packing::Free);
        (0..ALONE_MAX).for_each(|_| unlinks.push_alone(b"w"));
        assert!(unlinks.is_full(1) && unlinks.take().0.len() == ALONE_MAX && !unlinks.is_full(1));
    }

    #[test]
    fn thousands_of_keys_are_one_command_where_each_is_billed() {
        let mut unlinks = Unlinks::new(Leases::Companion, Packing::Billed);
        (0..9_000).for_each(|index| unlinks.push(format!("key:{index}").as_bytes()));
        assert_eq!(unlinks.take().0.len(), 1);
    }
}
