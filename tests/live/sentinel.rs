//! A cache behind Sentinels: whoever a majority of them names is the primary, and nobody else is given a mark.

use std::time::Duration;

use super::daemon::{self, Daemon};
use super::harness::redis::{Redis, Server};
use super::harness::sentinel::{How, NAME, Watched, sentinel};
use super::harness::wait::{PATIENCE, eventually, settled};
use super::scene::{Scene, config};

const MARK: &str = "crieur:mark:crieur";
const TURNED: &str = "id=sentinel.turned";

/// Bookings until another primary is named, at twenty a second: half a minute. The keys of all of them are filled before.
const BOOKINGS_MAX: usize = 600;
const FILLED: u32 = 700;

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
    stage.fill(FILLED, 0);
    stage.watched.fail_over(How::Asked, 0);
    let mut keys = Vec::new();
    while !stage.daemon.log().contains(TURNED) {
        assert!(keys.len() < BOOKINGS_MAX, "nobody names another primary:\n{}", stage.daemon.log());
        keys.push(stage.book().await);
        tokio::time::sleep(Duration::from_millis(50)).await; // A load of twenty a second, as of a busy site.
    }
    // They would tell the old one within ten seconds, whatever this machine does meanwhile.
    stage.daemon.allow("id=sentinel.silent");
    stage.watched.sentinels.iter().for_each(Redis::freeze);
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
    stage.watched.sentinels.iter().for_each(Redis::thaw);
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
    stage.fill(FILLED, 0);
    stage.watched.fail_over(How::Coordinated, 0);
    let mut keys = Vec::new();
    while !stage.daemon.log().contains(TURNED) {
        assert!(keys.len() < BOOKINGS_MAX, "nobody names another primary:\n{}", stage.daemon.log());
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
    let admin = super::admin::address();
    let settings = format!("heartbeat = \"200ms\"\n[admin]\nlisten = \"{admin}\"\n");
    let mut stage = Stage::with(Server::System, &[], &[], "", &settings).await;
    stage.daemon.allow("id=sentinel.silent");
    super::admin::shows(admin, "crieur_cache_sentinels_up{cache=\"main\"} 1").await;
    stage.fill(5, 0);
    stage.watched.sentinels.iter_mut().for_each(Redis::kill);
    stage.daemon.wait_for_log("id=sentinel.silent");
    super::admin::shows(admin, "crieur_cache_sentinels_up{cache=\"main\"} 0").await;
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

/// What is wrong between an address and the servers behind it is said with the way out, by `check` as by the daemon.
#[tokio::test]
async fn check_says_what_sentinels_say_and_what_is_wrong_with_them() {
    let (scene, mut watched) = (Scene::start().await, Watched::start(Server::System, &[]));
    watched.settle();
    let [one, two, three] = [0, 1, 2].map(|at| format!("127.0.0.1:{}", watched.sentinels[at].port()));
    let primary = format!("127.0.0.1:{}", watched.servers[0].port());
    let check = |address: &str, settings: &str| {
        let config = config(&scene.postgres.url(), address).replace("echo = []\n", &format!("echo = []\n{settings}"));
        let out = daemon::run("check", &config, &[]);
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
    };
    let says = |address: &str, code: i32, words: &[&str]| {
        let (seen, text) = check(address, "");
        assert_eq!(seen, Some(code), "{address}: {text}");
        words.iter().for_each(|words| assert!(text.contains(words), "{address}: {words} in {text}"));
    };
    let named = format!("the primary \"{NAME}\" is at {primary}");
    says(&watched.url(), 0, &[&named, "3 of 3 Sentinels answer, quorum 2"]);
    says(&format!("redis+sentinel://{one}/{NAME}"), 0, &[&named, "the Sentinels are 3, and the address names 1"]);
    says(&format!("redis+sentinel://{one},{two}/nobody"), 1, &["know no primary \"nobody\"", "know these names: m."]);
    says(&format!("redis+sentinel://{primary}/{NAME}"), 1, &["is no Sentinel", "redis://host:port"]);
    says(&format!("redis://{one}"), 1, &["a Sentinel, which holds no keys", "redis+sentinel://host:port"]);
    says(&format!("redis+sentinel://{one}"), 78, &["does not name the primary behind its Sentinels"]);
    // The servers know themselves by an address that leads nowhere from here: the map does.
    let proxy = super::harness::proxy::Proxy::start(watched.servers[0].port());
    let nodes = format!("nodes = {{ \"{primary}\" = \"127.0.0.1:{}\" }}\n", proxy.port());
    let (code, text) = check(&watched.url(), &nodes);
    assert!(code == Some(0) && proxy.accepted() > 0, "{text}");
    watched.sentinels[2].kill();
    says(&watched.url(), 0, &["2 of 3 Sentinels answer", &three]);
    // Nobody takes the place of a primary that is gone while the Sentinels are patient.
    for at in [0, 1] {
        let _: String = watched.sentinels[at].ask(&["SENTINEL", "SET", NAME, "down-after-milliseconds", "600000"]);
    }
    watched.servers[0].kill();
    says(&watched.url(), 1, &["cannot connect", &format!("nodes = {{ \"{primary}\" = \"host:port\" }}")]);
    watched.sentinels[1].kill();
    let away = "start the Sentinel, or correct host and port";
    says(&watched.url(), 1, &["fewer than a majority of 3 Sentinels answer", &two, away]);
}

/// A replica of the cache that readers read from, behind a link that is late: a reader who takes the mark and the value in
/// one pipeline from it sees every delete up to that mark.
#[tokio::test]
async fn a_value_of_a_late_replica_is_never_older_than_the_mark_beside_it() {
    let scene = Scene::start().await;
    let link = super::harness::proxy::Proxy::start(scene.cache.port());
    let replica = Redis::start(&Server::System, &[&format!("replicaof 127.0.0.1 {}", link.port())]);
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    link.delay(Duration::from_millis(150));
    let mut reader = replica.connection();
    let mut primary = scene.keys();
    let (mut judged, mut late) = (0, 0);
    for round in 1..=40 {
        // The value that the change makes old, and the position of the change.
        let key = format!("available_slots:{}", 1000 + round);
        let () = redis::cmd("SET").arg(&key).arg("old").query(&mut primary).expect("it is writable");
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({0}, {0})", 1000 + round)).await;
        let changed: crieur::lsn::Lsn =
            scene.ask("SELECT pg_current_wal_lsn()::text").await.parse().expect("a position");
        let (mark, value): (Option<String>, Option<String>) =
            redis::pipe().cmd("GET").arg(MARK).cmd("GET").arg(&key).query(&mut reader).expect("it answers");
        let marked = mark.as_deref().and_then(position);
        if marked >= Some(changed) {
            judged += 1;
            assert_eq!(value, None, "the mark says {marked:?}, and the change was at {changed}");
        } else {
            late += 1;
        }
        // Wait until the replica's own mark has passed the change: by then the value must be gone there.
        let value = settled("the mark of the replica passes the change", PATIENCE, async || {
            let (mark, value): (Option<String>, Option<String>) =
                redis::pipe().cmd("GET").arg(MARK).cmd("GET").arg(&key).query(&mut reader).expect("it answers");
            match mark.as_deref().and_then(position) {
                marked if marked >= Some(changed) => Ok(value),
                marked => Err((marked, changed, daemon.log())),
            }
        })
        .await;
        assert_eq!(value, None, "older than the mark beside it");
        judged += 1;
    }
    assert!(judged >= 40 && late > 0, "the replica was late {late} times, and was judged {judged} times");
    assert_eq!(daemon.stop(), Some(0));
}

/// The position that a mark's text says.
fn position(mark: &str) -> Option<crieur::lsn::Lsn> {
    let mark: serde_json::Value = serde_json::from_str(mark).ok()?;
    mark["lsn"].as_str()?.parse().ok()
}

/// The figures of docs/operate/failover.md: how long a failover leaves readers of the new primary without right answers.
///
/// A reader follows the Sentinels as a client does. From the beginning of the failover on, keys are changed, ten a
/// second; the time of a key is from its commit, or from when the readers' primary became another one, until it is
/// gone where they read.
#[tokio::test]
#[ignore = "figures of docs/operate/failover.md"]
async fn how_long_a_failover_leaves_old_values() {
    let runs: usize = std::env::var("RUNS").map_or(5, |text| text.parse().expect("RUNS is a number"));
    for (server, how) in [
        (Server::System, How::Asked),
        (Server::Valkey9, How::Asked),
        (Server::Valkey9, How::Coordinated),
        (Server::System, How::Killed),
        (Server::Valkey9, How::Killed),
    ] {
        let (mut stale, mut named) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let (turn, worst) = measured(server, how).await;
            named.push(turn);
            stale.push(worst);
        }
        println!("{server:?} {how:?}: named after {}, old values for at most {}", spread(named), spread(stale));
    }
}

/// The median, the least and the most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let seconds = |at: usize| times[at].as_secs_f64();
    format!("{:.2} s ({:.2} to {:.2})", seconds(times.len() / 2), seconds(0), seconds(times.len() - 1))
}

/// When a majority named the new primary, and the longest time of a key.
async fn measured(server: Server, how: How) -> (Duration, Duration) {
    let mut stage = Stage::start(server).await;
    stage.fill(200, 0);
    let began = std::time::Instant::now();
    stage.watched.fail_over(how, 0);
    let (mut open, mut named, mut worst) = (Vec::new(), None, Duration::ZERO);
    let mut next = began;
    while named.is_none_or(|named: std::time::Instant| named.elapsed() < Duration::from_secs(14)) || !open.is_empty() {
        if next.elapsed() > Duration::ZERO && stage.booked < 200 {
            open.push((stage.book().await, std::time::Instant::now()));
            next += Duration::from_millis(100);
        }
        if named.is_none() && stage.watched.named() == Some(stage.watched.servers[1].port()) {
            named = Some(std::time::Instant::now());
        }
        if let Some(named) = named {
            let mut connection = stage.watched.servers[1].connection();
            open.retain(|(key, committed): &(String, std::time::Instant)| {
                let is_there: bool = redis::cmd("EXISTS").arg(key).query(&mut connection).expect("it answers");
                if !is_there {
                    worst = worst.max((*committed).max(named).elapsed());
                }
                is_there
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(stage.daemon.stop(), Some(0));
    (named.expect("the loop ends behind it") - began, worst)
}

/// The Sentinels speak TLS, with an authority of their own, and the cache does not.
#[tokio::test]
async fn sentinels_have_their_own_tls() {
    let (scene, authority) = (Scene::start().await, super::harness::tls::Authority::new());
    let pair = authority.issue("127.0.0.1");
    let ports = [(); 3].map(|()| super::harness::process::free_port());
    let sentinels = ports.map(|port| {
        let lines = [
            format!("tls-port {port}"),
            format!("tls-cert-file {}", pair.certificate.display()),
            format!("tls-key-file {}", pair.key.display()),
            format!("tls-ca-cert-file {}", authority.certificate().display()),
            "tls-auth-clients no".to_owned(),
        ];
        sentinel(Server::System, scene.cache.port(), &lines.each_ref().map(String::as_str))
    });
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let settings = format!("sentinel_tls = \"yes\"\nsentinel_tls_ca = \"{}\"\n", authority.certificate().display());
    let config = config(&scene.postgres.url(), &format!("redis+sentinel://{hosts}/{NAME}"));
    for (settings, code, words) in
        [(settings.as_str(), 0, "3 of 3 Sentinels answer"), ("sentinel_tls = \"yes\"\n", 1, "certificate")]
    {
        let out = daemon::run("check", &config.replace("echo = []\n", &format!("echo = []\n{settings}")), &[]);
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(code) && text.contains(words), "{settings}: {text}");
    }
    drop(sentinels);
}
