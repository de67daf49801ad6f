//! `crieur status`: what the marks say, and the wait until what is committed is deleted everywhere.

use std::net::TcpListener;

use crieur::lsn::Lsn;
use crieur::mark::Mark;

use super::daemon::{Daemon, run_with};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Mode, RULES, Scene};

const CHANGE: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";

/// Exit code and output of `crieur status` with these arguments.
fn status(config: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let out = run_with(&[&["status"], arguments].concat(), config);
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (out.status.code(), text.concat())
}

#[tokio::test]
async fn a_writer_reads_in_the_mark_that_its_change_is_deleted_long_before_the_last_echo() {
    let scene = Scene::start().await;
    let text = scene.config().replace("echo = []", "echo = [\"8s\"]");
    let daemon = scene.daemon_with(&text.replace("[cache]\n", "[cache]\nheartbeat = \"60s\"\n")).await;
    scene.run(CHANGE).await;
    let mine: Lsn = scene.ask("SELECT pg_current_wal_lsn()::text").await.parse().expect("a position");
    let mark = settled("the mark says that it is deleted", PATIENCE, async || {
        let text: String = scene.cache.ask(&["GET", "crieur:mark:crieur"]);
        let mark: Mark = serde_json::from_str(&text).expect("a mark");
        let deleted: Lsn = mark.deleted.parse().expect("a position");
        if deleted >= mine { Ok(mark) } else { Err((text, daemon.log())) }
    })
    .await;
    assert!(mark.lsn.parse::<Lsn>().expect("a position") < mine, "its echo is out: {mark:?}");
    assert!(!scene.cache.ask::<bool>(&["EXISTS", "available_slots:1"]));
}

#[tokio::test]
async fn status_waits_until_what_is_committed_is_deleted_in_every_required_cache() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let other = Redis::start(&Server::System, &[]);
        let config = |required: bool| {
            let (url, main, other) = (scene.postgres.url(), scene.cache.url(), other.url());
            let text = format!(
                "[postgres]\nurl = \"{url}\"\n[caches.dakar]\nurl = \"{main}\"\necho = []\n\
                 [caches.vercel]\nurl = \"{other}\"\necho = []\nrequired = {required}\nhold_wal_bytes_max = 0\n{RULES}"
            );
            mode.config(&text)
        };
        let mut daemon = Daemon::start(&config(true), &[]);
        daemon.allow_failing_cache();
        daemon.wait_for_log(mode.started());
        eventually("both marks are there", PATIENCE, async || {
            [&scene.cache, &other].iter().all(|cache| cache.ask(&["EXISTS", "crieur:mark:crieur"]))
        })
        .await;
        for _ in 0..3 {
            [&scene.cache, &other].iter().for_each(|cache| cache.ask::<()>(&["SET", "available_slots:1", "old"]));
            scene.run(CHANGE).await;
            let (code, said) = status(&config(true), &["--wait", "now"]);
            assert_eq!(code, Some(0), "{said} {}", daemon.log());
            for cache in [&scene.cache, &other] {
                assert!(!cache.ask::<bool>(&["EXISTS", "available_slots:1"]), "{mode:?}: {}", daemon.log());
            }
        }
        // WAL that no commit flushes: on a server where nobody writes, the stream would pass it whenever it likes.
        scene.run("SELECT pg_logical_emit_message(false, 'another program', 'x')").await;
        let (code, said) = status(&config(true), &["--wait", "now"]);
        assert_eq!((code, said.as_str()), (Some(0), ""), "{}", daemon.log());
        let (code, said) = status(&config(true), &[]);
        assert!(code == Some(0) && said.contains("cache vercel: lsn "), "{code:?} {said}");
        other.freeze();
        scene.run(CHANGE).await;
        let (code, said) = status(&config(true), &["--wait", "now", "--timeout", "15s"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("cache vercel"), "{said}");
        let (code, said) = status(&config(false), &["--wait", "now"]);
        assert_eq!(code, Some(0), "it is not required: {said}");
        other.thaw();
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// A cache that never answers takes no more than the time that there is.
#[tokio::test]
async fn a_wait_that_ends_names_what_each_cache_lacks() {
    let scene = Scene::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = format!(
        "{}\n[caches.silent]\nurl = \"redis://{}\"\ntimeout = \"1h\"\n",
        scene.config(),
        silent.local_addr().expect("it is bound")
    );
    let (code, said) = status(&config, &["--wait", "now", "--timeout", "2s"]);
    assert_eq!(code, Some(1), "{said}");
    for words in ["cache main holds no mark", "cache silent does not answer"] {
        assert!(said.contains(words), "{said}");
    }
}
