//! Certificates that change under a running daemon, certificates of our own, and one that is marked as an authority's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::daemon::{self, Daemon, STARTED};
use super::harness::postgres;
use super::harness::process;
use super::harness::redis::{Redis, Server};
use super::harness::sink::Sink;
use super::harness::tls::{Authority, Pair};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Scene, config, set};

/// Puts a copy of one file into the place of another, as a renewal does.
fn replace(place: &Path, with: &Path) {
    let new = place.with_extension("new");
    fs::copy(with, &new).expect("the directory is ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    process::give(&new, process::unprivileged());
    fs::rename(&new, place).expect("the directory is ours");
}

/// Lines of redis.conf for TLS at this port, only for clients with a certificate.
fn mutual(port: u16, server: &Pair, authority: &Authority) -> Vec<String> {
    vec![
        format!("tls-port {port}"),
        format!("tls-cert-file {}", server.certificate.display()),
        format!("tls-key-file {}", server.key.display()),
        format!("tls-ca-cert-file {}", authority.certificate().display()),
        "tls-auth-clients yes".to_owned(),
    ]
}

#[tokio::test]
async fn a_cache_whose_authority_is_another_gets_its_keys_without_a_restart() {
    let (before, after) = (Authority::new(), Authority::new());
    let (server, client) = (before.issue("localhost"), before.issue("crieur"));
    let port = process::free_port();
    let lines = mutual(port, &server, &before);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let scene = Scene::with(postgres::Options::default(), &lines).await;
    let files = format!(
        "tls_ca = \"{}\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\necho = []",
        before.certificate().display(),
        client.certificate.display(),
        client.key.display()
    );
    let config = config(&scene.postgres.url(), &format!("rediss://localhost:{port}")).replace("echo = []", &files);
    let mut daemon = scene.daemon_with(&config).await;
    assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await, set(&["available_slots:1"]));

    // Half a renewal, as a copy in progress leaves it: what was read before stays in force.
    daemon.allow("id=tls.unreadable");
    fs::write(before.certificate(), "-----BEGIN CERTIFICATE-----\n").expect("the directory is ours");
    let _: u64 = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (2, 2)").await, set(&["available_slots:2"]));
    daemon.wait_for_log("id=tls.unreadable");

    // The whole of it: the authority, the server's certificate and ours.
    let (new_server, new_client) = (after.issue("localhost"), after.issue("crieur"));
    replace(&before.certificate(), &after.certificate());
    replace(&client.certificate, &new_client.certificate);
    replace(&client.key, &new_client.key);
    let new = mutual(port, &new_server, &after);
    let words: Vec<&str> = new[1..4].iter().flat_map(|line| line.split(' ')).collect();
    let words: Vec<&str> = ["CONFIG", "SET"].into_iter().chain(words).collect();
    let _: () = scene.cache.ask(&words);
    let _: u64 = scene.cache.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (3, 1)").await, set(&["available_slots:1"]));
    let said = format!("the files of TLS have changed, and were read again: {}", before.certificate().display());
    assert!(daemon.log().contains(&said), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// A refusal that comes through TLS is no server without TLS.
#[tokio::test]
async fn a_cache_behind_tls_that_refuses_the_password_is_said_to_refuse_it() {
    let authority = Authority::new();
    let (server, port) = (authority.issue("localhost"), process::free_port());
    let mut lines = mutual(port, &server, &authority);
    lines.pop();
    lines.push("tls-auth-clients no".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let cache = Redis::start(&Server::System, &lines);
    let () = cache.ask(&["CONFIG", "SET", "requirepass", "right"]);
    let scene = Scene::start().await;
    for (user, says) in [(":wrong@", "WRONGPASS"), ("ann:right@", "WRONGPASS"), ("", "NOAUTH")] {
        let url = format!("rediss://{user}localhost:{port}");
        let files = format!("tls_ca = \"{}\"\necho = []", authority.certificate().display());
        let out = daemon::run("check", &config(&scene.postgres.url(), &url).replace("echo = []", &files), &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!out.status.success() && said.contains(says) && !said.contains("speaks no TLS"), "{user}: {said}");
    }
}

#[tokio::test]
async fn a_database_whose_authority_is_another_streams_on_without_a_restart() {
    let (before, after) = (Authority::new(), Authority::new());
    let server = before.issue("localhost");
    let conf = vec![
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", server.certificate.display()),
        format!("ssl_key_file = '{}'", server.key.display()),
    ];
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &[]).await;
    let root = before.certificate();
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}",
        scene.postgres.port(),
        root.display()
    );
    let mut daemon = scene.daemon_with(&config(&url, &scene.cache.url())).await;
    daemon.allow("terminating connection");
    daemon.allow("the control session ended");
    daemon.allow("failed to");
    let new = after.issue("localhost");
    replace(&server.certificate, &new.certificate);
    replace(&server.key, &new.key);
    scene.run("SELECT pg_reload_conf()").await;
    // The server was renewed first: until the file follows, the daemon waits and says for what.
    daemon.allow("an authority that is not trusted here");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'crieur'";
    loop {
        scene.run(end).await;
        if daemon.log().contains("an authority that is not trusted here") {
            break;
        }
    }
    replace(&root, &after.certificate());
    let times = daemon.log().matches(STARTED).count();
    daemon.wait_for_logs(STARTED, times + 1);
    assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await, set(&["available_slots:1"]));
    assert_eq!(daemon.stop(), Some(0));
}

/// As `openssl req -x509` makes one: signed by itself, marked as an authority's, named as the trusted one. psql takes it.
#[tokio::test]
async fn a_certificate_that_is_an_authoritys_is_taken_where_it_is_named_itself() {
    let (folder, port) = (Authority::new(), process::free_port());
    let own = folder.own("localhost");
    let conf = vec![
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", own.certificate.display()),
        format!("ssl_key_file = '{}'", own.key.display()),
    ];
    let lines = mutual(port, &own, &folder);
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines[4] = "tls-auth-clients no";
    let scene = Scene::with(postgres::Options { conf, ..Default::default() }, &lines).await;
    let at = |root: &Path| {
        let database = format!(
            "postgres://postgres@localhost:{}/postgres?sslmode=verify-full&sslrootcert={}",
            scene.postgres.port(),
            root.display()
        );
        let files = format!("tls_ca = \"{}\"\necho = []", root.display());
        config(&database, &format!("rediss://localhost:{port}")).replace("echo = []", &files)
    };
    let mut daemon = scene.daemon_with(&at(&own.certificate)).await;
    assert_eq!(scene.change(&daemon, "INSERT INTO visit_bookings VALUES (1, 1)").await, set(&["available_slots:1"]));
    assert_eq!(daemon.stop(), Some(0));

    let mut daemon = Daemon::start(&at(&folder.certificate()), &[]);
    daemon.allow("marked as an authority's (CA:TRUE) and proves no server");
    daemon.wait_for_log("marked as an authority's (CA:TRUE) and proves no server");
    assert_eq!(daemon.stop(), Some(0));
}

/// A site behind HTTPS with an authority of its own.
#[tokio::test]
async fn a_sink_is_proved_by_the_authority_that_is_named_and_by_no_other() {
    let (authority, scene) = (Authority::new(), Scene::start().await);
    let site = Sink::secure_webhook(&authority.issue("localhost"));
    let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
    let tags = format!("{keys}\ntags = [\"property:{{id}}\"]\ntags_all = \"properties\"");
    let with = |more: &str| {
        let section = site.section(&format!("echo = []\n{more}")).replace("http://127.0.0.1", "https://localhost");
        format!("{section}\n{}", scene.config().replace(keys, &tags))
    };
    let trusted = with(&format!("tls_ca = \"{}\"", authority.certificate().display()));
    let mut daemon = scene.daemon_with(&trusted).await;
    scene.confirmed(&daemon).await;
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    settled("the site was told", PATIENCE, async || match site.purged().iter().any(|tag| tag == "property:1") {
        true => Ok(()),
        false => Err((site.log(), daemon.log())),
    })
    .await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    let taken = site.log().len();
    let out = daemon::run("check", &with(""), &[]);
    let said = String::from_utf8_lossy(&out.stdout);
    let words = "the server's certificate was issued by an authority that is not trusted here";
    assert!(!out.status.success() && said.contains(words) && said.contains("tls_ca of the sink"), "{said}");
    assert_eq!(site.log().len(), taken, "nothing is sent to whoever is not proved");
}
