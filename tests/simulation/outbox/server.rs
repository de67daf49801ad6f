//! The simulated server's end of a session: PostgreSQL's protocol 3.0 over a pipe, as far as the outbox's statements
//! need it. What they mean is `tables.rs`'s business; here they are slow, fail, and lose their answers.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};

use crate::simulation::world::Shared;

/// A value in the format of its column; `None` is NULL.
pub type Value = Option<Vec<u8>>;

/// What a statement answers: types of columns, and rows.
#[derive(Default)]
pub struct Reply {
    pub types: Vec<u32>,
    pub rows: Vec<Vec<Value>>,
}

/// The server chose the statement as the victim.
struct Deadlock;

/// Answers one session until it ends; `daemon` says whose it is.
pub async fn serve(world: Shared, stream: DuplexStream, daemon: u32) {
    let (reader, mut writer) = tokio::io::split(stream);
    let (out, mut inbox): (_, UnboundedReceiver<Vec<u8>>) = unbounded_channel();
    let forward = async {
        while let Some(bytes) = inbox.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let session = Session { world, out, daemon };
    tokio::select! {
        _ = session.listen(reader) => {}
        () = forward => {}
    }
}

struct Session {
    world: Shared,
    out: UnboundedSender<Vec<u8>>,
    daemon: u32,
}

impl Session {
    /// Ends with the client's last message, or when the simulation cuts the session.
    async fn listen(&self, mut reader: impl AsyncRead + Unpin) -> std::io::Result<()> {
        let length = reader.read_u32().await?;
        read(&mut reader, length).await?;
        let parameter = message(b'S', b"client_encoding\0UTF8\0");
        self.say([message(b'R', &[0; 4]), parameter, ready()].concat());
        let (mut statement, mut params) = (String::new(), Vec::new());
        loop {
            let tag = reader.read_u8().await?;
            let length = reader.read_u32().await?;
            let body = read(&mut reader, length).await?;
            match tag {
                b'Q' => match self.run(text(&body), &[]).await {
                    Some(reply) => self.say(reply.map_or_else(failed, |reply| answer(&reply, 0))),
                    None => return Ok(()),
                },
                b'P' => statement = text(&body[1..]).to_owned(),
                b'B' => params = bound(&body),
                b'D' | b'E' => {}
                b'S' => match self.run(&statement, &params).await {
                    Some(reply) => self.say(reply.map_or_else(failed, |reply| {
                        [message(b'1', &[]), message(b'2', &[]), answer(&reply, 1)].concat()
                    })),
                    None => return Ok(()),
                },
                b'X' => return Ok(()),
                tag => panic!("the simulated server knows no message {}", char::from(tag)),
            }
        }
    }

    fn say(&self, bytes: Vec<u8>) {
        let _ = self.out.send(bytes); // Nobody may be left to hear it.
    }

    /// Runs a statement: `None` when the session breaks before it or behind it, an error when only the statement fails.
    async fn run(&self, sql: &str, params: &[Value]) -> Option<Result<Reply, Deadlock>> {
        if sql.starts_with("LISTEN") {
            self.world.borrow_mut().tables().listeners.push(self.out.clone());
        }
        if !sql.contains("SELECT") && !sql.contains("crieur.") {
            return Some(Ok(Reply::default())); // BEGIN, COMMIT: what stands between says all.
        }
        self.wait(3).await;
        if self.world.borrow_mut().fault(40) {
            return None;
        }
        if self.world.borrow_mut().fault(60) {
            return Some(Err(Deadlock));
        }
        let reply = self.world.borrow_mut().statement(sql, params);
        self.wait(2).await;
        if self.world.borrow_mut().fault(40) { None } else { Some(Ok(reply)) }
    }

    /// On its way; half of what is on its way while the line stands still arrives when that is over.
    async fn wait(&self, most_ms: u64) {
        let (wait, stalled) = {
            let mut world = self.world.borrow_mut();
            let stalled = world.tables().stalled.filter(|(daemon, _)| *daemon == self.daemon);
            (world.pause(most_ms), stalled.filter(|_| world.dice.one_in(2)))
        };
        if let Some((_, until)) = stalled.filter(|(_, until)| *until > Instant::now()) {
            sleep_until(until).await;
        }
        sleep(wait.max(Duration::from_micros(10))).await;
    }
}

async fn read(reader: &mut (impl AsyncRead + Unpin), length: u32) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; length as usize - 4];
    reader.read_exact(&mut body).await?;
    Ok(body)
}

/// The text before a zero byte.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).expect("a zero byte ends a text");
    std::str::from_utf8(&bytes[..end]).expect("statements are UTF-8")
}

/// The parameters of a Bind of the unnamed statement to the unnamed portal.
fn bound(body: &[u8]) -> Vec<Value> {
    let mut rest = &body[2..];
    let mut number = |bytes: usize| {
        let (number, behind) = rest.split_at(bytes);
        rest = behind;
        number.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
    };
    let formats = number(2);
    for _ in 0..formats {
        number(2);
    }
    let count = number(2);
    let mut param = |_| {
        let (length, behind) = rest.split_first_chunk::<4>().expect("a length");
        let length = usize::try_from(i32::from_be_bytes(*length));
        rest = &behind[length.unwrap_or(0)..];
        length.ok().map(|length| behind[..length].to_vec())
    };
    (0..count).map(&mut param).collect()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// The server refuses the statement, as it does the victim of a deadlock.
fn failed(Deadlock: Deadlock) -> Vec<u8> {
    [message(b'E', b"SERROR\0VERROR\0C40P01\0Msimulated deadlock\0\0"), ready()].concat()
}

/// Rows in the text format (0) or the binary one (1).
fn answer(reply: &Reply, format: u16) -> Vec<u8> {
    let mut out = Vec::new();
    if !reply.types.is_empty() {
        let column = |oid: &u32| [&[0; 7][..], &oid.to_be_bytes(), &[255; 6], &format.to_be_bytes()].concat();
        let count = (reply.types.len() as u16).to_be_bytes().to_vec();
        out.extend(message(
            b'T',
            &std::iter::once(count).chain(reply.types.iter().map(column)).collect::<Vec<_>>().concat(),
        ));
    }
    for row in &reply.rows {
        let mut body = (row.len() as u16).to_be_bytes().to_vec();
        for value in row {
            body.extend(value.as_ref().map_or(-1, |value| value.len() as i32).to_be_bytes());
            body.extend(value.as_deref().unwrap_or_default());
        }
        out.extend(message(b'D', &body));
    }
    out.extend(message(b'C', b"DONE\0"));
    out.extend(ready());
    out
}

/// The notification of a commit.
pub fn notification() -> Vec<u8> {
    message(b'A', b"\0\0\0\x01crieur\0\0")
}
