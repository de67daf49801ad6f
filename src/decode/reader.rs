//! A cursor over one message: every read is checked, and every failure names its offset.
//!
//! Nothing is ever read past the end, and nothing is allocated: a length that the message claims is only believed
//! once that many bytes are there.

use std::borrow::Cow;

use super::malformed::DecodeError;
use crate::change::{Oid, Tuple};
use crate::lsn::{Lsn, Xid};

/// The name of an object. One that is not UTF-8, which only a server with another encoding has, is none that rules can
/// say: a NUL byte, which no name has, keeps what can be shown of it from naming another object.
pub(super) fn name(text: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(text) {
        Cow::Owned(lossy) => Cow::Owned(lossy + "\0"),
        name => name,
    }
}

/// What is left of a message.
pub(super) struct ByteReader<'a> {
    rest: &'a [u8],
    length: usize,
    tag: u8,
}

impl<'a> ByteReader<'a> {
    /// Starts behind the first byte, the message's tag.
    #[inline]
    pub(super) fn new(message: &'a [u8]) -> Result<Self, DecodeError> {
        match message.split_first() {
            Some((&tag, rest)) => Ok(ByteReader { rest, length: message.len(), tag }),
            None => Err(DecodeError { at: 0, what: "the message is empty", tag: 0 }),
        }
    }

    /// The message's first byte.
    #[inline]
    pub(super) fn tag(&self) -> u8 {
        self.tag
    }

    /// What was not read yet.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error at the current offset.
    #[cold]
    pub(super) fn error(&self, what: &'static str) -> DecodeError {
        self.error_before(0, what)
    }

    /// An error about what was read last, `back` bytes ago.
    #[cold]
    pub(super) fn error_before(&self, back: usize, what: &'static str) -> DecodeError {
        DecodeError { at: self.length - self.rest.len() - back, what, tag: self.tag }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => Err(self.error("the message ends inside of a number")),
        }
    }

    /// Int8.
    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Int16.
    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Int32.
    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Int64 (TimestampTz): microseconds since 2000-01-01 UTC.
    #[inline]
    pub(super) fn time(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// Int64 (XLogRecPtr).
    #[inline]
    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.array().map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// Int32 (TransactionId).
    #[inline]
    pub(super) fn xid(&mut self) -> Result<Xid, DecodeError> {
        self.u32().map(Xid)
    }

    /// Int32 (Oid).
    #[inline]
    pub(super) fn oid(&mut self) -> Result<Oid, DecodeError> {
        self.u32().map(Oid)
    }

    /// Int8 of flags that must not hold any bit outside of `known`.
    #[inline]
    pub(super) fn flags(&mut self, known: u8) -> Result<u8, DecodeError> {
        let flags = self.u8()?;
        if flags & !known == 0 { Ok(flags) } else { Err(self.error_before(1, "unknown flags are set")) }
    }

    /// Int8 that is 0 or 1.
    #[inline]
    pub(super) fn zero_or_one(&mut self) -> Result<bool, DecodeError> {
        self.flags(1).map(|flag| flag == 1)
    }

    /// Exactly `length` bytes.
    #[inline]
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(length) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.error("a length reaches past the end of the message")),
        }
    }

    /// A string up to its NUL byte, in whatever encoding.
    pub(super) fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        match self.rest.iter().position(|&byte| byte == 0) {
            Some(nul) => {
                let text = &self.rest[..nul];
                self.rest = &self.rest[nul + 1..];
                Ok(text)
            }
            None => Err(self.error("a string has no end")),
        }
    }

    /// A name, see [`name`].
    pub(super) fn name(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.string().map(name)
    }

    /// TupleData, walked once so that reading its columns later cannot fail.
    #[inline]
    pub(super) fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let columns = self.u16()?;
        let start = self.rest;
        for _ in 0..columns {
            match self.u8()? {
                b't' => {
                    let length = self.u32()?;
                    self.bytes(length as usize)?;
                }
                b'n' | b'u' => {}
                b'b' => return Err(self.error_before(1, "a column is binary, which was not asked for")),
                _ => return Err(self.error_before(1, "unknown kind of column")),
            }
        }
        Ok(Tuple::checked(columns, &start[..start.len() - self.rest.len()]))
    }

    /// The message must be over.
    #[inline]
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("bytes follow the end of the message")) }
    }
}
