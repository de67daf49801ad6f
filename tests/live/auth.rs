//! Every way to log in to PostgreSQL, for both sessions: the replication session streams, and the control session lets
//! the keys through the gate. And every way to be refused, with what the daemon does then.

use super::daemon::{Daemon, STARTED};
use super::harness::postgres;
use super::harness::process;
use super::harness::tls::Authority;
use super::scene::{Scene, config, set};

const ROLES: &str = "
CREATE ROLE scram LOGIN REPLICATION PASSWORD 'p w@1';
CREATE ROLE clear LOGIN REPLICATION PASSWORD 'p w@1';
CREATE ROLE certified LOGIN REPLICATION;
SET password_encryption = 'md5';
CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'p w@1';
RESET password_encryption;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO scram, clear, certified, md5;
";

const HBA: &[&str] = &[
    "local all scram scram-sha-256",
    "host all scram 127.0.0.1/32 scram-sha-256",
    "host all md5 127.0.0.1/32 md5",
    "host all clear 127.0.0.1/32 password",
    "hostssl all certified 127.0.0.1/32 cert",
    "host all certified 127.0.0.1/32 reject",
];

/// What the daemon does with a connection string.
enum Then {
    Streams,
    /// Tries again, and says this.
    Retries(&'static str),
    /// Stops with this code, and says this.
    Stops(i32, &'static str),
}

use Then::{Retries, Stops, Streams};

async fn try_all(scene: &Scene, cases: &[(String, Then)]) {
    for (booking, (url, then)) in cases.iter().enumerate() {
        let mut daemon = Daemon::start(&config(url, &scene.cache.url()), &[]);
        match then {
            Streams => {
                daemon.wait_for_log(STARTED);
                let booked = format!("INSERT INTO visit_bookings VALUES ({booking}, 1)");
                assert_eq!(scene.change(&daemon, &booked).await, set(&["available_slots:1"]), "{url}");
                assert_eq!(daemon.stop(), Some(0), "{url}");
            }
            Retries(text) => {
                daemon.allow("id=stream.interrupted");
                daemon.wait_for_log("id=stream.interrupted");
                assert!(daemon.log().contains(text), "{url}: {}", daemon.log());
                assert_eq!(daemon.stop(), Some(0), "{url}");
            }
            Stops(code, text) => {
                daemon.allow("stopped: ");
                assert_eq!(daemon.exit(), Some(*code), "{url}: {}", daemon.log());
                assert!(daemon.log().contains(text), "{url}: {}", daemon.log());
            }
        }
        assert!(!daemon.log().contains("p w@1") && !daemon.log().contains("p%20w"), "{}", daemon.log());
    }
}

#[tokio::test]
async fn passwords_certificates_and_hosts() {
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let conf = vec![
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", server.certificate.display()),
        format!("ssl_key_file = '{}'", server.key.display()),
        format!("ssl_ca_file = '{}'", authority.certificate().display()),
    ];
    let hba = HBA.iter().map(|line| line.to_string()).collect();
    let scene = Scene::with(postgres::Options { conf, hba, ..Default::default() }, &[]).await;
    scene.run(ROLES).await;
    let mut first = scene.daemon().await;
    assert_eq!(first.stop(), Some(0));

    let port = scene.postgres.port();
    let at = |role: &str, host: &str, more: &str| {
        format!("postgres://{role}:p%20w%401@{host}:{port}/postgres?connect_timeout=5&{more}")
    };
    let here = |role: &str, more: &str| at(role, "127.0.0.1", more);
    let root = format!("sslrootcert={}", authority.certificate().display());
    let other = Authority::new();
    let stranger = format!("sslrootcert={}", other.certificate().display());
    let client = authority.issue("certified");
    let pair = format!("sslcert={}&sslkey={}", client.certificate.display(), client.key.display());
    let socket = scene.postgres.socket_dir().display();
    let dead = process::free_port();

    let cases = [
        (here("scram", "sslmode=disable"), Streams),
        (here("scram", "sslmode=require"), Streams),
        (here("scram", "sslmode=require&channel_binding=require"), Streams),
        (here("scram", "sslmode=disable&channel_binding=require"), Stops(77, "channel binding")),
        (here("md5", "sslmode=disable"), Streams),
        (here("md5", "sslmode=require"), Streams),
        (here("clear", "sslmode=require"), Streams),
        (here("clear", "sslmode=disable"), Retries("clear-text password without TLS")),
        (at("scram", "localhost", &format!("sslmode=verify-full&{root}")), Streams),
        (here("scram", &format!("sslmode=verify-ca&{root}")), Streams),
        (
            here("scram", &format!("sslmode=verify-full&{root}")),
            Retries("certificate is not for 127.0.0.1, but for localhost"),
        ),
        (
            at("scram", "localhost", &format!("sslmode=verify-full&{stranger}")),
            Retries("authority that is not trusted here"),
        ),
        (here("scram", "sslmode=verify-full&sslrootcert=/nowhere"), Stops(66, "/nowhere")),
        (here("certified", &format!("sslmode=require&{pair}")), Streams),
        (here("certified", "sslmode=require"), Retries("28000")),
        (format!("host={socket} port={port} user=scram password='p w@1' dbname=postgres"), Streams),
        (format!("postgres://scram:p%20w%401@127.0.0.1:{dead},127.0.0.1:{port}/postgres"), Streams),
        (here("scram", "sslmode=disable").replace("/postgres?", "/nowhere?"), Stops(78, "3D000")),
    ];
    try_all(&scene, &cases).await;
}

#[tokio::test]
async fn wrong_passwords_come_minutes_apart() {
    let hba = HBA.iter().filter(|line| !line.starts_with("hostssl")).map(|line| line.to_string()).collect();
    let scene = Scene::with(postgres::Options { hba, ..Default::default() }, &[]).await;
    scene.run(ROLES).await;
    for role in ["scram", "md5"] {
        let url = format!("postgres://{role}:secret@127.0.0.1:{}/postgres", scene.postgres.port());
        let mut daemon = Daemon::start(&config(&url, &scene.cache.url()), &[]);
        daemon.allow("28P01");
        daemon.wait_for_log("again_in=");
        let log = daemon.log();
        let wait = log.split("again_in=\"").nth(1).and_then(|rest| rest.split(" s\"").next()).unwrap_or_default();
        assert!(wait.parse::<f64>().is_ok_and(|seconds| seconds >= 60.0), "{log}");
        assert!(!log.contains("secret"), "{log}");
        assert_eq!(daemon.stop(), Some(0), "a stop does not wait for the next attempt");
    }
}
