//! What a change costs the readers of a hot key, with echoes and with leases: figures, printed. They run only when asked:
//! `cargo test --test live hitrate -- --ignored --nocapture`, for `SECONDS_EACH` (70) seconds.

use std::time::{Duration, Instant};

use super::scene::Scene;

/// Reads of one key in a second.
const READS: u64 = 50;

/// Seconds between two changes of a key; the key of each is `properties:detail:<place>`. None in the last row: only the
/// first change is made.
const CHANGES: [u64; 4] = [1, 5, 15, 3600];

const TAKE: &str = include_str!("../../lua/take.lua");
const STORE: &str = include_str!("../../lua/store-in-key.lua");

/// Reads once: whether the cache had the value.
async fn read(cache: &mut redis::Connection, sql: &tokio_postgres::Client, id: usize, lease: Option<u64>) -> bool {
    let key = format!("properties:detail:{id}");
    let found: Option<String> = redis::cmd("GET").arg(&key).query(cache).expect("it answers");
    if found.is_some() {
        return true;
    }
    let lease = lease.map(|number| {
        let own = format!("L{number}");
        let mut take = redis::cmd("EVAL");
        let lease: String = take.arg(TAKE).arg(1).arg(&key).arg(&own).arg(10_000).query(cache).expect("it answers");
        assert!(lease.starts_with(&format!("{own}:")), "the key has one reader");
        lease
    });
    let row = sql.query_one("SELECT title FROM properties WHERE id = $1", &[&(id as i32)]).await.expect("valid SQL");
    let title: String = row.get(0);
    match lease {
        Some(lease) => {
            let mut store = redis::cmd("EVAL");
            store.arg(STORE).arg(1).arg(&key).arg(lease).arg(format!("V{title}")).arg(600);
            let _: bool = store.query(cache).expect("it answers");
        }
        None => redis::cmd("SET").arg(&key).arg(&title).query(cache).expect("it is writable"),
    }
    false
}

/// Reads and misses of each key behind its first change.
async fn measure(scene: &Scene, with_lease: bool, seconds: u64) -> Vec<(u64, u64, u64)> {
    let (mut cache, reads) = (scene.keys(), scene.postgres.client().await);
    let mut counts = vec![(0, 0, 0); CHANGES.len()];
    let began = Instant::now();
    let mut changed = vec![0; CHANGES.len()];
    let mut lease = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        for (place, every) in CHANGES.iter().enumerate() {
            if began.elapsed().as_secs() / every >= changed[place] {
                changed[place] += 1;
                counts[place].0 += 1;
                let title = format!("title {}", changed[place]);
                scene.run(&format!("UPDATE properties SET title = '{title}' WHERE id = {}", place + 1)).await;
            }
            lease += 1;
            let hit = read(&mut cache, &reads, place + 1, with_lease.then_some(lease)).await;
            counts[place].1 += 1;
            counts[place].2 += u64::from(!hit);
        }
        tokio::time::sleep(Duration::from_millis(1000 / READS)).await;
    }
    counts
}

#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn the_hit_rate_of_a_hot_key_with_echoes_and_with_leases() {
    let seconds = std::env::var("SECONDS_EACH").map_or(70, |text| text.parse().expect("SECONDS_EACH is a number"));
    for with_lease in [false, true] {
        let scene = Scene::start().await;
        // Keys that the other keys' changes do not name.
        let own =
            scene.config().replace("\"all_properties_public\", \"detail:{id}\", \"city:{city}\"", "\"detail:{id}\"");
        let config = if with_lease { own.clone() } else { own.replace("echo = []\n", "") };
        // The first sweep's echoes are none of a change's.
        assert_eq!(scene.daemon_with(&own).await.stop(), Some(0));
        let mut daemon = scene.daemon_with(&config).await;
        for (place, every) in CHANGES.iter().enumerate() {
            let _: () = redis::cmd("DEL")
                .arg(format!("properties:detail:{}", place + 1))
                .query(&mut scene.keys())
                .expect("it answers");
            assert!(*every > 0);
        }
        let counts = measure(&scene, with_lease, seconds).await;
        let kind = if with_lease { "leases, echo = []" } else { "plain, the default echoes" };
        for ((changes, reads, misses), every) in counts.into_iter().zip(CHANGES) {
            let rate = 100.0 * (reads - misses) as f64 / reads as f64;
            let each = misses as f64 / changes as f64;
            println!(
                "{kind}: a change every {every} s ({changes}): {reads} reads, {misses} misses, {each:.1} a change, hit rate {rate:.2} %"
            );
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}
