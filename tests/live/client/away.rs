//! The cache is away, in each of the ways in which it can be: the row comes, in bounded time, and nothing is stored.

use std::time::{Duration, Instant};

use crieur_cache::{Connection, From, Options, Protocol, Redis};
use futures_util::future::join_all;

use super::harness::process::free_port;
use super::harness::proxy::{Direction, Proxy};
use super::harness::redis::{Data, Server};
use super::harness::wait::{PATIENCE, eventually};
use super::{Bench, SLACK, Source, read};

/// Of one command.
const TIMEOUT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_cache_that_refuses_costs_next_to_nothing_and_three_losses_pause_it() {
    let (bench, source) = (Bench::start(), Source::default());
    let cache = bench.at(free_port()).pause(3, PATIENCE).build().expect("it is valid");
    for number in 1..=10 {
        let start = Instant::now();
        let row = read(&cache, "k", &source).await;
        assert_eq!((row.value, row.from), (number, From::Bypass));
        assert!(start.elapsed() < 2 * TIMEOUT + SLACK, "{:?}", start.elapsed());
    }
    assert_eq!((cache.stats().errors, bench.told("PAUSE | 30000ms")), (3, 1));
    assert!(!cache.invalidate(["k"]).await, "nothing is sent");
}

#[tokio::test]
async fn a_cache_that_is_silent_costs_a_call_twice_the_time_of_a_command_at_most() {
    for protocol in [Protocol::Key, Protocol::Companion, Protocol::Plain] {
        // Silent to the look, to the take, to the store.
        for pass in 0..3 {
            let (bench, source) = (Bench::start(), Source::default());
            let proxy = Proxy::start(bench.server.port());
            let cache = bench.at(proxy.port()).protocol(protocol).pause(1, PATIENCE).build().expect("it is valid");
            assert_eq!(read(&cache, "other", &source).await.from, From::Miss);
            if pass < 2 {
                proxy.stall(if pass == 0 { Direction::Questions } else { Direction::Answers });
            }
            let start = Instant::now();
            let fetch = async || {
                proxy.stall(Direction::Questions);
                source.fetch(Duration::ZERO).await
            };
            let row = cache.read("k", Options::new(), fetch).await.expect("the row");
            let took = start.elapsed();
            assert_eq!(row.value, 2, "{protocol:?} {pass}");
            assert!(took < 2 * TIMEOUT + SLACK, "{protocol:?} {pass}: {took:?}");
            let quick = Instant::now();
            eventually("it pauses", PATIENCE, async || bench.told("PAUSE") == 1).await;
            assert_eq!(read(&cache, "k", &source).await.from, From::Bypass, "{protocol:?} {pass}");
            assert!(quick.elapsed() < 2 * TIMEOUT + SLACK, "{protocol:?} {pass}");
            // What was on its way may arrive late: a value that nobody keeps must not be among it, if a lease is.
            proxy.heal();
            if protocol != Protocol::Plain && pass < 2 {
                let held = bench.held("n:k").unwrap_or_default();
                assert!(held.is_empty() || held.starts_with(b"L"), "{protocol:?} {pass}: {held:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_connection_fails_what_was_under_way_and_the_next_call_has_a_new_one() {
    let (bench, source) = (Bench::start(), Source::default());
    let proxy = Proxy::start(bench.server.port());
    let cache = bench.at(proxy.port()).build().expect("it is valid");
    assert_eq!(read(&cache, "k0", &source).await.from, From::Miss);
    for number in 1..=5 {
        // While the row is read, between the take and the store: the store is lost, or finds the new connection.
        let key = format!("k{number}");
        let fetch = async || {
            proxy.cut();
            source.fetch(Duration::ZERO).await
        };
        assert_eq!(cache.read(&key, Options::new(), fetch).await.map(|read| read.from), Ok(From::Miss));
        let row = read(&cache, "k0", &source).await;
        assert!([From::Hit, From::Bypass].contains(&row.from), "{row:?}");
        eventually("the cache serves again", PATIENCE, async || read(&cache, "k0", &source).await.from == From::Hit)
            .await;
    }
    assert_eq!(bench.told("PAUSE"), 0, "five losses, and an answer between each two");
}

#[tokio::test]
async fn one_reset_with_five_reads_under_way_is_one_loss() {
    let (bench, source) = (Bench::start(), Source::default());
    let proxy = Proxy::start(bench.server.port());
    let cache = bench.at(proxy.port()).pause(2, PATIENCE).build().expect("it is valid");
    assert_eq!(read(&cache, "k", &source).await.from, From::Miss);
    proxy.stall(Direction::Answers);
    let keys: Vec<String> = (0..5).map(|number| format!("k{number}")).collect();
    let calls = keys.iter().map(|key| read(&cache, key, &source));
    let cut = async {
        eventually("they are under way", PATIENCE, async || bench.commands()["get"] >= 6).await;
        proxy.cut();
    };
    let (rows, ()) = tokio::join!(join_all(calls), cut);
    assert!(rows.iter().all(|row| row.from == From::Bypass), "{rows:?}");
    proxy.heal();
    assert_eq!(bench.told("PAUSE"), 0);
    eventually("the cache serves again", PATIENCE, async || read(&cache, "k", &source).await.from == From::Hit).await;
}

#[tokio::test]
async fn a_server_that_comes_back_serves_again_by_itself() {
    let (mut bench, source) = (Bench::start(), Source::default());
    let cache = bench.at(bench.server.port()).pause(3, Duration::from_millis(100)).build().expect("it is valid");
    assert_eq!(read(&cache, "k", &source).await.from, From::Miss);
    bench.server.kill();
    eventually("it pauses", PATIENCE, async || {
        assert_eq!(read(&cache, "k", &source).await.from, From::Bypass);
        bench.told("PAUSE") > 0
    })
    .await;
    bench.server.restart(Data::Lost);
    eventually("it resumes", PATIENCE, async || read(&cache, "k", &source).await.from == From::Hit).await;
    assert!(bench.told("RESUME") == 1 && bench.held("n:k").is_some());
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_for_a_minute() {
    let (bench, source) = (Bench::start(), Source::default());
    let () = bench.server.ask(&["CONFIG", "SET", "requirepass", "secret"]);
    let cache = bench.cache();
    assert_eq!(read(&cache, "k", &source).await.from, From::Bypass);
    assert_eq!((bench.told("PAUSE | 60000ms"), cache.stats().errors), (1, 1));
}

/// While the cache is away it is the database that must not be stormed.
#[tokio::test]
async fn without_the_cache_callers_share_fetches_that_begin_behind_their_call() {
    let (bench, source) = (Bench::start(), Source::default());
    let cache = bench.at(free_port()).pause(1, PATIENCE).build().expect("it is valid");
    assert_eq!(read(&cache, "k", &source).await.from, From::Bypass);
    let before = source.fetches();
    let calls = (0..50).map(|number| {
        let (cache, source) = (&cache, &source);
        async move {
            tokio::time::sleep(Duration::from_millis(4 * number)).await;
            let begun = source.fetches();
            let row =
                cache.read("k", Options::new(), || source.fetch(Duration::from_millis(100))).await.expect("a row");
            assert!(row.value > begun, "fetch {} had begun before the call", row.value);
        }
    });
    join_all(calls).await;
    let fetches = source.fetches() - before;
    assert!(fetches < 25, "{fetches} fetches for 50 calls");
}

#[tokio::test]
async fn a_connection_of_the_users_own_serves_as_well() {
    let (bench, source) = (Bench::on(&Server::Valkey9), Source::default());
    let client = redis::Client::open(bench.server.url()).expect("a valid address");
    let connection = client.get_multiplexed_async_connection().await.expect("it accepts connections");
    let store = Connection::new(connection).timeout(PATIENCE);
    let cache = crieur_cache::Cache::builder(store).build().expect("it is valid");
    assert_eq!(read(&cache, "k", &source).await.from, From::Miss);
    assert_eq!(read(&cache, "k", &source).await.from, From::Hit);
}

#[test]
fn an_address_that_is_none_is_refused() {
    assert!(Redis::open("http://x").is_err());
}
