//! `crieur init` on real servers: what it writes works, and what it must not do it does not.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::harness::postgres::{Options, Postgres};
use super::harness::redis::{Redis, Server};
use super::scene::Scene;

/// `crieur init` into a folder, with these arguments; no terminal.
fn init(folder: &Path, env: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let out = crieur(folder, env, &[&["init"], arguments].concat());
    (out.status.code(), said(&out))
}

fn crieur(folder: &Path, env: &[(&str, &str)], arguments: &[&str]) -> Output {
    let config = folder.join("crieur.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
    command.args(arguments).arg("--config").arg(config).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    command.output().expect("cargo built the program")
}

fn said(out: &Output) -> String {
    [&out.stdout, &out.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("it was written")
}

#[tokio::test]
async fn rules_come_from_tables_keys_and_cached_names_and_a_daemon_works_with_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = Scene::start().await;
    let keys = [
        "payments:lease:71",
        "payments:lease:72",
        "properties:all_properties_public",
        "properties:city:Dakar",
        "properties:city:Mbour",
        "properties:detail:1",
        "properties:detail:2",
        "visits:1",
        "session:9",
        "lock:x",
    ];
    keys.iter().for_each(|key| scene.cache.ask::<()>(&["SET", key, "x"]));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (database, cache) = (scene.postgres.url(), scene.cache.url());
    let env = [("DATABASE_URL", database.as_str()), ("REDIS_URL", cache.as_str())];
    let (code, text) = init(folder.path(), &env, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(names(folder.path()), ["crieur.env", "crieur.rules.toml", "crieur.toml"]);
    let mode = |name| std::fs::metadata(folder.path().join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("crieur.env"), mode("crieur.toml"), mode("crieur.rules.toml")), (0o600, 0o640, 0o640));
    let (config, rules) = (read(folder.path(), "crieur.toml"), read(folder.path(), "crieur.rules.toml"));
    assert!(config.contains("mode = \"replication\"") && !config.contains("postgres://"), "{config}");
    for words in [
        "\"properties:detail:{id}\",",
        "\"properties:city:{city}\",",
        "\"properties:all_properties_public\",",
        "\"payments:lease:{lease_id}\",",
        "\"visits:{id}\",",
        "#   session:{number}: 1 key",
    ] {
        assert!(rules.contains(words), "{words} in {rules}");
    }
    assert!(!rules.contains("lock:"), "{rules}");
    // The scene has made slot and publication under the same names: what is missing, setup makes.
    let out = crieur(folder.path(), &env, &["setup"]);
    assert!(out.status.success(), "{}", said(&out));
    let out = crieur(folder.path(), &env, &["check"]);
    assert!(out.status.success(), "{}", said(&out));
    // Nothing is overwritten unless that is asked for.
    let (code, text) = init(folder.path(), &env, &["--mode", "outbox"]);
    assert_eq!(code, Some(73), "{text}");
    assert!(text.contains("exists; nothing was written") && text.contains("--force"), "{text}");
    assert_eq!(read(folder.path(), "crieur.toml"), config);
    let (code, text) = init(folder.path(), &env, &["--mode", "outbox", "--force", "--table", "visits"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(read(folder.path(), "crieur.toml").contains("mode = \"outbox\""));
    assert!(!read(folder.path(), "crieur.rules.toml").contains("public.properties"), "{text}");
}

/// The package brings `crieur.env` without an address: it is not mistaken for one that somebody wrote.
#[tokio::test]
async fn addresses_go_into_a_file_that_sets_none_and_not_over_one_that_does() {
    let scene = Scene::start().await;
    let (database, cache) = (scene.postgres.url(), scene.cache.url());
    let env = [("DATABASE_URL", database.as_str()), ("REDIS_URL", cache.as_str())];
    let example = "# The package's own.\n# DATABASE_URL='postgres://crieur:secret@127.0.0.1:5432/app'\n";
    for (found, stays) in [(example, false), ("# Mine.\nDATABASE_URL='postgres://mine'\n", true)] {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("crieur.env"), found).expect("the directory is ours");
        let (code, text) = init(folder.path(), &env, &[]);
        assert_eq!(code, Some(0), "{text}");
        let written = read(folder.path(), "crieur.env");
        assert!(written.starts_with(found) && (written == found) == stays, "{written}");
        assert_eq!(text.contains("exists and stays"), stays, "{text}");
        assert_eq!(written.contains(&format!("DATABASE_URL='{database}'\nREDIS_URL='{cache}'\n")), !stays, "{written}");
        // Where the rules are somebody's, neither the configuration nor the addresses are written.
        std::fs::remove_file(folder.path().join("crieur.toml")).expect("it was written");
        std::fs::write(folder.path().join("crieur.env"), found).expect("the directory is ours");
        let (code, text) = init(folder.path(), &env, &[]);
        assert!(code == Some(73) && read(folder.path(), "crieur.env") == found, "{text}");
        assert_eq!(names(folder.path()), ["crieur.env", "crieur.rules.toml"]);
    }
}

#[tokio::test]
async fn a_server_without_logical_wal_and_an_empty_cache_get_an_outbox_and_rules_from_tables() {
    let postgres = Postgres::start(Options { conf: vec!["wal_level = replica".to_owned()], ..Options::default() });
    let cache = Redis::start(&Server::System, &[]);
    let sql = postgres.client().await;
    let tables = "CREATE TABLE \"Order Lines\" (id uuid PRIMARY KEY, \"it's\" text); CREATE TABLE users (id int PRIMARY KEY); \
        CREATE TABLE carts (id int PRIMARY KEY, user_id int REFERENCES users); CREATE TABLE log (what text); \
        CREATE SCHEMA shop; CREATE TABLE shop.select (a int, b int, PRIMARY KEY (a, b))";
    sql.batch_execute(tables).await.expect("valid SQL");
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (database, url) = (postgres.url(), cache.url());
    let (code, text) = init(folder.path(), &[], &["--database", &database, "--cache", &url]);
    assert_eq!(code, Some(0), "{text}");
    let (config, rules) = (read(folder.path(), "crieur.toml"), read(folder.path(), "crieur.rules.toml"));
    assert!(config.contains("mode = \"outbox\"") && config.contains("wal_level = logical"), "{config}");
    for words in ["\"users:{id}\"", "\"carts:{id}\"", "\"carts:user:{user_id}\"", "\"select:{a}:{b}\"", "are guesses"] {
        assert!(rules.contains(words), "{words} in {rules}");
    }
    let env = [("DATABASE_URL", database.as_str()), ("REDIS_URL", url.as_str())];
    let out = crieur(folder.path(), &env, &["setup"]);
    assert!(out.status.success(), "{} {rules}", said(&out));
    let out = crieur(folder.path(), &env, &["check"]);
    assert!(out.status.success(), "{}", said(&out));
}

#[tokio::test]
async fn mistakes_are_said_with_the_way_out_and_nothing_is_written() {
    let scene = Scene::start().await;
    let (database, cache) = (scene.postgres.url(), scene.cache.url());
    let closed = "postgres://127.0.0.1:1/x?user=u";
    let missing = format!("{}/nothing", database.rsplit_once('/').map_or("", |(server, _)| server));
    let cases: &[(&[&str], i32, &str)] = &[
        (&[], 64, "the address of PostgreSQL is not known"),
        (&["--database", &database], 64, "the address of the cache is not known"),
        (&["--database", &database, "--cache", "redis:/x"], 78, "REDIS_URL: the address has no scheme"),
        (&["--database", closed, "--cache", &cache], 69, "127.0.0.1:1"),
        (&["--database", &missing, "--cache", &cache], 78, "database \"nothing\" does not exist"),
        (&["--database", &database, "--cache", &cache, "--table", "propertys"], 64, "no table \"propertys\""),
        (&["--database", &database, "--cache", &cache, "--mode", "trigger"], 64, "replication"),
    ];
    for (arguments, code, words) in cases {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (exit, text) = init(folder.path(), &[], arguments);
        assert!(exit == Some(*code) && text.contains(words), "{arguments:?}: {exit:?} {text}");
        assert!(names(folder.path()).is_empty(), "{arguments:?}");
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (exit, text) = init(&folder.path().join("no"), &[], &["--database", &database, "--cache", &cache]);
    assert!(exit == Some(73) && text.contains("Make its folder first"), "{exit:?} {text}");
    // A cache that does not answer is no reason to write nothing.
    let (exit, text) = init(folder.path(), &[], &["--database", &database, "--cache", "redis://127.0.0.1:1"]);
    assert!(
        exit == Some(0) && text.contains("cache main: not read") && text.contains("WRONG cache"),
        "{exit:?} {text}"
    );
}

#[tokio::test]
async fn setup_of_an_outbox_begins_nothing_that_the_role_may_not_finish_and_says_what_it_did() {
    let postgres = Postgres::start(Options::default());
    let cache = Redis::start(&Server::System, &[]);
    let sql = postgres.client().await;
    let tables = "CREATE TABLE mine (id int PRIMARY KEY); CREATE TABLE theirs (id int PRIMARY KEY); CREATE ROLE app LOGIN; \
        ALTER TABLE mine OWNER TO app; GRANT SELECT ON theirs TO app";
    sql.batch_execute(tables).await.expect("valid SQL");
    let database = postgres.url().replace("postgres://postgres@", "postgres://app@");
    let config = format!(
        "[postgres]\nmode = \"outbox\"\nurl = \"{database}\"\n[cache]\nurl = \"{}\"\n\
         [[rules]]\ntable = \"mine\"\nkeys = [\"mine:{{id}}\"]\n[[rules]]\ntable = \"theirs\"\nkeys = [\"theirs:{{id}}\"]\n",
        cache.url()
    );
    let folder = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(folder.path().join("crieur.toml"), config).expect("the folder is ours");
    let setup = || {
        let out = crieur(folder.path(), &[], &["setup"]);
        (out.status.code(), said(&out))
    };
    let (exit, text) = setup();
    assert_eq!(exit, Some(1), "{text}");
    for words in [
        "\"app\" may not make the schema crieur",
        "GRANT CREATE ON DATABASE",
        "table public.theirs",
        "only its owner may have crieur watch it",
        "nothing was changed",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let left =
        "SELECT concat_ws(' ', to_regnamespace('crieur'), (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal))";
    let row = sql.query_one(left, &[]).await.expect("it answers");
    assert_eq!(row.get::<_, String>(0), "0", "{text}");
    // A table that is locked stops it in the middle: what is done is said, and the rest is done by the next run.
    sql.batch_execute("GRANT CREATE ON DATABASE postgres TO app; ALTER TABLE theirs OWNER TO app")
        .await
        .expect("valid SQL");
    sql.batch_execute("BEGIN; LOCK TABLE theirs IN ACCESS EXCLUSIVE MODE").await.expect("valid SQL");
    let (exit, text) = setup();
    assert_eq!(exit, Some(69), "{text}");
    assert!(text.contains("schema crieur\n") && text.contains("goes on from there"), "{text}");
    assert!(!text.contains("SELECT crieur.watch('\"public\".\"theirs\"'"), "{text}");
    let mine = "SELECT crieur.watch('\"public\".\"mine\"'";
    let was_done = text.contains(mine);
    sql.batch_execute("ROLLBACK").await.expect("valid SQL");
    let (exit, text) = setup();
    assert!(exit == Some(0) && text.contains("SELECT crieur.watch('\"public\".\"theirs\"'"), "{text}");
    assert_ne!(was_done, text.contains(mine), "each table is said once, when it is done: {text}");
}
