//! One read: what it costs, whom it shares with, and what is stored.

use std::time::Duration;

use crieur_cache::{Cache, From, Options, Protocol, Raw, Redis, Reply, Sending, Store, StoreError, Take};
use futures_util::future::join_all;
use tokio::sync::Notify;

use super::harness::redis::Server;
use super::harness::wait::{PATIENCE, eventually};
use super::{Bench, Source, read};

const PROTOCOLS: [Protocol; 2] = [Protocol::Key, Protocol::Companion];

/// A fetch that waits until the test lets it go.
#[derive(Default)]
struct Gate {
    begun: Notify,
    open: Notify,
}

impl Gate {
    async fn fetch(&self, value: u64) -> Result<u64, &'static str> {
        self.begun.notify_one();
        self.open.notified().await;
        Ok(value)
    }
}

#[tokio::test]
async fn a_hit_is_one_command_and_a_miss_two_more_than_a_get_and_a_set() {
    for (protocol, look, miss) in
        [(Protocol::Key, "get", 3), (Protocol::Companion, "mget", 3), (Protocol::Plain, "get", 2)]
    {
        let (bench, source) = (Bench::start(), Source::default());
        let cache = bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid");
        let ours = |bench: &Bench| -> u64 {
            let inside =
                if protocol == Protocol::Plain { 0 } else { bench.commands().get("eval").copied().unwrap_or(0) };
            let commands = bench.commands();
            let sent = ["get", "mget", "set", "eval"].iter().filter_map(|name| commands.get(*name)).sum::<u64>();
            // The script's own GET and SET are counted, too.
            sent - 2 * inside
        };
        assert_eq!((read(&cache, "k", &source).await.from, ours(&bench)), (From::Miss, miss), "{protocol:?}");
        let before = bench.commands();
        assert_eq!(read(&cache, "k", &source).await.from, From::Hit, "{protocol:?}");
        let (count, after) =
            (|all: &std::collections::BTreeMap<String, u64>| all.get(look).copied().unwrap_or(0), bench.commands());
        assert_eq!((ours(&bench), count(&after) - count(&before)), (miss + 1, 1), "{protocol:?}");
        let ttl: i64 = bench.server.ask(&["TTL", "n:k"]);
        assert!((1..=300).contains(&ttl), "{protocol:?}: {ttl}");
    }
}

#[tokio::test]
async fn twenty_callers_at_once_make_one_fetch_in_one_process_and_across_two() {
    for protocol in PROTOCOLS {
        let (bench, source) = (Bench::start(), Source::default());
        let caches = [(); 2].map(|()| bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid"));
        let calls = (0..20).map(|number: usize| {
            let (cache, source) = (&caches[number % 2], &source);
            cache.get_or_set("k", Options::new(), || source.fetch(Duration::from_millis(100)))
        });
        let values: Vec<_> = join_all(calls).await;
        assert!(values.iter().all(|value| *value == Ok(1)), "{protocol:?}: {values:?}");
        assert_eq!(source.fetches(), 1, "{protocol:?}");
        assert_eq!(caches.iter().map(|cache| cache.stats().stored).sum::<u64>(), 1, "{protocol:?}");
    }
}

/// The rule that a map by key breaks: a delete during a fetch, and then a call.
#[tokio::test]
async fn a_call_behind_a_delete_shares_nothing_with_a_fetch_from_before_it() {
    for protocol in PROTOCOLS {
        let (bench, gate) = (Bench::start(), Gate::default());
        let cache = bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid");
        let old = cache.read("k", Options::new(), || gate.fetch(1));
        let behind = async {
            gate.begun.notified().await;
            // Whoever sees the lease of the fetch may share it.
            let shares = cache.read("k", Options::new(), async || Err("a second fetch"));
            let lets_go = async {
                // The lease goes, as when the daemon deletes; then the row changes.
                assert!(cache.invalidate(["k"]).await);
                let new = cache.read("k", Options::new(), async || Ok::<_, &str>(2)).await;
                gate.open.notify_one();
                new
            };
            tokio::join!(biased; shares, lets_go)
        };
        let (old, (shared, new)) = tokio::join!(old, behind);
        let new = new.expect("a row");
        assert_eq!((new.value, new.from), (2, From::Miss), "{protocol:?}: a row from before the delete");
        assert_eq!(old.expect("a row").value, 1, "{protocol:?}");
        // It was there first, or it saw no lease any more: never an error of another.
        assert!(shared.is_ok_and(|shared| [1, 2].contains(&shared.value)), "{protocol:?}");
        eventually("the new row stands", PATIENCE, async || cache.stats().stored == 1).await;
        let expected = if protocol == Protocol::Key { "V2" } else { "2" };
        assert_eq!(bench.held("n:k").as_deref(), Some(expected.as_bytes()), "{protocol:?}");
        assert_eq!(cache.stats().refused, 1, "{protocol:?}: the old row was not kept out");
    }
}

#[tokio::test]
async fn who_sees_the_lease_of_a_running_fetch_shares_its_row() {
    for take in [Take::Once, Take::Script] {
        let (bench, gate) = (Bench::start(), Gate::default());
        let cache = bench.at(bench.server.port()).take(take).wait(PATIENCE).build().expect("it is valid");
        let first = cache.read("k", Options::new(), || gate.fetch(1));
        let second = async {
            gate.begun.notified().await;
            let looks = bench.commands()["get"];
            let second = cache.read("k", Options::new(), async || Err::<u64, _>("a second fetch"));
            let opens = async {
                eventually("it has looked", PATIENCE, async || bench.commands()["get"] > looks).await;
                gate.open.notify_one();
            };
            tokio::join!(second, opens).0
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.map(|read| read.from), second.map(|read| read.from)), (Ok(From::Miss), Ok(From::Joined)));
    }
}

#[tokio::test]
async fn an_error_is_neither_stored_nor_shared_and_frees_the_key() {
    for protocol in PROTOCOLS {
        let bench = Bench::start();
        let cache = bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid");
        let calls = (0..5).map(|number| cache.get_or_set("k", Options::new(), async move || Err::<u64, usize>(number)));
        let errors: Vec<_> = join_all(calls).await;
        assert_eq!(errors, (0..5).map(Err).collect::<Vec<_>>(), "each caller has its own error");
        let keys: Vec<String> = bench.server.ask(&["KEYS", "*"]);
        assert!(keys.is_empty() && cache.stats().stored == 0 && cache.stats().errors == 0, "{protocol:?}: {keys:?}");
    }
}

#[tokio::test]
async fn none_is_a_value_and_what_shall_not_be_stored_is_not() {
    let bench = Bench::start();
    let cache = bench.cache();
    let none = cache.get_or_set("none", Options::new(), async || Ok::<_, ()>(None::<u64>)).await;
    assert_eq!((none, bench.held("n:none")), (Ok(None), Some(b"Vnull".to_vec())));
    let again = cache.get_or_set("none", Options::new(), async || Err::<Option<u64>, _>(())).await;
    assert_eq!(again, Ok(None));
    let options = Options::new().store_if(|rows: &Vec<u64>| !rows.is_empty());
    assert_eq!(cache.get_or_set("empty", options, async || Ok::<_, ()>(vec![])).await, Ok(vec![]));
    assert_eq!(bench.held("n:empty"), None, "not even a lease is left");
    // A map whose keys are no texts has no JSON.
    let odd = std::collections::BTreeMap::from([((1, 2), 3)]);
    let read = cache.read("odd", Options::new(), async || Ok::<_, ()>(odd.clone())).await.expect("the row");
    assert_eq!((read.value, bench.held("n:odd"), bench.told("UNENCODABLE | n:odd")), (odd, None, 1));
    let raw = bench.at(bench.server.port()).codec(Raw).build().expect("it is valid");
    let bytes = raw.get_or_set("raw", Options::new(), async || Ok::<_, ()>(vec![0u8, 255])).await;
    assert_eq!((bytes, bench.held("n:raw")), (Ok(vec![0, 255]), Some(b"V\x00\xff".to_vec())));
}

#[tokio::test]
async fn a_ttl_is_a_time_or_a_kind_and_never_missing() {
    let bench = Bench::start();
    let ttls = [("list", Duration::from_secs(60)), ("detail", Duration::from_secs(3600))];
    let cache = bench.at(bench.server.port()).ttls(ttls).ttl("detail").build().expect("it is valid");
    let cases = [(Options::new(), 3600), (Options::ttl("list"), 60), (Options::ttl(Duration::from_millis(6_500)), 7)];
    for (number, (options, expected)) in cases.into_iter().enumerate() {
        let key = format!("k{number}");
        assert_eq!(cache.get_or_set(&key, options, async || Ok::<_, ()>(1)).await, Ok(1));
        let ttl: u64 = bench.server.ask(&["TTL", &format!("n:{key}")]);
        assert!(ttl <= expected && ttl + 5 >= expected, "{ttl} of {expected}");
    }
    for (key, options) in [("a", Options::ttl("lists")), ("b", Options::ttl(Duration::ZERO))] {
        assert_eq!(cache.get_or_set(key, options, async || Ok::<_, ()>(1)).await, Ok(1));
        assert_eq!(bench.held(&format!("n:{key}")), None, "neither a value nor a lease");
    }
    assert_eq!(bench.told("ERROR | ttl"), 2);
    let refused = bench.at(1).ttl("lists").build().err().map(|error| error.to_string());
    assert_eq!(refused.as_deref(), Some("ttl \"lists\": `ttls` has no such kind"));
    assert!(bench.at(1).ttl(Duration::ZERO).build().is_err());
}

#[tokio::test]
async fn a_copy_for_when_the_source_fails_is_made_only_when_asked_for_and_says_what_it_is() {
    let (bench, grace) = (Bench::start(), Duration::from_secs(60));
    let cache = bench.cache();
    let fails = async || Err::<u64, _>("the source is away");
    assert_eq!(cache.get_or_set("k", Options::new().grace(grace), async || Ok::<_, &str>(1)).await, Ok(1));
    bench.unlink("n:k");
    assert_eq!(cache.get_or_set("k", Options::new(), fails).await, Err("the source is away"), "it was not asked for");
    let read = cache.read("k", Options::new().grace(grace), fails).await.expect("the copy");
    assert!(read.value == 1 && matches!(read.from, From::Grace(age) if age < PATIENCE), "{read:?}");
    assert_eq!((cache.stats().graced, bench.held("n:k")), (1, None));
    let ttl: u64 = bench.server.ask(&["TTL", "grace:{n:k}"]);
    assert!((301..=360).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn invalidate_is_one_unlink_that_takes_companion_leases_along() {
    let bench = Bench::start();
    for (protocol, gone) in [(Protocol::Key, 2), (Protocol::Companion, 4)] {
        let cache = bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid");
        for key in ["n:a", "n:b", "lease:{n:a}", "lease:{n:b}", "m:a"] {
            bench.put(key, "L1");
        }
        let before = bench.commands().get("unlink").copied().unwrap_or(0);
        assert!(cache.invalidate(["a", "b"]).await && cache.invalidate([""; 0]).await);
        assert_eq!(bench.commands()["unlink"] - before, 1, "nothing is sent for no keys");
        let left: u64 = bench.server.ask(&["DBSIZE"]);
        assert_eq!(5 - left, gone, "{protocol:?}");
        assert!(cache.invalidate_in(Some("m"), ["a"]).await && bench.held("m:a").is_none());
    }
}

#[tokio::test]
async fn a_silent_daemon_means_that_the_cache_is_passed_by() {
    let (bench, source) = (Bench::start(), Source::default());
    for protocol in PROTOCOLS {
        let silence = bench.at(bench.server.port()).protocol(protocol).silence("s", Duration::from_secs(20));
        let cache = silence.build().expect("it is valid");
        assert_eq!(read(&cache, "k", &source).await.from, From::Bypass, "no mark");
        bench.put("crieur:mark:s", "{\"at\":1000}");
        assert_eq!(read(&cache, "k", &source).await.from, From::Bypass, "an old mark");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is set");
        bench.put("crieur:mark:s", &format!("{{\"at\":{},\"lsn\":\"0/1\"}}", now.as_secs()));
        assert_eq!(read(&cache, "k", &source).await.from, From::Miss);
        assert_eq!(read(&cache, "k", &source).await.from, From::Hit);
        assert_eq!((cache.stats().errors, bench.commands()["mget"] > 3), (0, true));
        let () = bench.server.ask(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_gives_the_lease_back() {
    let (bench, gate) = (Bench::start(), Gate::default());
    let cache = bench.cache();
    tokio::select! {
        _ = cache.get_or_set("k", Options::new(), || gate.fetch(1)) => panic!("nobody opened the gate"),
        () = gate.begun.notified() => assert!(bench.held("n:k").is_some_and(|held| held.starts_with(b"L"))),
    }
    eventually("the lease goes back", PATIENCE, async || bench.held("n:k").is_none()).await;
    assert_eq!(cache.get_or_set("k", Options::new(), async || Ok::<_, ()>(2)).await, Ok(2));
}

/// A client below that sends each take twice; the first copy is executed late, behind a delete.
struct Resending {
    redis: Redis,
    says_so: bool,
    key: &'static str,
}

impl Store for Resending {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            let is_store = command.get(1).is_some_and(|script| script.starts_with(b"-- store"));
            if is_store {
                // Meanwhile the daemon deleted, and the copy of the take arrived.
                self.redis.send(&[b"UNLINK", self.key.as_bytes(), b"lease:{n:k}"]).await?;
                let take = TAKEN.lock().expect("no holder panics").take().expect("a take came before");
                let words: Vec<&[u8]> = take.iter().map(Vec::as_slice).collect();
                self.redis.send(&words).await?;
            } else if command.first() != Some(&&b"GET"[..]) && command.first() != Some(&&b"MGET"[..]) {
                *TAKEN.lock().expect("no holder panics") = Some(command.iter().map(|word| word.to_vec()).collect());
            }
            self.redis.send(command).await
        })
    }

    fn resends(&self) -> bool {
        self.says_so
    }
}

static TAKEN: std::sync::Mutex<Option<Vec<Vec<u8>>>> = std::sync::Mutex::new(None);

#[tokio::test]
async fn over_a_client_that_sends_again_the_take_by_script_keeps_out_what_a_fixed_lease_lets_in() {
    let bench = Bench::start();
    let store =
        |says_so| Resending { redis: Redis::open(&bench.server.url()).expect("a valid address"), says_so, key: "n:k" };
    for protocol in PROTOCOLS {
        for (says_so, take, is_stale) in
            [(false, Take::Once, true), (false, Take::Script, false), (true, Take::Once, false)]
        {
            let cache = Cache::builder(store(says_so)).namespace("n").protocol(protocol).take(take);
            let cache = cache.build().expect("it is valid");
            assert_eq!(
                cache.get_or_set("k", Options::new(), async || Ok::<_, ()>("old".to_owned())).await.as_deref(),
                Ok("old")
            );
            let counts = (cache.stats().stored, cache.stats().refused);
            assert_eq!(counts, if is_stale { (1, 0) } else { (0, 1) }, "{protocol:?} {take:?} {says_so}");
            let () = bench.server.ask(&["FLUSHALL"]);
        }
    }
    let plain = Cache::builder(store(true)).protocol(Protocol::Plain).build();
    assert!(plain.err().is_some_and(|error| error.to_string().starts_with("plain: this store sends again")));
}

#[tokio::test]
async fn the_test_of_the_connection_tries_every_step_and_says_which_one_fails() {
    for server in Server::ALL {
        let bench = Bench::on(server);
        for take in [Take::Once, Take::Script] {
            let cache = bench.at(bench.server.port()).take(take).build().expect("it is valid");
            let probe = cache.test().await;
            let failed: Vec<_> = probe.steps.iter().filter(|step| step.error.is_some()).collect();
            let mut expected = true;
            #[cfg(target_arch = "x86_64")]
            if *server == Server::Redis6 {
                // NX with GET came with Redis 7.
                expected = take == Take::Script;
            }
            assert_eq!((probe.ok, failed.is_empty()), (expected, expected), "{server:?} {take:?}: {failed:?}");
            assert!(expected || failed[0].name == "SET NX GET", "{failed:?}");
            let keys: u64 = bench.server.ask(&["DBSIZE"]);
            assert_eq!(keys, 0, "{server:?}");
        }
        let silence = bench.at(bench.server.port()).take(Take::Script).silence("s", Duration::from_secs(20));
        let probe = silence.build().expect("it is valid").test().await;
        assert!(!probe.ok && probe.steps.last().is_some_and(|step| step.name == "mark" && step.error.is_some()));
    }
    let probe = Cache::none().build().expect("it is valid").test().await;
    assert!(!probe.ok && probe.steps.iter().all(|step| step.error.is_some()));
}

#[tokio::test]
async fn without_a_cache_every_call_reads_its_row() {
    let (cache, source) = (Cache::none().build().expect("it is valid"), Source::default());
    for number in 1..=3 {
        let row = read(&cache, "k", &source).await;
        assert_eq!((row.value, row.from), (number, From::Bypass));
    }
    assert!(!cache.invalidate(["k"]).await);
    assert_eq!((cache.stats().errors, cache.stats().bypassed), (0, 3));
}

/// What is used of a store's answer is public, for stores of one's own.
#[tokio::test]
async fn a_store_of_ones_own_is_a_few_lines() {
    struct Nothing;
    impl Store for Nothing {
        fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
            Box::pin(async move {
                match command[0] {
                    b"GET" => Ok(Reply::Bytes(b"V1".to_vec())),
                    _ => Err(StoreError::new("nothing else")),
                }
            })
        }
    }
    let cache = Cache::builder(Nothing).build().expect("it is valid");
    assert_eq!(cache.get_or_set("k", Options::new(), async || Err::<u64, _>(())).await, Ok(1));
}
