//! The promise as a reader sees it: cache-aside readers race with writers and with faults, and in the end nothing in the
//! cache is older than the database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::harness::postgres;
use super::harness::proxy::Proxy;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Scene, config};

const READERS: u64 = 4;
const WRITES: i32 = 800;
const PROPERTIES: i32 = 9;

fn key(id: i32) -> String {
    format!("properties:detail:{id}")
}

/// GET; on a miss SELECT, then SET. It dawdles in between, by less than the longest echo.
async fn read(cache: &mut redis::Connection, sql: &tokio_postgres::Client, id: i32, dawdle: Duration) -> bool {
    let found: Option<String> = redis::cmd("GET").arg(key(id)).query(cache).expect("it answers");
    if found.is_some() {
        return false;
    }
    let row = sql.query_one("SELECT title FROM properties WHERE id = $1", &[&id]).await.expect("valid SQL");
    tokio::time::sleep(dawdle).await;
    let _: () = redis::cmd("SET").arg(key(id)).arg(row.get::<_, &str>(0)).query(cache).expect("it is writable");
    true
}

#[tokio::test]
async fn a_value_that_was_read_before_a_change_and_stored_after_its_delete_goes_with_the_echo() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon_with(&scene.config().replace("echo = []", "echo = [\"3s\"]")).await;
    scene.confirmed(&daemon).await;
    scene.fill();
    let old = scene.ask("SELECT title FROM properties WHERE id = 1").await;
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    eventually("the first delete", PATIENCE, async || scene.gone().contains(&key(1))).await;
    // The reader is slow by less than the echo: its SET comes when every other delete is long done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _: () = redis::cmd("SET").arg(key(1)).arg(&old).query(&mut scene.keys()).expect("it is writable");
    scene.confirmed(&daemon).await;
    assert!(scene.gone().contains(&key(1)), "the stale value stays");
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn readers_never_keep_what_a_writer_changed() {
    let conf = vec!["synchronous_commit = off".to_owned()];
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let (postgres, cache) = (Proxy::start(scene.postgres.port()), Proxy::start(scene.cache.port()));
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port());
    let through = config(&url, &format!("redis://127.0.0.1:{}", cache.port()));
    let mut daemon = scene.daemon_with(&through.replace("echo = []", "echo = [\"250ms\", \"2s\"]")).await;
    daemon.allow("id=stream.interrupted");
    daemon.allow("failed to");

    let (done, filled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let (mut cache, sql) = (scene.cache.connection(), scene.postgres.client().await);
        let (done, filled) = (Arc::clone(&done), Arc::clone(&filled));
        readers.push(tokio::spawn(async move {
            let mut id = 0;
            while !done.load(Ordering::Relaxed) {
                id = id % PROPERTIES + 1;
                let missed = read(&mut cache, &sql, id, Duration::from_millis(7 * reader)).await;
                filled.fetch_add(usize::from(missed), Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }));
    }
    for write in 0..WRITES {
        let id = write * 7 % PROPERTIES + 1;
        scene.run(&format!("UPDATE properties SET title = 'title {write}' WHERE id = {id}")).await;
        match write % 200 {
            70 => postgres.cut(),
            140 => cache.cut(),
            _ => {}
        }
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("a reader does not panic");
    }
    scene.confirmed(&daemon).await;
    // A last value that a slow reader stored goes with the last echo; what is there after it is what the database says.
    let mut connection = scene.cache.connection();
    for id in 1..=PROPERTIES {
        let title = scene.ask(&format!("SELECT title FROM properties WHERE id = {id}")).await;
        eventually(&format!("{} is not stale", key(id)), PATIENCE, async || {
            let cached: Option<String> = redis::cmd("GET").arg(key(id)).query(&mut connection).expect("it answers");
            cached.is_none_or(|cached| cached == title)
        })
        .await;
    }
    assert!(filled.load(Ordering::Relaxed) > 20, "the readers never raced");
    assert_eq!(daemon.stop(), Some(0));
}
