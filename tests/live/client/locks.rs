//! Locks: one holder, told when it is lost, and nobody works without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crieur_cache::{LockError, LockOptions, Locks, Redis};
use futures_util::future::join_all;

use super::harness::postgres::{Options, Postgres};
use super::harness::proxy::{Direction, Proxy};
use super::harness::wait::{PATIENCE, eventually};
use super::{Bench, SLACK};

impl Bench {
    fn locks(&self, port: u16) -> Locks {
        let lines = Arc::clone(&self.lines);
        let store = Redis::open(&format!("redis://127.0.0.1:{port}")).expect("a valid address");
        Locks::new(store).on(move |event| lines.lock().expect("no holder panics").push(event.to_string()))
    }
}

#[tokio::test]
async fn of_eight_who_want_it_one_is_inside_and_the_fence_grows() {
    let bench = Bench::start();
    let locks = bench.locks(bench.server.port());
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let all = (0..8).map(|_| {
        let options = LockOptions::secs(30).attempts(10_000).delay(Duration::from_millis(5));
        locks.with("k", options, async |lock| {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, ()>(lock.fence())
        })
    });
    let done = join_all(all).await;
    let mut fences: Vec<u64> = done.into_iter().map(|done| done.expect("each has its turn").fence).collect();
    fences.sort_unstable();
    fences.dedup();
    assert_eq!((fences.len(), most.into_inner()), (8, 1));
    assert_eq!(bench.held("lock:k"), None);
}

#[tokio::test]
async fn a_lock_that_is_held_is_busy_and_one_that_is_released_is_free() {
    let bench = Bench::start();
    let locks = bench.locks(bench.server.port());
    let lock = locks.acquire("k", LockOptions::secs(30)).await.expect("it is free");
    assert_eq!(bench.held("lock:k").as_deref(), Some(lock.token().as_bytes()));
    let busy = locks.with("k", LockOptions::secs(30), async |_| Ok::<_, ()>("worked")).await;
    assert!(matches!(busy, Err(LockError::Busy)), "{busy:?}");
    assert!(lock.is_held() && lock.release().await && !lock.release().await && !lock.is_held());
    assert!(!lock.lost().is_lost(), "it was given back");
    let worked = locks.with("k", LockOptions::secs(30), async |_| Ok::<_, ()>("worked")).await.expect("it is free");
    assert!(worked.value == "worked" && worked.fence > lock.fence());
    let failed = locks.with("k", LockOptions::secs(30), async |_| Err::<(), _>("no money")).await;
    assert!(matches!(failed, Err(LockError::Failed("no money"))), "{failed:?}");
    assert_eq!(bench.held("lock:k"), None);
    let words = ["ACQUIRED | k | 30s", "RELEASED | k", "BUSY | k", "LOST"].map(|word| bench.told(word));
    assert_eq!(words, [3, 3, 1, 0]);
    // Without a release, the last handle frees it.
    drop(locks.acquire("k", LockOptions::secs(30)).await.expect("it is free"));
    eventually("it is free", PATIENCE, async || bench.held("lock:k").is_none()).await;
}

#[tokio::test]
async fn a_lock_renews_itself_beyond_its_time_and_not_beyond_the_whole() {
    let bench = Bench::start();
    let locks = bench.locks(bench.server.port());
    let short = Duration::from_millis(600);
    let lock = locks.acquire("k", LockOptions::expires(short)).await.expect("it is free");
    let start = Instant::now();
    eventually("it is renewed", PATIENCE, async || bench.commands().get("pexpire").is_some_and(|count| *count > 3))
        .await;
    assert!(start.elapsed() > short, "renewed at every third of its time, not all at once: {:?}", start.elapsed());
    assert!(lock.is_held() && bench.held("lock:k").is_some());
    assert!(lock.extend(Duration::from_secs(60)).await);
    let ttl: u64 = bench.server.ask(&["PTTL", "lock:k"]);
    assert!(ttl > 50_000, "{ttl}");
    assert!(lock.release().await);
    let most = LockOptions::expires(short).most(2 * short);
    let lock = locks.acquire("k", most).await.expect("it is free");
    lock.lost().wait().await;
    assert!(!lock.is_held() && !lock.release().await);
    assert_eq!(bench.told("LOST | k"), 1);
}

#[tokio::test]
async fn who_loses_a_lock_is_told_and_frees_nobody_elses() {
    let bench = Bench::start();
    let locks = bench.locks(bench.server.port());
    let lost = locks
        .with("k", LockOptions::expires(Duration::from_millis(900)), async |lock| {
            // Somebody flushes the cache, and another takes the lock.
            bench.put("lock:k", "another");
            lock.lost().wait().await;
            assert!(lock.lost().is_lost() && !lock.is_held() && !lock.extend(PATIENCE).await);
            Ok::<_, ()>("worked")
        })
        .await;
    assert!(matches!(lost, Err(LockError::Lost(Ok("worked")))), "{lost:?}");
    assert_eq!(bench.held("lock:k").as_deref(), Some(&b"another"[..]));
}

#[tokio::test]
async fn a_holder_whose_line_is_dead_is_told_while_its_key_still_stands() {
    let bench = Bench::start();
    let proxy = Proxy::start(bench.server.port());
    let locks = bench.locks(proxy.port());
    // A machine that stands still for longer than the margin tells late: then once more.
    for round in 1..=5 {
        let lock = locks.acquire(&format!("k{round}"), LockOptions::secs(4)).await.expect("it is free");
        proxy.stall(Direction::Questions);
        lock.lost().wait().await;
        let left: i64 = bench.server.ask(&["PTTL", &format!("lock:k{round}")]);
        assert!(!lock.is_held());
        if left > 0 {
            return;
        }
        proxy.heal();
    }
    panic!("each of five holders was told when its key had gone");
}

#[tokio::test]
async fn without_an_answer_nobody_works_and_a_take_that_arrives_late_is_freed() {
    let bench = Bench::start();
    let proxy = Proxy::start(bench.server.port());
    let locks = bench.locks(proxy.port());
    drop(locks.acquire("other", LockOptions::secs(5)).await.expect("it is free"));
    proxy.stall(Direction::Answers);
    let start = Instant::now();
    let none = locks.with("k", LockOptions::secs(60), async |_| -> Result<(), ()> { panic!("it works") }).await;
    assert!(matches!(none, Err(LockError::Unavailable(_))), "{none:?}");
    assert!(start.elapsed() < Duration::from_millis(500) + SLACK, "{:?}", start.elapsed());
    eventually("the take has arrived", PATIENCE, async || bench.commands().get("eval").is_some_and(|count| *count > 2))
        .await;
    proxy.heal();
    eventually("it is freed", PATIENCE, async || bench.held("lock:k").is_none()).await;
    let refused = bench.locks(super::harness::process::free_port()).acquire("k", LockOptions::secs(1)).await;
    assert!(matches!(refused, Err(LockError::Unavailable(_))));
}

/// What the READMEs show besides a lock: the database decides.
#[tokio::test]
async fn the_constraint_of_the_page_pays_once() {
    let postgres = Postgres::start(Options::default());
    let client = postgres.client().await;
    for page in [include_str!("../../../clients/rust/README.md"), include_str!("../../../clients/rust/README.fr.md")] {
        let sql = page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
        let (table, pay) = sql.split_once("INSERT").expect("a table, then a payment");
        client.batch_execute(&format!("DROP TABLE IF EXISTS payments; {table}")).await.expect("valid SQL");
        let pay = format!("INSERT{pay}");
        let rows = |rows: Result<Vec<tokio_postgres::Row>, _>| rows.expect("valid SQL").len();
        assert_eq!(rows(client.query(&pay, &[]).await), 1);
        assert_eq!(rows(client.query(&pay, &[]).await), 0, "the same key");
        let other = pay.replace("'k-1'", "'k-2'");
        assert!(other != pay && rows(client.query(&other, &[]).await) == 0, "the same lease and month");
        let fenced = "UPDATE payments SET fence = 7 WHERE lease_id = 456 AND fence < 7 RETURNING fence";
        assert_eq!((rows(client.query(fenced, &[]).await), rows(client.query(fenced, &[]).await)), (1, 0));
    }
}
