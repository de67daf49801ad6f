//! What the log says of a sweep: which tables, and because of what, when it begins and when it ends.

use super::daemon;
use super::harness::postgres::Options;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Mode, Scene};

/// Statements, and what their sweep says of itself in each mode.
const SWEEPS: [(&str, &str, &str, &str); 2] = [
    ("TRUNCATE properties", "public.properties", "TRUNCATE", "TRUNCATE, or a change that was not captured"),
    ("ALTER TABLE properties ADD COLUMN fee int DEFAULT 5", "public.properties", "DDL", "DDL"),
];

#[tokio::test]
async fn a_sweep_says_its_tables_and_its_cause_when_it_begins_and_when_it_ends() {
    for mode in [Mode::Replication, Mode::Outbox] {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let out = daemon::run("setup", &scene.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let mut daemon = scene.daemon().await;
        scene.confirmed(&daemon).await;
        for (sql, tables, streamed, captured) in SWEEPS {
            let before = daemon.log().len();
            let cause = if mode == Mode::Outbox { captured } else { streamed };
            let _ = scene.change(&daemon, sql).await;
            let said = || daemon.log().get(before..).unwrap_or_default().to_owned();
            let part = format!("tables=\"{tables}\" cause=\"{cause}\"");
            eventually(&format!("{mode:?} {sql}: {part}"), PATIENCE, async || {
                let said = said();
                let line = |word: &str| said.lines().any(|line| line.contains(word) && line.contains(&part));
                line("id=sweep.began") && line("id=sweep.ended")
            })
            .await;
        }
        assert!(!daemon.log().contains("tables=\"\""), "echoes are no news: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
