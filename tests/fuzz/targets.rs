//! What the fuzz targets do with their input; `tests/corpus.rs` does the same with every seed.

use crieur::decode::{Assembler, Block, Frame, decode};

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
