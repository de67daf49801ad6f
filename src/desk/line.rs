//! The lines of one connection, and whether its other side is still there.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::words::DeskAnswer;

/// Answers that nobody takes for so long are the last.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Resolves when the other side has gone. What it says meanwhile is no question.
pub(super) async fn gone(socket: &UnixStream) {
    let mut nothing = [0; 256];
    loop {
        let readable = socket.readable().await;
        match readable.and_then(|()| socket.try_read(&mut nothing)) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Writes answers, each on a line of its own.
pub(super) async fn say(socket: &mut UnixStream, answers: &[DeskAnswer]) -> io::Result<()> {
    let mut text = Vec::new();
    for answer in answers {
        serde_json::to_writer(&mut text, answer)?;
        text.push(b'\n');
    }
    timeout(ANSWER_TIME_MAX, socket.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
