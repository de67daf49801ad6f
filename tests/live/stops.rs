//! SIGTERM, whatever the daemon waits for: it ends within `limits.stop_timeout`, with 0, and has confirmed nothing that
//! was not done.

use super::daemon::{Daemon, STARTED};
use super::harness::postgres::Shutdown;
use super::harness::proxy::{Direction, Proxy};
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Scene, config};

/// Every other limit is longer than a test is patient: only that of a stop can end a wait.
const PATIENT: &str = "connect_timeout = \"5m\"\nliveness_timeout = \"5m\"\nlookup_timeout = \"5m\"\n";

/// What it is doing when it hears the signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Sweeping,
    WaitingForTheCache,
    StandingBy,
    CreatingItsSlot,
    WaitingForASilentPostgres,
    WaitingForPostgres,
}

const TRUNCATE: &str = "INSERT INTO visits VALUES (1); TRUNCATE visits";

#[tokio::test]
async fn a_stop_ends_in_time_whatever_is_waited_for() {
    use Doing::*;
    let mut scene = Scene::start().await;
    let (postgres, cache) = (Proxy::start(scene.postgres.port()), Proxy::start(scene.cache.port()));
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port());
    let limits = "[limits]\nstop_timeout = \"1s\"\n";
    let through = config(&url, &format!("redis://127.0.0.1:{}", cache.port())) + limits;
    let through = through.replace("[postgres]\n", &format!("[postgres]\n{PATIENT}"));
    let through = through.replace("[cache]\n", "[cache]\ntimeout = \"5m\"\n");
    for doing in
        [Sweeping, WaitingForTheCache, StandingBy, CreatingItsSlot, WaitingForASilentPostgres, WaitingForPostgres]
    {
        let mut other = None;
        let mut open: Option<tokio_postgres::Client> = None;
        if doing == StandingBy {
            other = Some(scene.daemon().await);
        }
        if doing == CreatingItsSlot {
            scene.run("SELECT pg_drop_replication_slot('crieur')").await;
            let client = scene.postgres.client().await;
            client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("valid SQL");
            open = Some(client);
        }
        let mut daemon = Daemon::start(&through, &[]);
        daemon.allow("failed to");
        daemon.allow("id=stream.interrupted");
        daemon.allow("id=slot.anew");
        match doing {
            StandingBy => daemon.wait_for_log("id=stream.standing_by"),
            CreatingItsSlot => daemon.wait_for_log("id=slot.anew"),
            Sweeping | WaitingForTheCache | WaitingForASilentPostgres | WaitingForPostgres => {
                daemon.wait_for_log(STARTED);
                scene.confirmed(&daemon).await;
            }
        }
        match doing {
            Sweeping => {
                cache.stall(Direction::Answers);
                scene.run(TRUNCATE).await;
                received(&scene).await;
            }
            WaitingForTheCache => {
                cache.refuse();
                scene.run("INSERT INTO visit_bookings VALUES (1, 1)").await;
                daemon.wait_for_log("failed to");
            }
            StandingBy | CreatingItsSlot => {}
            WaitingForASilentPostgres => {
                daemon.allow("id=run.last_status");
                postgres.stall(Direction::Answers);
            }
            WaitingForPostgres => {
                scene.postgres.stop(Shutdown::Fast);
                daemon.wait_for_log("id=stream.interrupted");
            }
        }
        assert_eq!(daemon.stop(), Some(0), "{doing:?}");
        cache.heal();
        postgres.heal();
        if let Some(open) = open {
            open.batch_execute("ROLLBACK").await.expect("it is open");
        }
        if let Some(mut other) = other {
            assert_eq!(other.stop(), Some(0));
        }
    }
}

async fn received(scene: &Scene) {
    let end = scene.ask("SELECT pg_current_wal_lsn()::text").await;
    let sent = format!("SELECT (bool_or(write_lsn >= '{end}'))::text FROM pg_stat_replication");
    eventually("the change is received", PATIENCE, async || scene.ask(&sent).await == "true").await;
    let ahead = format!("SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots");
    assert_eq!(scene.ask(&ahead).await, "false", "the cache answers nothing");
}
