//! Messages of pgoutput from a database whose encoding is not UTF-8, made UTF-8 here.
//!
//! The server could convert them, and would end the stream at the first byte that has no form in UTF-8, again at every try.
//! So it sends what the database holds, and this makes of it, byte for byte, what the server would have made. A byte without
//! a form in UTF-8 stays as it is: no reader can read its value in UTF-8, so none has a key of it; the other values of its
//! row, and other rows, have theirs.

use std::collections::HashMap;

use super::encodings::Encoding;
use super::malformed::DecodeError;
use super::pgoutput::Block;
use super::reader::ByteReader;
use crate::change::Oid;

/// What CopyData says before the message of the plugin: `w`, two positions, a time.
const HEAD_BYTES: usize = 25;

/// Turns payloads of CopyData into such with UTF-8.
#[derive(Debug)]
pub struct Transcoder {
    encoding: &'static Encoding,
    block: Block,
    /// Schema and name of each table, for the log.
    names: HashMap<Oid, String>,
    /// The table of a value without a form in UTF-8, in the last payload.
    odd: Option<Oid>,
    /// The last payload is another one now.
    changed: bool,
    out: Vec<u8>,
}

/// What is left of one message, and what was made of it so far.
struct Rewriting<'a, 'o> {
    reader: ByteReader<'a>,
    out: &'o mut Vec<u8>,
    encoding: &'static Encoding,
    /// Something is another text in UTF-8.
    changed: bool,
    /// A byte has no form in UTF-8.
    odd: bool,
}

impl Transcoder {
    /// From this encoding.
    pub fn new(encoding: &'static Encoding) -> Self {
        Transcoder {
            encoding,
            block: Block::Outside,
            names: HashMap::new(),
            odd: None,
            changed: false,
            out: Vec::new(),
        }
    }

    /// The same payload in UTF-8. What is no message of pgoutput stays as it is, for the decoder to refuse.
    #[inline]
    pub fn payload<'a>(&'a mut self, payload: &'a [u8]) -> &'a [u8] {
        self.odd = None;
        self.changed = match payload.split_at_checked(HEAD_BYTES) {
            Some((head, message)) if head.first() == Some(&b'w') => {
                self.out.clear();
                self.out.extend_from_slice(head);
                self.message(message) == Ok(true)
            }
            Some(_) | None => false,
        };
        self.last(payload)
    }

    /// What [`payload`](Transcoder::payload) made of the last payload, which is given again.
    #[inline]
    pub fn last<'a>(&'a self, payload: &'a [u8]) -> &'a [u8] {
        if self.changed { &self.out } else { payload }
    }

    /// The table with a value without a form in UTF-8, if there was one in the last payload.
    pub fn odd(&self) -> Option<(Oid, &str)> {
        self.odd.map(|oid| (oid, self.names.get(&oid).map_or("?", String::as_str)))
    }

    /// Says whether the message is another one now.
    fn message(&mut self, message: &[u8]) -> Result<bool, DecodeError> {
        let reader = ByteReader::new(message)?;
        let tag = reader.tag();
        match tag {
            b'S' => self.block = Block::Stream,
            b'E' => self.block = Block::Outside,
            _ => {}
        }
        self.out.push(tag);
        let mut part = Rewriting { reader, out: &mut self.out, encoding: self.encoding, changed: false, odd: false };
        if self.block == Block::Stream && matches!(tag, b'I' | b'U' | b'D' | b'R' | b'Y' | b'M') {
            part.copy(4)?;
        }
        match tag {
            b'I' | b'U' | b'D' => {
                let oid = part.oid()?;
                part.images()?;
                self.odd = part.odd.then_some(oid);
            }
            b'R' => {
                let oid = part.oid()?;
                let at = part.out.len();
                part.string()?;
                part.string()?;
                let name = String::from_utf8_lossy(&part.out[at..]).trim_end_matches('\0').replace('\0', ".");
                part.columns()?;
                self.names.insert(oid, name);
                return Ok(part.changed);
            }
            b'Y' => {
                part.copy(4)?;
                part.string()?;
                part.string()?;
            }
            b'O' => {
                part.copy(8)?;
                part.string()?;
            }
            b'M' => {
                part.copy(9)?;
                part.string()?;
                part.content()?;
            }
            _ => return Ok(false),
        }
        Ok(part.changed)
    }
}

impl Rewriting<'_, '_> {
    fn copy(&mut self, length: usize) -> Result<(), DecodeError> {
        let bytes = self.reader.bytes(length)?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn oid(&mut self) -> Result<Oid, DecodeError> {
        let oid = self.reader.oid()?;
        self.out.extend_from_slice(&oid.0.to_be_bytes());
        Ok(oid)
    }

    fn kind(&mut self) -> Result<u8, DecodeError> {
        let kind = self.reader.u8()?;
        self.out.push(kind);
        Ok(kind)
    }

    fn count(&mut self) -> Result<u16, DecodeError> {
        let count = self.reader.u16()?;
        self.out.extend_from_slice(&count.to_be_bytes());
        Ok(count)
    }

    #[inline]
    fn text(&mut self, text: &[u8]) {
        if text.is_ascii() {
            return self.out.extend_from_slice(text);
        }
        self.changed = true;
        for byte in text {
            match self.encoding.character(*byte) {
                Some(character) => self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                None => {
                    self.odd = true;
                    self.out.push(*byte);
                }
            }
        }
    }

    fn string(&mut self) -> Result<(), DecodeError> {
        let text = self.reader.string()?;
        self.text(text);
        self.out.push(0);
        Ok(())
    }

    /// A length and a text. That of the server is at most a gigabyte, and its UTF-8 three times as long.
    fn counted(&mut self) -> Result<(), DecodeError> {
        let length = self.reader.u32()?;
        let text = self.reader.bytes(length as usize)?;
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.text(text);
        let length = (self.out.len() - at - 4) as u32;
        self.out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// What a logical message says, which is bytes to the server: ours are UTF-8, whatever the database holds, or its text.
    fn content(&mut self) -> Result<(), DecodeError> {
        let rest = self.reader.rest();
        match rest.get(4..).and_then(|content| std::str::from_utf8(content).ok()) {
            Some(_) => self.copy(rest.len()),
            None => self.counted(),
        }
    }

    /// One row image or two, each behind a byte that says which.
    #[inline]
    fn images(&mut self) -> Result<(), DecodeError> {
        while !self.reader.rest().is_empty() {
            self.kind()?;
            for _ in 0..self.count()? {
                if self.kind()? == b't' {
                    self.counted()?;
                }
            }
        }
        Ok(())
    }

    fn columns(&mut self) -> Result<(), DecodeError> {
        self.kind()?;
        for _ in 0..self.count()? {
            self.kind()?;
            self.string()?;
            self.copy(8)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of one message.
    type Parts<'a> = &'a [&'a [u8]];

    fn transcoder() -> Transcoder {
        Transcoder::new(Encoding::named("WIN1252").expect("it is one of them"))
    }

    fn payload(message: &[&[u8]]) -> Vec<u8> {
        [&[b'w'][..], &[7; HEAD_BYTES - 1], &message.concat()].concat()
    }

    /// What comes out of each message, without its head.
    fn through(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut transcoder = transcoder();
        messages.iter().map(|message| transcoder.payload(message)[HEAD_BYTES..].to_vec()).collect()
    }

    #[test]
    fn every_text_of_every_message_becomes_utf_8_and_everything_else_stays() {
        let (xid, oid): (&[u8], &[u8]) = (&[0, 0, 0, 200], &[0, 0, 0xE9, 1]);
        let image = |text: &[u8]| [&[0, 3, b'n', b'u', b't'], &(text.len() as u32).to_be_bytes()[..], text].concat();
        let (raw, utf8) = (image(b"caf\xE9"), image("café".as_bytes()));
        let column = |name: &[u8]| [&[0, 1, 1][..], name, &[0, 0, 0, 0, 25, 0xE9, 0xE9, 0xE9, 0xE9]].concat();
        let start: &[&[u8]] = &[b"S", xid, &[1]];
        let cases: [(Parts<'_>, Parts<'_>); 10] = [
            (&[b"I", oid, b"N", &raw], &[b"I", oid, b"N", &utf8]),
            (&[b"U", oid, b"O", &raw, b"N", &raw], &[b"U", oid, b"O", &utf8, b"N", &utf8]),
            (&[b"D", oid, b"K", &raw], &[b"D", oid, b"K", &utf8]),
            (
                &[b"R", oid, b"\xE9\0t\xE9\0d", &column(b"\xE9")],
                &[b"R", oid, "é\0té\0d".as_bytes(), &column("é".as_bytes())],
            ),
            (
                &[b"M", &[1; 9], b"crieur\0", &[0, 0, 0, 1, 0xE9]],
                &[b"M", &[1; 9], b"crieur\0", &[0, 0, 0, 2, 0xC3, 0xA9]],
            ),
            (
                &[b"M", &[1; 9], b"crieur\0", &[0, 0, 0, 2, 0xC3, 0xA9]],
                &[b"M", &[1; 9], b"crieur\0", &[0, 0, 0, 2, 0xC3, 0xA9]],
            ),
            (start, start),
            (&[b"I", xid, oid, b"N", &raw], &[b"I", xid, oid, b"N", &utf8]),
            (&[b"E"], &[b"E"]),
            (&[b"C", &[0xE9; 25]], &[b"C", &[0xE9; 25]]),
        ];
        let (given, expected): (Vec<_>, Vec<_>) = cases.iter().map(|(raw, utf8)| (payload(raw), utf8.concat())).unzip();
        assert_eq!(through(&given), expected);
    }

    #[test]
    fn a_byte_without_a_form_stays_and_its_table_is_named() {
        let mut transcoder = transcoder();
        let described = payload(&[b"R", &[0, 0, 0, 9], b"public\0notes\0d\0\0"]);
        transcoder.payload(&described);
        assert_eq!(transcoder.odd(), None);
        let change = payload(&[b"I", &[0, 0, 0, 9], b"N\0\x01t\0\0\0\x02\xE9\x81"]);
        assert!(transcoder.payload(&change).ends_with(b"\0\0\0\x03\xC3\xA9\x81"));
        assert_eq!(transcoder.odd(), Some((Oid(9), "public.notes")));
        let fine = payload(&[b"I", &[0, 0, 0, 9], b"N\0\x01t\0\0\0\x01a"]);
        assert_eq!(transcoder.payload(&fine), fine);
        assert_eq!(transcoder.odd(), None);
    }

    #[test]
    fn what_is_cut_short_stays_as_it_is() {
        let whole = payload(&[b"U", &[0, 0, 0, 9], b"O\0\x01t\0\0\0\x01\xE9", b"N\0\x01t\0\0\0\x01\xE9"]);
        for length in 0..whole.len() {
            let mut transcoder = transcoder();
            let cut = &whole[..length];
            let out = transcoder.payload(cut);
            // Between two images a message is whole.
            assert!(out == cut || length == whole.len() - 9, "{length}");
        }
    }
}
