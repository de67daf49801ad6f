//! CopyData payloads of a replication stream: XLogData, keepalives, and the standby status that answers them.
//!
//! Layouts: PostgreSQL's "Streaming Replication Protocol". What a payload holds is [`pgoutput`](super::pgoutput)'s.

use super::malformed::DecodeError;
use super::reader::ByteReader;
use crate::lsn::Lsn;

/// Whether the sender wants an answer at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Answer now, or the connection is dropped as dead.
    Requested,
    /// No hurry.
    NotRequested,
}

/// One CopyData payload from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// `w`: one message of the output plugin.
    XLogData {
        /// Where the message's WAL starts; 0 for messages that have no place in it.
        start: Lsn,
        /// The server's end of WAL.
        end: Lsn,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        sent_at: i64,
        /// The plugin's message.
        payload: &'a [u8],
    },
    /// `k`: the server lives.
    Keepalive {
        /// How far the server has sent, everything before it included.
        end: Lsn,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        sent_at: i64,
        /// Whether it wants a status now.
        reply: Reply,
    },
}

impl<'a> Frame<'a> {
    /// Parses the payload of one CopyData message.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
        let mut reader = ByteReader::new(bytes)?;
        match reader.tag() {
            b'w' => Ok(Frame::XLogData {
                start: reader.lsn()?,
                end: reader.lsn()?,
                sent_at: reader.time()?,
                payload: reader.rest(),
            }),
            b'k' => {
                let (end, sent_at) = (reader.lsn()?, reader.time()?);
                let reply = if reader.zero_or_one()? { Reply::Requested } else { Reply::NotRequested };
                reader.end()?;
                Ok(Frame::Keepalive { end, sent_at, reply })
            }
            _ => Err(DecodeError { at: 0, what: "unknown kind of frame", tag: reader.tag() }),
        }
    }
}

/// The standby status update. The server frees WAL up to `flushed`: it must be what was answered, never what was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StandbyStatus {
    /// Received.
    pub written: Lsn,
    /// Answered: the slot's `confirmed_flush_lsn` moves here.
    pub flushed: Lsn,
    /// Answered; what `synchronous_commit = remote_apply` waits for.
    pub applied: Lsn,
    /// The client's clock, in microseconds since 2000-01-01 UTC.
    pub sent_at: i64,
    /// Whether the server is to answer with a keepalive.
    pub reply: Reply,
}

impl StandbyStatus {
    /// The payload of the CopyData message.
    pub fn encode(&self) -> [u8; 34] {
        let mut bytes = [b'r'; 34];
        bytes[1..9].copy_from_slice(&self.written.0.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.flushed.0.to_be_bytes());
        bytes[17..25].copy_from_slice(&self.applied.0.to_be_bytes());
        bytes[25..33].copy_from_slice(&self.sent_at.to_be_bytes());
        bytes[33] = match self.reply {
            Reply::Requested => 1,
            Reply::NotRequested => 0,
        };
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_holds_its_positions_in_the_order_of_the_protocol() {
        let (written, flushed, applied) = (Lsn(0x0102_0304_0506_0708), Lsn(2), Lsn(1));
        let status = StandbyStatus { written, flushed, applied, sent_at: -1, reply: Reply::Requested }.encode();
        let expected = [
            &b"r\x01\x02\x03\x04\x05\x06\x07\x08"[..],
            &[0, 0, 0, 0, 0, 0, 0, 2],
            &[0, 0, 0, 0, 0, 0, 0, 1],
            &[0xFF; 8],
            &[1],
        ];
        assert_eq!(status[..], expected.concat());
    }

    #[test]
    fn refuses_what_is_not_a_frame() {
        let keepalive = |reply: u8| [&b"k"[..], &[0; 16], &[reply]].concat();
        assert!(Frame::parse(&keepalive(0)).is_ok() && Frame::parse(&keepalive(1)).is_ok());
        assert!(Frame::parse(&[b'w'; 25]).is_ok(), "an empty payload is the decoder's to refuse");
        let long = [keepalive(0), vec![0]].concat();
        for bytes in [&[][..], b"x", b"k", &[b'w'; 24], &keepalive(2), &keepalive(0)[..17], &long] {
            assert!(Frame::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
