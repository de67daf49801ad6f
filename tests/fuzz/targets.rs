//! What the fuzz targets do with their input; `tests/corpus.rs` does the same with every seed.

use crieur::config::Config;
use crieur::decode::{Assembler, Block, Frame, decode};
use crieur::postgres::frames::Frames;
use crieur::source::recording::Recording;

/// One byte for the length of each message, then the message: a whole stream through the assembler.
pub fn pgoutput(mut input: &[u8]) {
    let _ = (decode(input, Block::Outside), decode(input, Block::Stream));
    let mut assembler = Assembler::default();
    while let Some((&length, rest)) = input.split_first() {
        let (message, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        if let Ok(Some(step)) = assembler.step(message) {
            let _ = assembler.event(step, |lsn| lsn);
        }
        while let Ok(Some(step)) = assembler.queued() {
            let _ = assembler.event(step, |lsn| lsn);
        }
    }
}

/// One CopyData payload.
pub fn copy_data(input: &[u8]) {
    if let Ok(Frame::XLogData { payload, .. }) = Frame::parse(input) {
        pgoutput(payload);
    }
}

/// Bytes of a session: the first says in pieces of which size they arrive.
pub fn frames(input: &[u8]) {
    let Some((&size, mut input)) = input.split_first() else { return };
    let mut frames = Frames::default();
    while !input.is_empty() {
        let space = frames.space();
        let count = usize::from(size.max(1)).min(input.len()).min(space.len());
        let (piece, rest) = input.split_at(count);
        space[..count].copy_from_slice(piece);
        frames.filled(count);
        input = rest;
        loop {
            match frames.next() {
                Ok(Some((b'E', body))) => drop(crieur::postgres::wire::error_response(body)),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A configuration file, rules included: whatever is wrong with it is said.
pub fn config(input: &[u8]) {
    let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
    let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let file = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
    std::fs::write(file.path(), input).expect("the file is ours");
    if let Err(mistakes) = Config::load(file.path(), urls.into_iter()) {
        assert!(!mistakes.to_string().is_empty(), "a mistake without a word");
    }
}

/// A recording's file.
pub fn recording(input: &[u8]) {
    let _ = Recording::read(input);
}
