//! How old a row is for readers of a region: from COMMIT on the primary, and from the moment at which the standby shows it.

use std::time::{Duration, Instant};

use super::super::harness::postgres::Version;
use super::super::regions::{KEY, Region, ask};
use super::Spread;

const CHANGES: usize = 200;

#[tokio::test]
#[ignore = "a measurement: see docs/contribute/benchmarks.md"]
async fn age_at_the_reader_of_a_region() {
    for (conf, what) in [(None, "no delay"), (Some("recovery_min_apply_delay = '2s'"), "2 s of delay")] {
        let (region, daemon) = Region::with_daemon(Version::V17, conf.as_slice()).await;
        let (there, reader) = (region.there().await, region.there().await);
        let changes = if conf.is_some() { 10 } else { CHANGES };
        let (mut shown, mut served, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..changes {
            let title = format!("round {round}");
            region.read(&reader).await;
            region.write(&title).await;
            let committed = Instant::now();
            let (mut seen, mut read) = (None, None);
            while seen.is_none() || read.is_none() {
                if seen.is_none() && ask(&there, "SELECT title FROM properties WHERE id = 1").await == title {
                    seen = Some(committed.elapsed());
                }
                if read.is_none() && region.read(&reader).await == title {
                    read = Some(committed.elapsed());
                }
            }
            let (seen, read) = (seen.unwrap_or_default(), read.unwrap_or_default());
            shown.push(seen);
            served.push(read);
            behind.push(read.saturating_sub(seen));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let milliseconds = |times: Vec<Duration>| Spread(times.iter().map(|time| time.as_secs_f64() * 1e3).collect());
        println!("{what}, {KEY}, {changes} changes, milliseconds, median (least to greatest):");
        println!("  COMMIT to the standby showing it {}", milliseconds(shown));
        println!("  COMMIT to the reader served it {}", milliseconds(served));
        println!("  the standby showing it to the reader served it {}", milliseconds(behind));
        drop(daemon);
    }
}
