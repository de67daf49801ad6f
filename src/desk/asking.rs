//! One connection: a question, and its answers until one of the two ends.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::line::{gone, say};
use super::peer::Peer;
use super::sources::Desk;
use super::sweeping::sweep;
use super::words::{DeskAnswer, DeskQuestion, QUESTION_BYTES_MAX, TailReader};
use crate::error::Exit;
use crate::observe::{Id, log};
use crate::shown::quoted;

/// From the accepted connection to the end of its question.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(5);

/// Answers one connection.
pub(super) async fn converse(mut socket: UnixStream, desk: &Desk, peer: &Peer) {
    // Whoever asks and does not listen is none of our business.
    let _ = match timeout(QUESTION_TIME_MAX, question(&mut socket)).await {
        Ok(Ok(Some(question))) => answer(&mut socket, desk, peer, question).await,
        Ok(Ok(None)) => {
            let hint = "Write one line of JSON, for example {\"ask\":\"status\"}.";
            say(&mut socket, &[DeskAnswer::refused("the question is not understood", hint, Exit::Usage)]).await
        }
        Ok(Err(_)) | Err(_) => Ok(()),
    };
}

/// Says why the question is not even read.
pub(super) async fn refuse(mut socket: UnixStream, (why, hint, exit): (&'static str, &'static str, Exit)) {
    let _ = say(&mut socket, &[DeskAnswer::refused(why, hint, exit)]).await;
}

/// The first line; `None` where it is not one of our questions.
async fn question(socket: &mut UnixStream) -> io::Result<Option<DeskQuestion>> {
    let mut line = Vec::new();
    loop {
        let mut part = [0; 1024];
        let read = socket.read(&mut part).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&part[..read]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            return Ok(serde_json::from_slice(&line[..end]).ok());
        }
        if line.len() > QUESTION_BYTES_MAX {
            return Ok(None);
        }
    }
}

async fn answer(socket: &mut UnixStream, desk: &Desk, peer: &Peer, question: DeskQuestion) -> io::Result<()> {
    match question {
        DeskQuestion::Status => {
            let status = desk.state.status();
            say(socket, &[DeskAnswer::Status { status }]).await
        }
        DeskQuestion::Tail => {
            log!(Id::ControlAsked, uid = peer.uid, pid = peer.pid, "somebody follows the changes: crieur tail");
            tail(socket, desk).await
        }
        DeskQuestion::Sweep { what, cache } => {
            let shown = quoted(what.as_bytes());
            log!(Id::ControlAsked, uid = peer.uid, pid = peer.pid, "somebody orders a sweep: crieur sweep {shown}");
            sweep(socket, desk, what, cache).await
        }
    }
}

async fn tail(socket: &mut UnixStream, desk: &Desk) -> io::Result<()> {
    let mut reader = TailReader::begin(desk.board.turn(), &desk.board.behind(0));
    let (caches, tables) = desk.state.names();
    say(socket, &[DeskAnswer::Begins { caches, tables }]).await?;
    loop {
        let posts = tokio::select! {
            posts = desk.board.next(reader.turn()) => posts,
            () = gone(socket) => return Ok(()),
        };
        say(socket, &reader.read(&posts)).await?;
    }
}
