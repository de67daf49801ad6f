//! How much WAL the slot holds back while a cache is away: at most, over the WAL of a day, made as fast as it goes.

use std::time::{Duration, Instant};

use super::super::daemon::Daemon;
use super::super::harness::wait::{PATIENCE, eventually};
use super::super::scene::Scene;
use super::program;

/// One change that somebody watches, and a megabyte of WAL that nobody does.
const LOAD: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings; \
                    SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))";

const HELD: &str = "SELECT format('%s %s %s', pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0'), \
                    pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), \
                    pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots WHERE slot_name = 'crieur'";

const MIB: f64 = 1_048_576.0;

/// Where the WAL ends, and how far behind are the confirmed position and what the server keeps, in MiB.
async fn held(scene: &Scene) -> [f64; 3] {
    let text = scene.ask(HELD).await;
    let mut numbers = text.split(' ').map(|number| number.parse::<f64>().expect("a number") / MIB);
    [(); 3].map(|()| numbers.next().expect("three numbers"))
}

/// `DAY` is how many MiB of WAL the day has.
#[tokio::test]
#[ignore = "figures, not a verdict"]
async fn held_back_at_most() {
    let day: f64 = std::env::var("DAY").map_or(4096.0, |text| text.parse().expect("DAY is a number of MiB"));
    for limit in ["1GiB", "64MiB"] {
        let scene = Scene::start().await;
        let with_limit = format!("[cache]\nhold_wal_bytes_max = \"{limit}\"\n");
        let config = scene.config().replace("[cache]\n", &with_limit).replace("echo = []", "echo = [\"250ms\"]");
        let mut daemon = Daemon::start_build(&program(), &config);
        daemon.allow("");
        daemon.wait_for_log("id=stream.started");
        eventually("its mark is there", PATIENCE, async || scene.cache.ask(&["EXISTS", "crieur:mark:crieur"])).await;
        scene.cache.freeze();
        let (began, [start, ..]) = (Instant::now(), held(&scene).await);
        let (mut confirmed, mut kept, mut written) = (0_f64, 0_f64, 0_f64);
        let mut later = Vec::new();
        while written < day {
            scene.run(LOAD).await;
            // Not slower than the daemon is told of what there is.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let [end, behind, back] = held(&scene).await;
            written = end - start;
            (confirmed, kept) = (confirmed.max(behind), kept.max(back));
            if written > day / 2.0 {
                later.push(back);
            }
        }
        let rate = written / began.elapsed().as_secs_f64();
        let released = daemon.log().matches("id=cache.released").count();
        println!(
            "hold_wal_bytes_max = {limit}: {written:.0} MiB written at {rate:.0} MiB/s; not confirmed at most \
             {confirmed:.0} MiB, kept for the slot at most {kept:.0} MiB, in the second half in the median {:.0} MiB; \
             released {released} times",
            super::at(0.5, later)
        );
        scene.cache.thaw();
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}
