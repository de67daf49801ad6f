//! A cache behind Sentinels: whoever a majority of them names is the primary, and nobody else is given a mark.

use std::time::Duration;

use super::daemon::{self, Daemon};
use super::harness::redis::{Redis, Server};
use super::harness::sentinel::{How, NAME, Watched, sentinel};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, config};

const MARK: &str = "crieur:mark:crieur";
const TURNED: &str = "id=sentinel.turned";

/// A database, a watched pair, and a daemon between them.
struct Stage {
    scene: Scene,
    watched: Watched,
    daemon: Daemon,
    /// Bookings so far: each deletes the key of its own property.
    booked: u32,
}

impl Stage {
    async fn start(server: Server) -> Stage {
        Stage::with(server, &[], &[], "", "").await
    }

    /// With further lines of the servers, of the Sentinels, of the address and of the cache's configuration.
    async fn with(server: Server, conf: &[&str], of_sentinels: &[&str], behind: &str, settings: &str) -> Stage {
        let (scene, watched) = (Scene::start().await, Watched::with(server, conf, of_sentinels));
        watched.settle();
        let config = config(&scene.postgres.url(), &format!("{}{behind}", watched.url()));
        let config = config.replace("echo = []\n", &format!("echo = []\n{settings}"));
        let mut daemon = Daemon::start(&config, &[]);
        daemon.allow_failing_cache();
        let mut stage = Stage { scene, watched, daemon, booked: 0 };
        settled("the mark is written", PATIENCE, async || match stage.mark(0) {
            Some(_) => Ok(()),
            None => Err(stage.daemon.log()),
        })
        .await;
        stage.confirmed().await;
        stage.book().await;
        stage.confirmed().await;
        stage
    }

    fn mark(&self, server: usize) -> Option<String> {
        let mut connection = connection(&self.watched.servers[server])?;
        redis::cmd("GET").arg(MARK).query(&mut connection).ok()?
    }

    /// The position that a mark says.
    fn marked(&self, server: usize) -> Option<crieur::lsn::Lsn> {
        let mark: serde_json::Value = serde_json::from_str(&self.mark(server)?).ok()?;
        mark["lsn"].as_str()?.parse().ok()
    }

    /// Waits until everything that is committed by now is confirmed.
    async fn confirmed(&self) {
        self.scene.confirmed(&self.daemon).await;
    }

    /// A change of one key of its own; says which.
    async fn book(&mut self) -> String {
        self.booked += 1;
        let booked = self.booked;
        self.scene.run(&format!("INSERT INTO visit_bookings VALUES ({booked}, {booked})")).await;
        format!("available_slots:{booked}")
    }

    /// A value for the key of each of the next bookings, in both servers.
    fn fill(&self, bookings: u32, primary: usize) {
        let mut pipeline = redis::pipe();
        for booking in self.booked + 1..=self.booked + bookings {
            pipeline.cmd("SET").arg(format!("available_slots:{booking}")).arg("old").ignore();
        }
        let mut connection = self.watched.servers[primary].connection();
        let () = pipeline.query(&mut connection).expect("it is writable");
        let followed: i64 = redis::cmd("WAIT").arg(1).arg(30_000).query(&mut connection).expect("it answers");
        assert_eq!(followed, 1, "the replica has the values");
    }

    /// Waits until none of these keys is left.
    async fn gone(&self, server: usize, keys: &[String]) {
        settled("no key is stale", PATIENCE, async || match left(&self.watched.servers[server], keys) {
            0 => Ok(()),
            left => Err((left, self.daemon.log())),
        })
        .await;
    }
}

fn connection(server: &Redis) -> Option<redis::Connection> {
    redis::Client::open(server.url()).ok()?.get_connection_with_timeout(Duration::from_secs(5)).ok()
}

/// How many of these keys are there.
fn left(server: &Redis, keys: &[String]) -> usize {
    let words: Vec<&str> = std::iter::once("EXISTS").chain(keys.iter().map(String::as_str)).collect();
    server.ask(&words)
}

fn role(server: &Redis) -> String {
    let parts: Vec<redis::Value> = server.ask(&["ROLE"]);
    match parts.first() {
        Some(redis::Value::BulkString(role)) => String::from_utf8_lossy(role).into_owned(),
        other => panic!("no role: {other:?}"),
    }
}

/// Bookings under a failover that was asked for: the old primary acknowledges deletes for ten seconds, and all of them
/// are lost. What Sentinels name counts as soon as a majority names it, and the old one gets no mark from then on.
async fn a_failover_that_was_asked_for(server: Server) {
    let mut stage = Stage::start(server).await;
    stage.fill(60, 0);
    stage.watched.fail_over(How::Asked, 0);
    let mut keys = Vec::new();
    while !stage.daemon.log().contains(TURNED) {
        assert!(keys.len() < 50, "nobody names another primary:\n{}", stage.daemon.log());
        keys.push(stage.book().await);
        tokio::time::sleep(Duration::from_millis(50)).await; // A load of twenty a second, as of a busy site.
    }
    // The old one answers as if nothing had happened, and is asked no more.
    assert_eq!(role(&stage.watched.servers[0]), "master", "the old primary is still there");
    stage.gone(1, &keys).await;
    let deposed = stage.mark(0);
    keys.push(stage.book().await);
    stage.confirmed().await;
    stage.gone(1, &keys).await;
    assert!(stage.marked(1) > stage.marked(0), "the mark is at the new primary");
    assert_eq!(stage.mark(0), deposed, "the deposed primary gets no mark");
    assert_eq!(role(&stage.watched.servers[0]), "master", "all of it happened before the old primary was told");
    assert_eq!(stage.watched.primary(), 1);
    assert!(!stage.daemon.log().contains("id=gap.went_back"), "the ring reaches back:\n{}", stage.daemon.log());
    assert_eq!(stage.daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_failover_of_redis_that_was_asked_for_loses_no_delete() {
    a_failover_that_was_asked_for(Server::System).await;
}

#[tokio::test]
async fn a_failover_of_valkey_that_was_asked_for_loses_no_delete() {
    a_failover_that_was_asked_for(Server::Valkey9).await;
}

#[tokio::test]
async fn a_coordinated_failover_loses_no_delete() {
    let mut stage = Stage::start(Server::Valkey9).await;
    stage.fill(60, 0);
    stage.watched.fail_over(How::Coordinated, 0);
    let mut keys = Vec::new();
    while !stage.daemon.log().contains(TURNED) {
        assert!(keys.len() < 50, "nobody names another primary:\n{}", stage.daemon.log());
        keys.push(stage.book().await);
        tokio::time::sleep(Duration::from_millis(50)).await; // A load of twenty a second, as of a busy site.
    }
    stage.gone(1, &keys).await;
    stage.confirmed().await;
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// What the promoted replica lacks goes again, and nothing else: the mark that it has is one that the ring knows.
async fn a_killed_primary(server: Server) {
    let mut stage = Stage::start(server).await;
    stage.fill(60, 0);
    // The replica is cut off, and misses what is deleted and confirmed meanwhile.
    stage.watched.servers[1].freeze();
    let _: i64 = stage.watched.servers[0].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
    let mut keys = vec![stage.book().await, stage.book().await];
    stage.confirmed().await;
    stage.watched.fail_over(How::Killed, 0);
    stage.watched.servers[1].thaw();
    assert_eq!(left(&stage.watched.servers[1], &keys), 2, "the replica lacks the last deletes");
    for _ in 0..10 {
        keys.push(stage.book().await);
    }
    stage.daemon.wait_for_log(TURNED);
    stage.gone(1, &keys).await;
    stage.confirmed().await;
    let log = stage.daemon.log();
    assert!(log.contains("id=gap.replayed") && !log.contains("id=gap.went_back"), "{log}");
    // The others stay: nothing was swept.
    assert_eq!(left(&stage.watched.servers[1], &["available_slots:60".to_owned()]), 1);
    assert_eq!(stage.daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_redis_primary_that_is_killed_is_followed_by_its_replica() {
    a_killed_primary(Server::System).await;
}

#[tokio::test]
async fn a_valkey_primary_that_is_killed_is_followed_by_its_replica() {
    a_killed_primary(Server::Valkey9).await;
}

/// Without Sentinels there is no failover: deletes and marks go on, and it is said.
#[tokio::test]
async fn deletes_and_marks_go_on_without_sentinels() {
    let mut stage = Stage::with(Server::System, &[], &[], "", "heartbeat = \"200ms\"\n").await;
    stage.daemon.allow("id=sentinel.silent");
    stage.fill(5, 0);
    stage.watched.sentinels.iter_mut().for_each(Redis::kill);
    stage.daemon.wait_for_log("id=sentinel.silent");
    let keys = [stage.book().await, stage.book().await];
    stage.confirmed().await;
    assert_eq!(left(&stage.watched.servers[0], &keys), 0);
    assert!(!stage.daemon.log().contains("id=cache.failing"), "{}", stage.daemon.log());
    // A connection that is made anew leads to the primary that was named last.
    let () = stage.watched.servers[0].ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    let key = stage.book().await;
    stage.confirmed().await;
    stage.gone(0, &[key]).await;
    for sentinel in &mut stage.watched.sentinels {
        sentinel.restart(super::harness::redis::Data::Lost);
    }
    stage.daemon.wait_for_log("id=sentinel.answers_again");
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// A Sentinel that is stale, or lies, is one voice of three.
#[tokio::test]
async fn a_sentinel_that_names_another_server_moves_nothing() {
    let (scene, watched) = (Scene::start().await, Watched::start(Server::System, &[]));
    watched.settle();
    let other = Redis::start(&Server::System, &[]);
    let liar = sentinel(Server::System, other.port(), &[]);
    let hosts = [liar.port(), watched.sentinels[1].port(), watched.sentinels[2].port()];
    let hosts = hosts.map(|port| format!("127.0.0.1:{port}")).join(",");
    let config = config(&scene.postgres.url(), &format!("redis+sentinel://{hosts}/{NAME}"));
    let daemon = Daemon::start(&config, &[]);
    let mut stage = Stage { scene, watched, daemon, booked: 0 };
    eventually("the mark is written", PATIENCE, async || stage.mark(0).is_some()).await;
    stage.fill(3, 0);
    let keys = [stage.book().await, stage.book().await];
    stage.confirmed().await;
    stage.gone(0, &keys).await;
    assert!(!other.ask::<bool>(&["EXISTS", MARK]), "the liar's server is nobody's cache");
    assert!(!stage.daemon.log().contains(TURNED), "{}", stage.daemon.log());
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// What the Sentinels name says that it is a replica: it is asked for until it is a primary.
#[tokio::test]
async fn a_server_that_is_no_primary_is_asked_for_again() {
    let (scene, primary) = (Scene::start().await, Redis::start(&Server::System, &[]));
    let replica_of = format!("replicaof 127.0.0.1 {}", primary.port());
    let replica = Redis::start(&Server::System, &[&replica_of]);
    let patient = ["sentinel down-after-milliseconds m 600000"];
    let sentinels: Vec<Redis> = (0..3).map(|_| sentinel(Server::System, replica.port(), &patient)).collect();
    let watched = Watched { servers: [replica, primary], sentinels };
    let mut daemon = Daemon::start(&config(&scene.postgres.url(), &watched.url()), &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log("says that it is no primary (ROLE)");
    assert!(daemon.log().contains(&format!("127.0.0.1:{}", watched.servers[0].port())), "{}", daemon.log());
    let () = watched.servers[0].ask(&["REPLICAOF", "NO", "ONE"]);
    daemon.wait_for_log("id=cache.works_again");
    let mut stage = Stage { scene, watched, daemon, booked: 0 };
    eventually("the mark is written", PATIENCE, async || stage.mark(0).is_some()).await;
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// A primary that hangs is left as soon as another one is named, with what was under way.
#[tokio::test]
async fn a_primary_that_hangs_is_left() {
    let mut stage = Stage::with(Server::System, &[], &[], "", "timeout = \"30s\"\n").await;
    stage.fill(20, 0);
    stage.watched.servers[0].freeze();
    let keys = [stage.book().await, stage.book().await];
    stage.daemon.wait_for_log(TURNED);
    stage.gone(1, &keys).await;
    stage.confirmed().await;
    // It comes back as a replica of the other, and nobody has written to it.
    stage.watched.servers[0].thaw();
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// The primary refuses writes while it has too few replicas: keys go again.
#[tokio::test]
async fn too_few_replicas_are_weather() {
    let mut stage = Stage::with(Server::System, &[], &[], "", "").await;
    stage.fill(5, 0);
    let () = stage.watched.servers[0].ask(&["CONFIG", "SET", "min-replicas-to-write", "2"]);
    let key = stage.book().await;
    stage.daemon.wait_for_log("NOREPLICAS");
    let () = stage.watched.servers[0].ask(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    stage.gone(0, &[key]).await;
    stage.confirmed().await;
    assert_eq!(stage.daemon.stop(), Some(0));
}

/// Sentinels have a log-in of their own.
#[tokio::test]
async fn sentinels_and_servers_have_their_own_passwords() {
    let servers = ["requirepass cache-secret", "masterauth cache-secret"];
    let sentinels =
        ["requirepass sentinel-secret", "sentinel sentinel-pass sentinel-secret", "sentinel auth-pass m cache-secret"];
    let scene = Scene::start().await;
    let watched = Watched::with(Server::System, &servers, &sentinels);
    let hosts: Vec<String> = watched.sentinels.iter().map(|each| format!("127.0.0.1:{}", each.port())).collect();
    let address = |login: &str, query: &str| format!("redis+sentinel://{login}{}/{NAME}{query}", hosts.join(","));
    for (address, exit, said) in [
        (address(":cache-secret@", "?sentinel_password=sentinel-secret"), 0, "ok "),
        (address(":cache-secret@", ""), 1, "sentinel_password"),
        (address("", "?sentinel_password=sentinel-secret"), 1, "redis://:PASSWORD@HOST"),
    ] {
        let out = daemon::run("check", &config(&scene.postgres.url(), &address), &[]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(text.contains(said) && !text.contains("-secret"), "{address}: {text}");
        assert_eq!(out.status.code(), Some(exit), "{address}: {text}");
    }
}
