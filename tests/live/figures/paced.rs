//! Changes at a pace, and when their keys are gone: from the return of COMMIT to the cache's own word that it deleted the
//! key.
//!
//! One thread writes and one listens; neither does anything else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Changes a second.
pub const RATE: u32 = 200;

/// What a cache must be told to say when it deletes a key.
pub const TELLS: &str = "notify-keyspace-events Eg";

/// Milliseconds from COMMIT's return to the key's end in the cache at `port`, of the changes `first..first + count`.
///
/// # Panics
/// When a key does not go.
pub fn commit_to_gone(postgres: &str, port: u16, first: u32, count: u32) -> Vec<f64> {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let mut listener = BufReader::new(socket.try_clone().expect("file descriptors are there"));
    (&socket).write_all(b"SUBSCRIBE __keyevent@0__:del\r\n").expect("it reads");
    // The answer: three elements, of which two have a line for their length.
    (0..6).for_each(|_| drop(line(&mut listener)));
    let listening = thread::spawn(move || gone(&mut listener, count));
    let postgres = postgres.to_owned();
    let writing = thread::spawn(move || write(&postgres, port, first, count));
    let committed = writing.join().expect("it writes");
    let begun = Instant::now();
    while !listening.is_finished() && begun.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(10));
    }
    socket.shutdown(Shutdown::Both).expect("it is open");
    let gone = listening.join().expect("it listens to the end");
    let took = committed.iter().map(|(key, at)| {
        let gone = gone.get(key).unwrap_or_else(|| panic!("{key} is still there"));
        gone.saturating_duration_since(*at).as_secs_f64() * 1000.0
    });
    took.collect()
}

fn line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let read = from.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}

/// When each of so many keys was deleted first.
fn gone(from: &mut impl BufRead, count: u32) -> HashMap<String, Instant> {
    let mut gone = HashMap::new();
    while gone.len() < count as usize {
        // Behind its name come the channel and the key, each with a line for its length.
        let Some(word) = line(from) else { break };
        if word == "message" {
            let rest: Vec<Option<String>> = (0..4).map(|_| line(from)).collect();
            let now = Instant::now();
            if let Some(Some(key)) = rest.into_iter().next_back().filter(|key| is_of_a_change(key.as_deref())) {
                gone.entry(key).or_insert(now);
            }
        }
    }
    gone
}

fn is_of_a_change(key: Option<&str>) -> bool {
    key.is_some_and(|key| key.starts_with("available_slots:"))
}

/// Stores each key, makes the change, and says when COMMIT had returned.
fn write(postgres: &str, port: u16, first: u32, count: u32) -> Vec<(String, Instant)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads can be made");
    let mut cache = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    cache.set_nodelay(true).expect("a socket takes options");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(postgres, tokio_postgres::NoTls).await.expect("it is up");
        tokio::spawn(connection);
        let change = client.prepare("INSERT INTO visit_bookings VALUES ($1, $1)").await.expect("valid SQL");
        let (mut committed, mut next) = (Vec::with_capacity(count as usize), Instant::now());
        for id in first..first + count {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += Duration::from_secs(1) / RATE;
            let key = format!("available_slots:{id}");
            cache.write_all(format!("SET {key} x\r\n").as_bytes()).expect("it reads");
            cache.read_exact(&mut [0; 5]).expect("it answers");
            client.execute(&change, &[&(id as i32)]).await.expect("it is a new row");
            committed.push((key, Instant::now()));
        }
        committed
    })
}
