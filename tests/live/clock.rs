//! Clocks that are set while everything works: the daemon's, and the server's. Only what a clock is for follows it.

use std::time::UNIX_EPOCH;

use super::daemon::Daemon;
use super::harness::clock::Clock;
use super::harness::postgres::Options;
use super::harness::process::Signal;
use super::harness::tls::Authority;
use super::harness::wait::{PATIENCE, eventually, settled};
use super::heartbeat::marked_at;
use super::scene::{Mode, Scene, config, set};

const HOUR: i64 = 3_600;
const BOOK: &str = "INSERT INTO visit_bookings SELECT coalesce(max(id), 0) + 1, 1 FROM visit_bookings";
const GAP: &str = "sweeping every key";
const SLOT: &str = "available_slots:1";

fn now() -> i64 {
    UNIX_EPOCH.elapsed().expect("the machine's clock is set").as_secs().try_into().expect("seconds are few")
}

/// How fast a clock is that shows this time.
fn showing(seconds: i64) -> i64 {
    seconds - now()
}

/// With marks and echoes that come soon, and limits that are shorter than the waits of these tests.
fn lively(scene: &Scene) -> String {
    let cache = "heartbeat = \"200ms\"\necho = [\"300ms\"]";
    scene.config().replace("echo = []", cache).replace("[postgres]\n", "[postgres]\nliveness_timeout = \"3s\"\n")
}

async fn goes(scene: &Scene, daemon: &Daemon) {
    settled("the key goes", PATIENCE, async || match scene.gone() {
        gone if gone == set(&[SLOT]) => Ok(()),
        gone => Err((gone, daemon.log())),
    })
    .await;
}

/// Sets a clock between a delete and its echo, and sees that the echo comes, and the next change's keys.
async fn set_between(scene: &Scene, daemon: &Daemon, clock: &Clock, seconds: i64) {
    scene.fill();
    scene.run(BOOK).await;
    goes(scene, daemon).await;
    clock.set(seconds);
    scene.confirmed(daemon).await;
    assert_eq!(scene.change(daemon, BOOK).await, set(&[SLOT]), "{seconds} s off: {}", daemon.log());
}

#[tokio::test]
async fn the_daemons_clock_may_be_set_to_anything() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let clock = Clock::right();
        let mut daemon = scene.daemon_in(&lively(&scene), &clock.env()).await;
        // Seconds as 31 and 32 bits end between these, and the year of the machine whose battery is empty.
        let times = [5 * HOUR, -5 * HOUR, showing(1), showing(1 << 31), showing(1 << 32), 0];
        for off in times {
            set_between(&scene, &daemon, &clock, off).await;
            settled("the mark's time follows", PATIENCE, async || {
                let (at, here) = (i64::try_from(marked_at(&scene)).expect("a time"), now() + off);
                if at.abs_diff(here) < 60 { Ok(()) } else { Err((at, here, daemon.log())) }
            })
            .await;
        }
        assert_eq!(daemon.log().matches(GAP).count(), 1, "the first start: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// `walsender` measures its silence by the time of day: set back, it says nothing for as long; set forward, it ends.
#[tokio::test]
async fn the_servers_clock_may_be_set_back_and_forward() {
    for mode in Mode::ALL {
        let clock = Clock::right();
        let conf = vec!["wal_sender_timeout = 5s".to_owned()];
        let scene = Scene::of(mode, Options { conf, env: clock.env(), ..Options::default() }, &[]).await;
        let mut daemon = scene.daemon_in(&lively(&scene), &[]).await;
        set_between(&scene, &daemon, &clock, -30 * HOUR).await;
        let since = marked_at(&scene);
        eventually("the link is idle past every limit", PATIENCE, async || marked_at(&scene) > since + 8).await;
        assert_eq!(daemon.log().matches(mode.started()).count(), 1, "{}", daemon.log());
        daemon.allow("id=stream.interrupted");
        set_between(&scene, &daemon, &clock, 0).await;
        // A backlog that is said to be hours late, more than a page of the outbox.
        daemon.signal(Signal::Stop);
        scene.fill();
        scene.run(&format!("DO $$ BEGIN FOR i IN 1..2000 LOOP {BOOK}; END LOOP; END $$")).await;
        clock.set(5 * HOUR);
        daemon.signal(Signal::Cont);
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&[SLOT]), "{}", daemon.log());
        assert_eq!(scene.change(&daemon, BOOK).await, set(&[SLOT]), "{}", daemon.log());
        assert_eq!(daemon.log().matches(GAP).count(), 1, "the first start: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The lease of the outbox ends by the server's clock.
#[tokio::test]
async fn the_lease_of_a_dead_daemon_ends_whatever_becomes_of_the_servers_clock() {
    let clock = Clock::right();
    let scene = Scene::of(Mode::Outbox, Options { env: clock.env(), ..Options::default() }, &[]).await;
    let mut daemons = [scene.daemon().await, Daemon::start(&scene.config(), &[])];
    daemons[1].wait_for_log("id=stream.standing_by");
    // Either may have it then.
    daemons.iter_mut().for_each(|daemon| daemon.allow("another daemon has taken over the outbox"));
    clock.set(5 * HOUR);
    assert_eq!(scene.change(&daemons[0], BOOK).await, set(&[SLOT]));
    let owner = scene.ask("SELECT split_part(owner, '@', 1) FROM crieur.progress WHERE slot = 'crieur'").await;
    let [first, second] = daemons;
    let (mut owner, mut other) = if first.pid().to_string() == owner { (first, second) } else { (second, first) };
    let before = other.log().matches(Mode::Outbox.started()).count();
    // It dies without giving the lease back, which ends in five hours by the clock from then on.
    owner.signal(Signal::Stop);
    clock.set(0);
    owner.kill();
    scene.fill();
    scene.run(BOOK).await;
    other.wait_for_logs(Mode::Outbox.started(), before + 1);
    scene.confirmed(&other).await;
    assert_eq!(scene.gone(), set(&[SLOT]), "{}", other.log());
    // Rows go, whatever a recorder left that died an hour before.
    scene
        .run("INSERT INTO crieur.progress (slot, owner_until) VALUES ('record_1', clock_timestamp() + '1 hour')")
        .await;
    assert_eq!(scene.change(&other, BOOK).await, set(&[SLOT]), "{}", other.log());
    assert_eq!(other.stop(), Some(0));
}

/// The certificate is valid from 1975 on; the clock of the machine whose battery is empty says 1970.
#[tokio::test]
async fn a_certificate_that_the_clock_calls_invalid_is_waited_for() {
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let conf = vec![
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", server.certificate.display()),
        format!("ssl_key_file = '{}'", server.key.display()),
    ];
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options { conf: conf.clone(), ..Options::default() }, &[]).await;
        let url = scene.postgres.url().replace("127.0.0.1", "localhost");
        let root = format!("sslmode=verify-full&sslrootcert={}", authority.certificate().display());
        let config = mode.config(&config(&format!("{url}?{root}"), &scene.cache.url()));
        let clock = Clock::right();
        let mut daemon = scene.daemon_in(&config, &clock.env()).await;
        for text in ["id=stream.interrupted", "failed to take a snapshot", "failed to watch the server"] {
            daemon.allow(text);
        }
        clock.set(showing(HOUR));
        assert_eq!(scene.change(&daemon, BOOK).await, set(&[SLOT]), "what is connected stays: {}", daemon.log());
        scene.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()").await;
        eventually("the certificate is refused", PATIENCE, async || {
            scene.postgres.log().contains("could not accept SSL connection")
        })
        .await;
        clock.set(0);
        daemon.wait_for_logs(mode.started(), 2);
        assert_eq!(scene.change(&daemon, BOOK).await, set(&[SLOT]), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}
