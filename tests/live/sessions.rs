//! Sessions: with a server that says nothing more, and with one that refused a stream.

use std::time::Duration;

use crieur::config::Config;
use crieur::control::Gate;
use crieur::control::pooled::PooledControl;
use crieur::control::session::ControlSession;
use crieur::postgres::dsn::Dsn;
use crieur::postgres::wire::Wire;
use tokio::time::timeout;

use super::harness::postgres::{Options, Postgres};
use super::harness::proxy::Proxy;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::Scene;

/// Asks, while answers stand still behind the log-in, and again when they do not.
async fn goes_on(proxy: &Proxy, control: &impl Gate) {
    proxy.stall_behind_log_in();
    let asked = timeout(PATIENCE, control.snapshot()).await.expect("the wait has a limit");
    let error = asked.expect_err("nobody answers");
    assert!(error.is_transient() && error.message.starts_with("the server gave no answer within"), "{error}");
    proxy.heal();
    // A pooled session finds no schema here: that is an answer. The limit of a statement is short, and a busy machine may
    // need more than one attempt to keep it.
    let answered = async || {
        let error = control.snapshot().await.err();
        error.is_none_or(|error| error.sqlstate.is_some())
    };
    eventually("the session goes on", PATIENCE, answered).await;
}

#[tokio::test]
async fn a_server_that_falls_silent_behind_the_log_in_is_given_up() {
    let server = Postgres::start(Options::default());
    let proxy = Proxy::start(server.port());
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let dsn = || Dsn::parse(&url).expect("a valid URL");
    let (connect, statement) = (Duration::from_secs(10), Duration::from_millis(100));
    goes_on(&proxy, &ControlSession::new(dsn(), connect, statement, &[])).await;

    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let file = dir.path().join("crieur.toml");
    std::fs::write(&file, "[[rules]]\ntable = 't'\nkeys = ['k:{i}']\n").expect("the directory is ours");
    let urls = [("DATABASE_URL", url.clone()), ("REDIS_URL", "redis://localhost".to_owned())];
    let config = Config::load(&file, urls.map(|(name, value)| (name.to_owned(), value)).into_iter());
    let rules = config.expect("a valid configuration").rules;
    goes_on(&proxy, &PooledControl::new(dsn(), connect, statement, &rules, Vec::new())).await;
}

/// The slot is another's at the moment of START_REPLICATION: the session goes on, and its next answer is its own.
#[tokio::test]
async fn a_session_that_lost_the_race_for_the_slot_reads_its_own_answers() {
    let scene = Scene::start().await;
    let dsn = Dsn::parse(&scene.postgres.url()).expect("a valid URL");
    let limit = Duration::from_secs(10);
    let mut first = Wire::connect(&dsn, limit).await.expect("it accepts sessions");
    let mut second = Wire::connect(&dsn, limit).await.expect("it accepts sessions");
    let start = "START_REPLICATION SLOT \"crieur\" LOGICAL 0/0 (proto_version '1', publication_names 'crieur')";
    first.start_copy_both(start).await.expect("the slot is free");
    let refused = second.start_copy_both(start).await.expect_err("the slot is taken");
    assert_eq!(refused.sqlstate.as_deref(), Some("55006"));
    let rows = second.simple_query("SELECT 'mine'").await.expect("the session goes on");
    assert_eq!(rows, [[Some("mine".to_owned())]]);
}
