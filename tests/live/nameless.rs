//! A cache that does not say who it is: it settles whatever becomes of its connections, and what it loses while its mark
//! stays is found by the next mark.

use std::time::Duration;

use crieur::lsn::Lsn;
use crieur::mark::Mark;
use tokio::time::sleep;

use super::daemon::Daemon;
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, config};

/// A user to whom INFO says nothing.
fn nameless(cache: &Redis) -> String {
    let () = cache.ask(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "-info"]);
    format!("redis://ann:pw@127.0.0.1:{}", cache.port())
}

fn marked(cache: &Redis) -> Option<Lsn> {
    let text: Option<String> = cache.ask(&["GET", "crieur:mark:crieur"]);
    let mark: Mark = serde_json::from_str(&text?).expect("the daemon writes marks");
    Some(mark.lsn.parse().expect("a position"))
}

#[tokio::test]
async fn it_settles_with_any_echo_and_each_kind_of_lease_though_every_connection_is_cut() {
    for lines in [
        "echo = [\"250ms\", \"2s\"]",
        "echo = []",
        "echo = [\"2s\"]\nleases = \"companion\"",
        "echo = []\nleases = \"companion\"",
    ] {
        let scene = Scene::start().await;
        let text = config(&scene.postgres.url(), &nameless(&scene.cache)).replace("echo = []", lines);
        let mut daemon = Daemon::start(&text, &[]);
        daemon.allow_failing_cache();
        daemon.wait_for_log(scene.mode.started());
        let change = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";
        for _ in 0..2 {
            scene.run(change).await;
            let now: Lsn = scene.ask("SELECT pg_current_wal_lsn()::text").await.parse().expect("a position");
            // The mark is behind the echoes, and connections live much shorter than these take.
            settled("the mark covers the change", PATIENCE, async || {
                let () = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                sleep(Duration::from_millis(150)).await;
                if marked(&scene.cache) >= Some(now) { Ok(()) } else { Err(daemon.log()) }
            })
            .await;
        }
        assert_eq!(daemon.log().matches("id=sweep.ended").count(), 1, "{lines}: {}", daemon.log());
        assert!(!daemon.log().contains("id=gap.replayed"), "{lines}: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The delete is lost and the mark is not: as if the cache came from a copy that was made in between. No connection breaks,
/// so nothing but the next mark can tell.
#[tokio::test]
async fn what_it_lost_while_its_mark_stayed_goes_with_the_next_mark() {
    // Where commands are billed a mark is written once a second: there is time between a delete and its mark. One of the
    // servers knows `SET … IFEQ`, and the mark comes in a transaction; the other one runs the script.
    for server in [Server::System, Server::Valkey9] {
        let scene = Scene::start().await;
        let cache = Redis::start(&server, &[]);
        let lines = "echo = []\nmetered = \"yes\"\nheartbeat = \"60s\"";
        let text = config(&scene.postgres.url(), &nameless(&cache)).replace("echo = []", lines);
        let mut daemon = Daemon::start(&text, &[]);
        eventually("the mark is there", PATIENCE, async || marked(&cache).is_some()).await;
        let key = "available_slots:2";
        let change = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 2 FROM visit_bookings";
        let mut lost = 0;
        for _ in 0..20 {
            scene.run("INSERT INTO visits SELECT coalesce(max(id), 0) + 1 FROM visits").await;
            let () = cache.ask(&["SET", key, "old"]);
            let before: Lsn = scene.ask("SELECT pg_current_wal_lsn()::text").await.parse().expect("a position");
            scene.run(change).await;
            eventually("the key is deleted", PATIENCE, async || !cache.ask::<bool>(&["EXISTS", key])).await;
            let () = cache.ask(&["SET", key, "old"]);
            let is_lost = marked(&cache).is_some_and(|marked| marked <= before);
            if is_lost {
                lost += 1;
                settled("the next mark brings the delete along", PATIENCE, async || {
                    if cache.ask::<bool>(&["EXISTS", key]) { Err(daemon.log()) } else { Ok(()) }
                })
                .await;
            }
        }
        assert!(lost > 0, "each mark came before the loss");
        assert!(!daemon.log().contains("id=gap.replayed"), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
