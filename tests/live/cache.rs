//! Every way to reach the cache, the smallest user that will do, every supported server, and caches that refuse.

use std::fs;
use std::path::Path;

use super::daemon::Daemon;
use super::harness::postgres;
use super::harness::process;
use super::harness::redis::{Redis, Server};
use super::harness::tls::Authority;
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Scene, config, set};

fn ask(scene: &Scene, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    let _: redis::Value =
        command.query(&mut scene.cache.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"));
}

/// An exact delete, a lookup, and a sweep, with what each must leave.
async fn delivers(scene: &Scene, config: &str) {
    let mut daemon = scene.daemon_with(config).await;
    scene.run("TRUNCATE visit_bookings, rental_payments").await;
    scene.confirmed(&daemon).await;
    let booked = "INSERT INTO visit_bookings VALUES (1, 1)";
    assert_eq!(scene.change(&daemon, booked).await, set(&["available_slots:1"]), "{config}");
    let paid = "INSERT INTO rental_payments VALUES (1, 71, 1)";
    assert_eq!(scene.change(&daemon, paid).await, set(&["payments:lease:71", "dashboard:41"]), "{config}");
    assert_eq!(scene.change(&daemon, "TRUNCATE visits").await, set(&["visits:1", "visits:150"]), "{config}");
    assert_eq!(daemon.stop(), Some(0), "{config}");
}

#[tokio::test]
async fn tcp_tls_unix_sockets_databases_and_the_smallest_user() {
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let sockets = tempfile::tempdir().expect("the temporary directory is writable");
    let socket = sockets.path().join("cache.sock");
    let tls_port = process::free_port();
    let conf = [
        format!("tls-port {tls_port}"),
        format!("tls-cert-file {}", server.certificate.display()),
        format!("tls-key-file {}", server.key.display()),
        format!("tls-ca-cert-file {}", authority.certificate().display()),
        "tls-auth-clients no".to_owned(),
        format!("unixsocket {}", socket.display()),
    ];
    let conf: Vec<&str> = conf.iter().map(String::as_str).collect();
    let mut scene = Scene::with(postgres::Options::default(), &conf).await;
    ask(
        &scene,
        &[
            "ACL",
            "SETUSER",
            "least",
            "on",
            ">p w@1",
            "resetkeys",
            "~*",
            "-@all",
            "+unlink",
            "+scan",
            "+get",
            "+set",
            "+eval",
        ],
    );

    let (port, socket) = (scene.cache.port(), socket.display());
    let with = |url: &str| config(&scene.postgres.url(), url);
    let trusted = |url: &str| {
        let line = format!("tls_ca = \"{}\"\necho = []", authority.certificate().display());
        with(url).replace("echo = []", &line)
    };
    let cases = [
        (0, with(&format!("redis://localhost:{port}"))),
        (3, with(&format!("redis://127.0.0.1:{port}/3"))),
        (0, trusted(&format!("rediss://localhost:{tls_port}"))),
        (0, with(&format!("unix://{socket}"))),
        (2, with(&format!("unix://{socket}?db=2"))),
        (0, with(&format!("redis://least:p%20w%401@127.0.0.1:{port}"))),
        (0, trusted(&format!("rediss://least:p%20w%401@localhost:{tls_port}/0"))),
    ];
    for (database, config) in cases {
        scene.database = database;
        delivers(&scene, &config).await;
    }

    // A certificate of an authority that nobody named, and a name that is not in it.
    for config in [with(&format!("rediss://localhost:{tls_port}")), trusted(&format!("rediss://127.0.0.1:{tls_port}"))]
    {
        let mut daemon = Daemon::start(&config, &[]);
        daemon.allow("the server's certificate");
        daemon.wait_for_log("the server's certificate");
        daemon.kill();
    }
}

#[tokio::test]
async fn every_supported_server() {
    let mut scene = Scene::start().await;
    for server in Server::ALL {
        scene.cache = Redis::start(server, &[]);
        delivers(&scene, &scene.config()).await;
    }
}

/// What a cache does so that it refuses, what the daemon then says, and what mends it.
const REFUSALS: &[(&[&str], &str, &[&str])] = &[
    (&["REPLICAOF", "127.0.0.1", "1"], "READONLY", &["REPLICAOF", "NO", "ONE"]),
    (&["ACL", "SETUSER", "ann", "-unlink"], "NOPERM", &["ACL", "SETUSER", "ann", "+unlink"]),
    (&["ACL", "SETUSER", "ann", "resetkeys", "~crieur:*"], "NOPERM", &["ACL", "SETUSER", "ann", "~*"]),
    (&["CONFIG", "SET", "maxmemory", "1"], "OOM", &["CONFIG", "SET", "maxmemory", "0"]),
];

#[tokio::test]
async fn a_cache_that_refuses_gets_the_same_keys_until_it_takes_them() {
    let scene = Scene::start().await;
    ask(&scene, &["ACL", "SETUSER", "ann", "on", ">pw", "~*", "-@all", "+unlink", "+scan", "+get", "+set", "+eval"]);
    let url = format!("redis://ann:pw@127.0.0.1:{}", scene.cache.port());
    let mut daemon = scene.daemon_with(&config(&scene.postgres.url(), &url)).await;
    daemon.allow_failing_cache();
    daemon.allow("id=mark.full");
    for (booking, (refuse, says, mend)) in REFUSALS.iter().enumerate() {
        scene.fill();
        scene.confirmed(&daemon).await;
        let before = daemon.log().len();
        ask(&scene, refuse);
        scene.run(&format!("INSERT INTO visit_bookings VALUES ({booking}, 1)")).await;
        settled(&format!("the daemon says {says}"), PATIENCE, async || {
            let log = daemon.log()[before..].to_owned();
            if log.contains(says) { Ok(()) } else { Err(log) }
        })
        .await;
        ask(&scene, mend);
        scene.confirmed(&daemon).await;
        assert_eq!(scene.gone(), set(&["available_slots:1"]), "{says}: {}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn values_are_data_and_never_patterns() {
    let scene = Scene::start().await;
    let mut daemon = scene.daemon().await;
    let cities = ["a*b", "axb", "a?b", "[ab]", "a\\", "é\u{1f600}", "x\r\ny", " "];
    let key = |city: &str| format!("properties:city:{city}");
    for city in cities {
        let mut connection = scene.keys();
        for city in cities {
            let _: () = redis::cmd("SET").arg(key(city)).arg("v").query(&mut connection).expect("it is writable");
        }
        scene.sql.execute("UPDATE properties SET city = $1 WHERE id = 1", &[&city]).await.expect("valid SQL");
        scene.sql.execute("UPDATE properties SET city = 'Dakar' WHERE id = 1", &[]).await.expect("valid SQL");
        scene.confirmed(&daemon).await;
        for other in cities {
            let found: bool = redis::cmd("EXISTS").arg(key(other)).query(&mut connection).expect("it answers");
            assert_eq!(found, other != city, "{other:?} after {city:?}");
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn credentials_of_systemd_and_names_of_the_application_are_read() {
    let scene = Scene::start().await;
    let credentials = tempfile::tempdir().expect("the temporary directory is writable");
    let put = |name: &str, url: String| fs::write(credentials.path().join(name), url).expect("the directory is ours");
    // Neither server asks for the password; it is a secret all the same.
    let postgres = scene.postgres.url().replace("postgres@", "postgres:hunter2@");
    let cache = scene.cache.url().replace("redis://", "redis://default:hunter2@");
    put("database_url", postgres.clone());
    put("redis_url", cache.clone());
    let bare = config("", "").replace("url = \"\"\n", "");
    let directory = Path::to_str(credentials.path()).expect("ASCII");
    let environments: [&[(&str, &str)]; 3] = [
        &[("DATABASE_URL", &postgres), ("REDIS_URL", &cache)],
        &[("CRIEUR__POSTGRES__URL", &postgres), ("CRIEUR__CACHE__URL", &cache)],
        &[("CREDENTIALS_DIRECTORY", directory)],
    ];
    for (booking, environment) in environments.into_iter().enumerate() {
        let mut daemon = Daemon::start(&bare, environment);
        let booked = format!("INSERT INTO visit_bookings VALUES ({booking}, 1)");
        scene.run(&booked).await;
        scene.confirmed(&daemon).await;
        assert!(!daemon.log().contains("hunter2"), "a password is in the log");
        let shown = cache.replace("default:hunter2", "[redacted]");
        assert!(daemon.log().contains(&shown), "the address is shown without it: {}", daemon.log());
        assert_eq!(daemon.stop(), Some(0), "{environment:?}");
    }
}
