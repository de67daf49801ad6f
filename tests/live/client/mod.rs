//! The crate of `clients/rust` on real servers, through a proxy that does what networks do.

mod away;
mod connections;
mod locks;
mod reading;
mod vectors;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crieur_cache::{Builder, Cache, Event, Options, Read, Redis};

use super::harness;

/// What a call may cost besides its fetch and twice the time of a command, on a machine that does other things.
const SLACK: Duration = Duration::from_secs(2);

/// A cache over a server of its own, and what happened.
struct Bench {
    server: harness::redis::Redis,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn start() -> Bench {
        Bench::on(&harness::redis::Server::System)
    }

    fn on(server: &harness::redis::Server) -> Bench {
        Bench { server: harness::redis::Redis::start(server, &[]), lines: Arc::default() }
    }

    /// A cache at this port, which tells what happens.
    fn at(&self, port: u16) -> Builder {
        let lines = Arc::clone(&self.lines);
        let store = Redis::open(&format!("redis://127.0.0.1:{port}")).expect("a valid address");
        let told = move |event: &Event<'_>| lines.lock().expect("no holder panics").push(event.to_string());
        Cache::builder(store).namespace("n").on(told)
    }

    fn cache(&self) -> Cache {
        self.at(self.server.port()).build().expect("it is valid")
    }

    /// What stands at a key.
    fn held(&self, key: &str) -> Option<Vec<u8>> {
        self.server.ask(&["GET", key])
    }

    fn put(&self, key: &str, value: &str) {
        let () = self.server.ask(&["SET", key, value]);
    }

    fn unlink(&self, key: &str) {
        let _: u64 = self.server.ask(&["UNLINK", key]);
    }

    /// The events with this word, so far.
    fn told(&self, word: &str) -> usize {
        self.lines.lock().expect("no holder panics").iter().filter(|line| line.contains(word)).count()
    }

    /// How often the server ran each command.
    fn commands(&self) -> BTreeMap<String, u64> {
        let info: String = self.server.ask(&["INFO", "commandstats"]);
        let lines = info.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        let count = |rest: &str| rest.split(',').next().and_then(|text| text.parse().ok()).expect("a count");
        lines.map(|(name, rest)| (name.to_owned(), count(rest))).collect()
    }
}

/// Counts fetches, and answers with how many there were.
#[derive(Clone, Default)]
struct Source(Arc<AtomicUsize>);

impl Source {
    async fn fetch(&self, takes: Duration) -> Result<usize, Infallible> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(takes).await;
        Ok(number)
    }

    fn fetches(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// One read of a source that is quick.
async fn read(cache: &Cache, key: &str, source: &Source) -> Read<usize> {
    match cache.read(key, Options::new(), || source.fetch(Duration::ZERO)).await {
        Ok(read) => read,
        Err(never) => match never {},
    }
}
