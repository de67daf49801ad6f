//! What readers with a memory tier are told (`publish`), and what the tier of the Rust client makes of it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::timeout;

use crieur::mark::Mark;
use crieur_cache::{Cache, From, Memory, Options, Redis as Store};

use super::daemon::{self, Daemon};
use super::harness::redis::{Data, Redis, Server};
use super::harness::sentinel::{How, Watched};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, config};

const CHANNEL: &str = "crieur:keys";
/// What the tests of the tier change.
const KEY: &str = "properties:detail:1";
/// The bound of their readers, and the room of a machine that is busy.
const BOUND: Duration = Duration::from_secs(1);
const ROOM: Duration = Duration::from_millis(500);

fn publishing(scene: &Scene) -> String {
    scene.config().replace("[cache]\n", "[cache]\npublish = \"crieur:keys\"\nheartbeat = \"100ms\"\n")
}

/// A message.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Said {
    v: u64,
    slot: String,
    pub epoch: String,
    pub n: u64,
    pub keys: Vec<String>,
    #[serde(default)]
    pub flush: bool,
}

/// Somebody who listens from now on.
pub struct Listener(redis::aio::PubSub);

impl Listener {
    pub async fn of(cache: &Redis) -> Listener {
        let client = redis::Client::open(cache.url()).expect("an address");
        let mut pubsub = client.get_async_pubsub().await.expect("the cache answers");
        pubsub.subscribe(CHANNEL).await.expect("everybody may");
        Listener(pubsub)
    }

    /// Messages until one fits.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&Said) -> bool) -> Vec<Said> {
        let mut heard: Vec<Said> = Vec::new();
        let mut messages = self.0.on_message();
        loop {
            let message = timeout(PATIENCE, messages.next()).await.ok().flatten();
            let message = message.unwrap_or_else(|| panic!("{what}: {heard:?}"));
            let said: Said = serde_json::from_slice(message.get_payload_bytes()).expect("a message is JSON");
            assert!(said.v == 1 && said.slot == "crieur", "{said:?}");
            heard.push(said);
            if fits(&heard[heard.len() - 1]) {
                return heard;
            }
        }
    }
}

fn mark(scene: &Scene) -> Mark {
    let text: String = scene.cache.ask(&["GET", "crieur:mark:crieur"]);
    serde_json::from_str(&text).expect("a mark")
}

#[tokio::test]
async fn each_delete_is_told_with_the_next_number_whether_the_key_was_there_or_not() {
    let scene = Scene::start().await;
    let mut listener = Listener::of(&scene.cache).await;
    let mut daemon = scene.daemon_with(&publishing(&scene)).await;
    // The sweep of the first start: nothing is kept until it has ended.
    let first = listener.until("the end of the sweep", |said| !said.flush).await;
    assert!(first[0].flush && first[0].n == 1, "{first:?}");
    let () = scene.cache.ask(&["DEL", "available_slots:1"]);
    scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
    let is_named = |said: &Said| said.keys.iter().any(|key| key == "available_slots:1");
    let mut heard = first;
    heard.extend(listener.until("the key that was not there", is_named).await);
    // Everything of a large change, in messages that are no larger than they may be.
    scene.run("INSERT INTO visit_bookings SELECT id, id FROM generate_series(100, 2599) AS id").await;
    let last = |said: &Said| said.keys.iter().any(|key| key == "available_slots:2599");
    heard.extend(listener.until("all keys", last).await);
    let marked = mark(&scene).published.expect("the mark names a message");
    heard
        .extend(listener.until("a heartbeat behind that mark", |said| said.keys.is_empty() && said.n > marked.n).await);
    let named: std::collections::BTreeSet<&String> = heard.iter().flat_map(|said| &said.keys).collect();
    assert!((100..2600).all(|id| named.contains(&format!("available_slots:{id}"))));
    assert!(heard.iter().all(|said| said.keys.len() <= 1_000));
    assert!(heard.iter().all(|said| said.epoch == heard[0].epoch && marked.epoch == said.epoch));
    let numbers: Vec<u64> = heard.iter().map(|said| said.n).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    daemon.kill();
    let mut daemon = Daemon::start(&publishing(&scene), &[]);
    let other = listener.until("another epoch", |said| said.epoch != marked.epoch).await;
    assert_eq!(other[other.len() - 1].n, 1);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_cache_that_refuses_messages_is_told_of_and_its_deletes_go_on() {
    let scene = Scene::start().await;
    let () = scene.cache.ask(&["ACL", "SETUSER", "quiet", "on", ">secret", "~*", "+@all", "-publish"]);
    let url = scene.cache.url().replace("redis://", "redis://quiet:secret@");
    let text = publishing(&scene).replace(&scene.cache.url(), &url);
    let mut daemon = scene.daemon_with(&text).await;
    daemon.allow("id=publish.refused");
    daemon.wait_for_log("id=publish.refused");
    let gone = scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await;
    assert!(gone.contains("available_slots:1"), "{}", daemon.log());
    assert_eq!(mark(&scene).published, None);
    assert_eq!(daemon.stop(), Some(0));
    // `check` tries it by a message that no reader takes for one of a daemon, and says what is to be granted.
    let check = || {
        let out = daemon::run("check", &text, &[]);
        (out.status.code(), [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
    };
    let mut listener = Listener::of(&scene.cache).await;
    let grant = "ACL SETUSER quiet +publish &crieur:keys";
    let (code, said) = check();
    assert!(
        code == Some(1) && said.contains("PUBLISH is not permitted to this user") && said.contains(grant),
        "{said}"
    );
    let () = scene.cache.ask(&grant.split(' ').collect::<Vec<_>>());
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("PUBLISH is permitted"), "{said}");
    let tried = timeout(PATIENCE, listener.0.on_message().next()).await.ok().flatten().expect("the message of check");
    let tried: Said = serde_json::from_slice(tried.get_payload_bytes()).expect("a message is JSON");
    assert!(tried.slot.is_empty() && tried.keys.is_empty() && !tried.flush, "{tried:?}");
    let cluster = text.replace(&url, "redis+cluster://127.0.0.1:7001");
    let out = daemon::run("check", &cluster, &[]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(78) && said.contains("cache.publish is set"), "{said}");
}

/// A reader whose tier is in use, and what it reads its row from.
struct Reader {
    cache: Cache,
    truth: tokio_postgres::Client,
}

impl Reader {
    async fn of(scene: &Scene) -> Reader {
        let url = scene.cache.url();
        let memory = Memory::open(&url).expect("an address").bound(BOUND);
        let cache = Cache::builder(Store::open(&url).expect("an address")).memory(memory).build().expect("a cache");
        Reader { cache, truth: scene.postgres.client().await }
    }

    async fn read(&self) -> (String, From) {
        let fetch = || async {
            let row = self.truth.query_one("SELECT title FROM properties WHERE id = 1", &[]).await;
            Ok::<_, Infallible>(row.expect("the server answers").get::<_, String>(0))
        };
        let read = self.cache.read(KEY, Options::new(), fetch).await.unwrap_or_else(|never| match never {});
        (read.value, read.from)
    }

    async fn serves(&self, daemon: &Daemon) -> String {
        settled("the memory serves", PATIENCE, async || match self.read().await {
            (value, From::Memory) => Ok(value),
            (value, from) => Err((value, from, daemon.log())),
        })
        .await
    }

    /// Reads until the value is new; says how long it was another one since the delete of its key.
    async fn sees(&self, title: &str, deleted: Instant) -> Duration {
        let mut last_old = Duration::ZERO;
        eventually("the new value", PATIENCE, async || {
            let (value, _) = self.read().await;
            if value != title {
                last_old = deleted.elapsed();
            }
            value == title
        })
        .await;
        last_old
    }
}

async fn rename(scene: &Scene, title: &str) {
    scene.run(&format!("UPDATE properties SET title = '{title}' WHERE id = 1")).await;
}

/// A scene whose cache holds no value of another kind than the reader's.
async fn remembered() -> (Scene, Daemon, Reader) {
    let scene = Scene::start().await;
    let daemon = scene.daemon_with(&publishing(&scene)).await;
    let () = scene.cache.ask(&["DEL", KEY]);
    let reader = Reader::of(&scene).await;
    assert_eq!(reader.serves(&daemon).await, "old");
    (scene, daemon, reader)
}

#[tokio::test]
async fn the_memory_of_a_reader_hears_of_a_delete_also_where_the_cache_had_lost_the_key() {
    let (scene, mut daemon, reader) = remembered().await;
    for (title, loses) in [("one", false), ("two", true)] {
        if loses {
            let () = scene.cache.ask(&["DEL", KEY]);
        }
        rename(&scene, title).await;
        scene.confirmed(&daemon).await;
        assert!(reader.sees(title, Instant::now()).await <= BOUND + ROOM, "{}", daemon.log());
        assert_eq!(reader.serves(&daemon).await, title);
    }
    assert!(reader.cache.stats().remembered >= 3);
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_reader_whose_subscription_is_cut_serves_nothing_older_than_its_bound() {
    let (scene, mut daemon, reader) = remembered().await;
    for round in 0..5 {
        let title = format!("round {round}");
        let () = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        rename(&scene, &title).await;
        scene.confirmed(&daemon).await;
        assert!(reader.sees(&title, Instant::now()).await <= BOUND + ROOM, "{}", daemon.log());
        assert_eq!(reader.serves(&daemon).await, title, "{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_reader_of_a_daemon_that_was_killed_serves_nothing_from_memory_behind_its_bound() {
    let (scene, mut daemon, reader) = remembered().await;
    daemon.kill();
    let killed = Instant::now();
    rename(&scene, "unsaid").await;
    // Nobody deletes; the cache itself has the old value, and the memory no longer answers for it.
    eventually("the memory is silent", PATIENCE, async || reader.read().await.1 != From::Memory).await;
    assert!(killed.elapsed() <= BOUND + ROOM);
    for _ in 0..50 {
        assert_ne!(reader.read().await.1, From::Memory);
    }
    let mut daemon = Daemon::start(&publishing(&scene), &[]);
    scene.confirmed(&daemon).await;
    assert!(reader.sees("unsaid", Instant::now()).await <= BOUND + ROOM, "{}", daemon.log());
    assert_eq!(reader.serves(&daemon).await, "unsaid");
    assert_eq!(daemon.stop(), Some(0));
}

/// The cache fails over to a server that never heard of the reader's connections.
#[tokio::test]
async fn a_reader_of_a_cache_that_starts_again_forgets_everything() {
    let (mut scene, mut daemon, reader) = remembered().await;
    daemon.allow_failing_cache();
    for round in 0..2 {
        let title = format!("round {round}");
        scene.cache.restart(Data::Lost);
        rename(&scene, &title).await;
        scene.confirmed(&daemon).await;
        assert!(reader.sees(&title, Instant::now()).await <= BOUND + ROOM, "{}", daemon.log());
        assert_eq!(reader.serves(&daemon).await, title, "{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// Whoever listens at the replica hears the primary through it. Sentinels cut subscriptions off when they promote it;
/// whoever subscribes again hears another epoch there.
#[tokio::test]
async fn behind_sentinels_the_promoted_server_goes_on_in_another_epoch() {
    let (scene, mut watched) = (Scene::start().await, Watched::start(Server::System, &[]));
    watched.settle();
    let mut listener = Listener::of(&watched.servers[1]).await;
    let text = config(&scene.postgres.url(), &watched.url());
    let settings = "[cache]\npublish = \"crieur:keys\"\nheartbeat = \"100ms\"\n";
    let mut daemon = Daemon::start(&text.replace("[cache]\n", settings), &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log("id=sweep.ended");
    scene.confirmed(&daemon).await;
    let tells = |said: &Said| said.keys.iter().any(|key| key == KEY);
    scene.run("UPDATE properties SET title = 'one' WHERE id = 1").await;
    let before = listener.until("the delete at the primary", tells).await;
    watched.fail_over(How::Killed, 0);
    daemon.wait_for_log("id=sentinel.turned");
    let mut listener = Listener::of(&watched.servers[1]).await;
    scene.run("UPDATE properties SET title = 'two' WHERE id = 1").await;
    let last = &before[before.len() - 1].epoch;
    let behind = listener.until("the delete at the promoted server", |said| tells(said) && said.epoch != *last).await;
    // In one epoch each number is the next one, so that a reader sees what is missing.
    let epoch = &behind[behind.len() - 1].epoch;
    let numbers: Vec<u64> = behind.iter().filter(|said| said.epoch == *epoch).map(|said| said.n).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{behind:?}");
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}
