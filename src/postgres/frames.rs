//! Backend messages out of a byte stream: the framing of the replication session, without any I/O.
//!
//! Bytes are read straight into [`space`](Frames::space) and handed out where they lie; consumed by an offset and moved
//! only when the room at the end is used up. Invariant: memory follows the bytes that arrived, not the lengths that
//! were announced.

use crate::error::{Error, Exit, Result};

/// PostgreSQL allocates no message above this (`MaxAllocSize`).
const LENGTH_MAX: usize = 0x3fff_ffff;

/// Holds a receive window and amortizes the move of one partial message; small enough to stay in the second-level cache.
const CAPACITY: usize = 128 * 1024;

/// A read buffer that knows where messages end.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Frames { bytes: vec![0; CAPACITY], start: 0, end: 0 }
    }
}

impl Frames {
    /// Room for at least one byte, for the next read.
    #[inline]
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > CAPACITY {
                self.bytes = vec![0; CAPACITY];
            }
        }
        if self.end == self.bytes.len() {
            self.make_room();
        }
        &mut self.bytes[self.end..]
    }

    /// The buffer is full to its end: moves the partial message to the front, or doubles the buffer under it.
    #[inline]
    fn make_room(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            return;
        }
        let wanted = self.total().map_or(CAPACITY, |total| total.max(self.end + 1));
        let length = wanted.min(self.bytes.len() * 2);
        self.bytes.resize(length, 0);
    }

    /// `count` bytes of [`space`](Frames::space) were read.
    #[inline]
    pub fn filled(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "more bytes read than there was room for");
        self.end += count;
    }

    /// Whether no unconsumed byte is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first message's size with its tag, once its header is here; not checked.
    #[inline]
    fn total(&self) -> Option<usize> {
        let header = self.bytes[self.start..self.end].first_chunk::<5>()?;
        let [_, length @ ..] = *header;
        Some(u32::from_be_bytes(length) as usize + 1)
    }

    /// Whether a whole message is held, or a length that [`next`](Frames::next) refuses.
    #[inline]
    pub fn has_message(&self) -> bool {
        self.total().is_some_and(|total| total <= self.end - self.start || !(5..=LENGTH_MAX).contains(&total))
    }

    /// The next whole message, its tag and its body, consumed by this call.
    #[inline]
    #[allow(clippy::should_implement_trait)] // It lends from the buffer: an Iterator cannot.
    pub fn next(&mut self) -> Result<Option<(u8, &[u8])>> {
        let Some(total) = self.total() else { return Ok(None) };
        if !(5..=LENGTH_MAX).contains(&total) {
            return Err(Error::definite(Exit::Protocol, format!("server message announces {total} bytes"))
                .hint("The other side does not speak PostgreSQL's protocol, or something between changes bytes."));
        }
        if self.end - self.start < total {
            return Ok(None);
        }
        let message = self.start..self.start + total;
        self.start = message.end;
        let message = &self.bytes[message];
        Ok(Some((message[0], &message[5..])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![tag];
        frame.extend((body.len() as u32 + 4).to_be_bytes());
        frame.extend(body);
        frame
    }

    /// Feeds `bytes` in pieces of `step` and lists the messages.
    fn messages(bytes: &[u8], step: usize) -> Result<Vec<(u8, Vec<u8>)>> {
        let (mut frames, mut seen, mut left) = (Frames::default(), Vec::new(), bytes);
        while !left.is_empty() {
            let space = frames.space();
            let count = step.min(space.len()).min(left.len());
            space[..count].copy_from_slice(&left[..count]);
            frames.filled(count);
            left = &left[count..];
            while let Some((tag, body)) = frames.next()? {
                seen.push((tag, body.to_vec()));
            }
        }
        Ok(seen)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..200), step in 1usize..5000,
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(b'd', body)).collect();
            let expected: Vec<_> = bodies.into_iter().map(|body| (b'd', body)).collect();
            prop_assert_eq!(messages(&stream, step).expect("whole frames"), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
            let _either = messages(&bytes, step);
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for length in [0u32, 3, 0x4000_0000, u32::MAX] {
            let mut bytes = vec![b'd'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(messages(&bytes, 9).expect_err("a bad length").exit(), Exit::Protocol, "{length}");
        }
    }

    #[test]
    fn the_buffer_grows_for_a_huge_message_and_shrinks_behind_it() {
        let mut frames = Frames::default();
        let huge = frame(b'd', &vec![7; 5 * CAPACITY]);
        let mut left = &huge[..];
        while !left.is_empty() {
            let space = frames.space();
            let count = space.len().min(left.len());
            space[..count].copy_from_slice(&left[..count]);
            frames.filled(count);
            left = &left[count..];
        }
        assert_eq!(frames.bytes.len(), huge.len());
        assert!(frames.next().expect("a frame").is_some_and(|(_, body)| body.len() == 5 * CAPACITY));
        assert_eq!(frames.space().len(), CAPACITY);
    }

    #[test]
    fn an_announced_gigabyte_is_not_allocated() {
        let mut frames = Frames::default();
        let space = frames.space();
        space[..5].copy_from_slice(&[b'd', 0x3f, 0xff, 0xff, 0xf0]);
        let all = space.len();
        frames.filled(all);
        assert!(frames.next().expect("a length within the bound").is_none());
        frames.space();
        assert_eq!(frames.bytes.len(), 2 * CAPACITY);
    }
}
