//! The servers, the daemon between them, and the question that ends every round: is anything in the cache not as the
//! database has it?
//!
//! The daemon reaches both servers through proxies, readers and writers go straight. Whatever a step here does, it
//! leaves servers that answer; only `faults.rs` breaks things, and mends them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crieur_cache::Take;
use tokio::runtime::Runtime;

use crate::daemon::{self, Daemon, STARTED};
use crate::harness::cluster::Cluster;
use crate::harness::postgres::{Options, Postgres, Version};
use crate::harness::process::Signal;
use crate::harness::proxy::Proxy;
use crate::harness::redis::{Redis, Server};
use crate::harness::sentinel::Watched;
use crate::harness::wait;
use crate::oracle;
use crate::readers::Address;
use crate::site::PAGE;
use crate::verified::{self, Counts, Judged, OFTENER, STALE, Sum};

/// The last echo bounds how long a plain reader may hold a value.
pub const LAST_ECHO: Duration = Duration::from_secs(1);

/// A backlog of a fault on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The key of the mark.
pub const MARK: &str = "crieur:mark:crieur";

const TABLES: &str = include_str!("tables.sql");
const RULES: &str = include_str!("rules.toml");

/// `wal_sender_timeout` is short, so that a suspended daemon loses its walsender; decoding memory is small, so that large
/// transactions are streamed while open.
const POSTGRES: &[&str] = &[
    "wal_sender_timeout = 3s",
    "logical_decoding_work_mem = 64kB",
    "deadlock_timeout = 200ms",
    "lock_timeout = 2s",
    "max_prepared_transactions = 20",
    "autovacuum = off",
];

/// How the daemon reads changes: `CRIEUR_MODE=outbox`, or by replication.
pub fn is_outbox() -> bool {
    std::env::var("CRIEUR_MODE").is_ok_and(|mode| mode == "outbox")
}

/// What the log says of a daemon that is at work.
pub fn started() -> &'static str {
    if is_outbox() { "id=outbox.started" } else { STARTED }
}

/// Everything of one run.
pub struct World {
    pub postgres: Postgres,
    pub cache: Redis,
    /// Of the server that takes writes.
    pub writing: Address,
    /// Of the server that readers read from.
    pub reading: Address,
    /// Of the server that holds the keys.
    pub caching: Address,
    /// The Sentinels that say which one that is, and the servers that they watch.
    pub watched: Option<Watched>,
    /// The cluster that is the cache.
    pub cluster: Option<Cluster>,
    /// Lines of `[cache]` that lead elsewhere than to `cache`.
    pub elsewhere: Option<String>,
    /// A sink of the daemon, and what it is told of deletes: the port of a site and the sink's echoes.
    pub sink: Option<(u16, String)>,
    /// Another cache of the same daemon.
    pub second: Option<Redis>,
    /// Between the daemon and PostgreSQL.
    pub to_postgres: Proxy,
    /// Between the daemon and the cache.
    pub to_cache: Proxy,
    /// `None` while a fault has taken it away.
    pub daemon: Option<Daemon>,
    /// A read replica, when readers have one.
    pub replica: Option<Postgres>,
    /// The daemon runs beside that replica.
    beside_replica: bool,
    /// How readers take a lease whose client sends again.
    pub take: Take,
    /// Warnings that are right in this round.
    allowed: Vec<&'static str>,
    /// So much of the daemon's log is judged.
    judged: usize,
    /// What the verifier looks at, what it counted, and whether it may be right to accuse.
    pub verify: Judged,
    verified: Sum,
    may_accuse: bool,
    env: Vec<(&'static str, String)>,
    runtime: Runtime,
}

impl World {
    /// Servers with tables, rules, publication and slot; no daemon yet.
    pub fn start() -> World {
        World::start_on(Options::default())
    }

    fn start_on(options: Options) -> World {
        let conf = POSTGRES.iter().map(|line| line.to_string()).collect();
        let postgres = Postgres::start(Options { conf, ..options });
        let cache = Redis::start(&Server::System, &["enable-debug-command local"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads can be made");
        let (to_postgres, to_cache) = (Proxy::start(postgres.port()), Proxy::start(cache.port()));
        let writing = Arc::new(Mutex::new(postgres.url()));
        let world = World {
            reading: Arc::clone(&writing),
            writing,
            postgres,
            caching: Arc::new(Mutex::new(cache.url())),
            watched: None,
            cluster: None,
            elsewhere: None,
            sink: None,
            second: None,
            cache,
            to_postgres,
            to_cache,
            daemon: None,
            replica: None,
            beside_replica: false,
            take: Take::Script,
            allowed: Vec::new(),
            judged: 0,
            verify: Judged::All,
            verified: Sum::default(),
            may_accuse: false,
            env: vec![("CRIEUR_OFTENER", OFTENER.to_string())],
            runtime,
        };
        world.sql(TABLES).unwrap_or_else(|error| panic!("valid SQL: {error:?}"));
        let out = daemon::run("setup", &world.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        world
    }

    /// With a read replica, which readers read from and which shows every commit this much late.
    pub fn with_replica(self, late: &str) -> World {
        self.with_replica_that(&[], late)
    }

    fn with_replica_that(mut self, conf: &[&str], late: &str) -> World {
        self.sql_at_last("SELECT pg_create_physical_replication_slot('standby', true)");
        let replica = self.postgres.standby(&[conf, &[&format!("recovery_min_apply_delay = {late}")]].concat());
        self.reading = Arc::new(Mutex::new(replica.url()));
        self.replica = Some(replica);
        self
    }

    /// With a read replica of a version that decodes on standbys; the daemon is still one of the primary.
    pub fn in_a_region(late: &str) -> World {
        let world = World::start_on(Options { version: Version::V17, ..Options::default() });
        world.with_replica_that(&["hot_standby_feedback = on"], late)
    }

    /// From now on the replica shows every commit this much late.
    pub fn lag(&self, late: Duration) {
        let replica = self.replica.as_ref().expect("there is one");
        let setting = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{}ms'", late.as_millis());
        for sql in [&setting, "SELECT pg_reload_conf()"] {
            wait::poll(PATIENCE, || self.sql_at(replica, sql).ok()).expect("the standby answers");
        }
    }

    /// The daemon that is started next reads the standby: the second part of the setup, and its address.
    pub fn move_beside_the_standby(&mut self) {
        let replica = self.replica.as_ref().expect("there is one");
        self.to_postgres.lead_to(replica.port());
        self.beside_replica = true;
        self.sql_at_last("SELECT pg_drop_replication_slot('crieur')");
        let config = self.config();
        let made = std::thread::spawn(move || {
            wait::poll(PATIENCE, || daemon::run("setup", &config, &[]).status.success().then_some(()))
        });
        // The slot begins where the primary says which transactions are open.
        while !made.is_finished() {
            self.sql_at_last("SELECT pg_log_standby_snapshot()");
            std::thread::sleep(Duration::from_millis(100));
        }
        made.join().expect("it does not panic").expect("the second part of the setup");
    }

    /// With a cache behind Sentinels.
    pub fn behind_sentinels(mut self, server: Server) -> World {
        let watched = Watched::start(server, &[]);
        watched.settle();
        self.caching = Arc::new(Mutex::new(watched.servers[watched.primary()].url()));
        self.watched = Some(watched);
        self
    }

    /// With a cache of the test's own: the lines of `[cache]` that lead there, and where readers find it.
    pub fn with_cache_at(mut self, lines: String, caching: String) -> World {
        self.elsewhere = Some(lines);
        self.caching = Arc::new(Mutex::new(caching));
        self
    }

    /// With a site behind the cache, which is told of tags, and readers with a memory tier.
    pub fn before_a_site(mut self, port: u16, echoes: &str) -> World {
        self.sink = Some((port, echoes.to_owned()));
        self
    }

    /// With a second cache, for which the position never waits: whatever it misses is found by its mark alone.
    pub fn beside_another(mut self) -> World {
        self.second = Some(Redis::start(&Server::Valkey9, &[]));
        self
    }

    /// Of the read replica.
    pub fn replica_url(&self) -> String {
        self.replica.as_ref().map_or_else(String::new, Postgres::url)
    }

    fn config(&self) -> String {
        let (postgres, cache) = (self.to_postgres.port(), self.to_cache.port());
        let mode = if is_outbox() { "outbox" } else { "replication" };
        let cache = match (&self.watched, &self.elsewhere) {
            (Some(watched), _) => format!("url = \"{}\"\nheartbeat = \"500ms\"", watched.url()),
            (None, Some(lines)) => lines.clone(),
            (None, None) => format!("url = \"redis://127.0.0.1:{cache}\""),
        };
        let timing = "timeout = \"1s\"\necho = [\"50ms\", \"200ms\", \"1s\"]\nleases = \"companion\"\n";
        let second = self.second.as_ref().map_or_else(String::new, |second| {
            format!("[caches.second]\nurl = \"{}\"\nhold_wal_bytes_max = 0\n{timing}", second.url())
        });
        let (publishes, sink, rules) = self.beyond();
        let standby = if self.beside_replica { "standby = true\n" } else { "" };
        format!(
            "[postgres]\n{standby}mode = \"{mode}\"\nurl = \"postgres://postgres@127.0.0.1:{postgres}/postgres\"\nconnect_timeout = \"1s\"\n\
             liveness_timeout = \"2s\"\nlookup_timeout = \"2s\"\n\
             [cache]\n{cache}\n{timing}{publishes}{second}{sink}{}{rules}",
            verified::config(self.verify)
        )
    }

    /// Lines of the cache, sections and rules for what stands behind the cache.
    fn beyond(&self) -> (&'static str, String, String) {
        let Some((port, echoes)) = &self.sink else { return ("", String::new(), RULES.to_owned()) };
        let sink = format!(
            "[sinks.site]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/purge\"\necho = {echoes}\n\
             timeout = \"1s\"\nrate = \"50/s\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n\
             [limits]\nwarm_rate = 1200\nwarm_timeout = \"3s\"\n"
        );
        let warm = format!("warm = \"http://127.0.0.1:{port}{PAGE}{{id}}\"\n");
        let tags = warm + "tags = [\"item:{id}\"]\ntags_all = \"items\"\n\n[[rules]]\ntable = \"torture.leases\"";
        let rules = RULES.replacen("\n[[rules]]\ntable = \"torture.leases\"", &tags, 1);
        ("publish = \"crieur:keys\"\nheartbeat = \"200ms\"\n", sink, rules)
    }

    /// Warnings of the daemon with this text are as expected from now on.
    pub fn allow(&mut self, said: &[&'static str]) {
        self.allowed.extend(said);
        for text in said {
            if let Some(daemon) = &mut self.daemon {
                daemon.allow(text);
            }
        }
    }

    /// A daemon without one of its guards leaves stale keys: the verifier is right to say so.
    pub fn allow_accusations(&mut self) {
        self.may_accuse = true;
    }

    /// From the next daemon on the verifier has nothing to say.
    pub fn forbid_accusations(&mut self) {
        self.may_accuse = false;
    }

    /// Whether the verifier may find something stale.
    fn may_accuse(&self) -> bool {
        let is_off = |(name, value): &(&str, String)| *name == "CRIEUR_WITHOUT" && !value.is_empty();
        self.may_accuse || (self.verify == Judged::All && self.env.iter().any(is_off))
    }

    /// Adds what the verifier of this daemon counted.
    pub fn count_verified(&mut self) {
        let log = self.daemon().log();
        self.verified.read(&log);
    }

    /// What it counted up to the last time.
    pub fn verified(&self) -> Counts {
        self.verified.all()
    }

    /// From now on no warning is expected but those that a fault names.
    pub fn expect_silence(&mut self) {
        self.allowed.clear();
    }

    /// Everything that the daemon said since the last time must be expected.
    pub fn judge_log(&mut self) {
        let log = self.daemon().log();
        let complaints = log[self.judged..].lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR "));
        let accused = self.may_accuse().then_some(STALE);
        let expected = |line: &&str| self.allowed.iter().chain(&accused).any(|text| line.contains(text));
        let unexpected: Vec<&str> = complaints.filter(|line| !expected(line)).collect();
        assert!(unexpected.is_empty(), "nobody expected:\n{}\nthe log:\n{log}", unexpected.join("\n"));
        self.judged = log.len();
    }

    /// The environment of daemons that are started from now on: crash points, guards that are off.
    pub fn set(&mut self, name: &'static str, value: String) {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value));
    }

    /// Starts a daemon; it may not stream yet.
    pub fn run_daemon(&mut self) {
        self.daemon = Some(self.another_daemon());
        self.judged = 0;
    }

    /// One more.
    pub fn another_daemon(&self) -> Daemon {
        let env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut daemon = Daemon::start(&self.config(), &env);
        self.allowed.iter().for_each(|text| daemon.allow(text));
        if self.may_accuse() {
            daemon.allow(STALE);
        }
        daemon
    }

    /// The working daemon dies, and one that stood by is ours from now on.
    pub fn take_over(&mut self, daemon: Daemon) {
        self.kill_daemon();
        self.daemon = Some(daemon);
        self.judged = 0;
    }

    /// Another server takes the place of PostgreSQL: the daemon's address leads there, readers and writers go there.
    pub fn promoted(&mut self, postgres: Postgres) {
        self.to_postgres.lead_to(postgres.port());
        *self.writing.lock().expect("no holder panics") = postgres.url();
        self.postgres = postgres;
    }

    /// Starts a daemon and waits for its stream.
    pub fn run_ready_daemon(&mut self) {
        self.run_daemon();
        self.daemon().wait_for_log(started());
    }

    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a fault that takes the daemon brings it back")
    }

    /// SIGTERM must end it with 0, whatever happened before.
    pub fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a fault that takes the daemon brings it back");
        assert_eq!(daemon.stop(), Some(0), "the daemon at SIGTERM:\n{}", daemon.log());
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a fault that takes the daemon brings it back");
        daemon.kill();
    }

    /// Suspends the daemon.
    pub fn suspend_daemon(&mut self, how_long: Duration) {
        self.daemon().signal(Signal::Stop);
        std::thread::sleep(how_long);
        self.daemon().signal(Signal::Cont);
    }

    /// Statements on a session of their own; the first column of the rows of the last one.
    pub fn sql(&self, text: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        self.sql_at(&self.postgres, text)
    }

    /// The same on the server that the daemon reads.
    fn sql_there(&self, text: &str) -> Option<Vec<String>> {
        let beside = self.replica.as_ref().filter(|_| self.beside_replica);
        beside.map_or_else(|| Some(self.sql_at_last(text)), |replica| self.sql_at(replica, text).ok())
    }

    fn sql_at(&self, server: &Postgres, text: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await?;
            let connection = tokio::spawn(connection);
            let answers = client.simple_query(text).await;
            drop(client);
            let _ = connection.await; // Its error is the statement's, or of no interest.
            let rows = answers?.into_iter().filter_map(|answer| match answer {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            });
            Ok(rows.collect())
        })
    }

    /// The same, as often as it takes: the server may be on its way up.
    pub fn sql_at_last(&self, text: &str) -> Vec<String> {
        let answer = wait::poll(PATIENCE, || self.sql(text).ok());
        answer.unwrap_or_else(|| panic!("PostgreSQL does not do {text}:\n{}", self.postgres.log()))
    }

    /// The same, until there is a row.
    pub fn sql_until(&self, text: &str) {
        let found = wait::poll(PATIENCE, || self.sql(text).ok().filter(|rows| !rows.is_empty()));
        assert!(found.is_some(), "it never comes to {text}:\n{}", self.postgres.log());
    }

    /// A connection to where the keys are.
    fn keys(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.caching.lock().expect("no holder panics").as_str())?.get_connection()
    }

    /// A command to the cache.
    pub fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut line = redis::Cmd::new();
        line.arg(command).query(&mut self.keys()?)
    }

    /// FLUSHALL.
    pub fn empty_cache(&self) {
        self.redis::<()>(&["FLUSHALL"]).expect("it answers");
    }

    /// Waits until everything that is committed by now is answered by the cache, echoes too, and confirmed.
    ///
    /// Its own last commit is synchronous, so that nothing before it is still unflushed.
    pub fn settle(&mut self) {
        self.sql_at_last("SET synchronous_commit = on; INSERT INTO torture.fence VALUES (1)");
        let started = Instant::now();
        // A row behind everything that was written before; what is removed was marked before.
        let fence = "INSERT INTO torture.events (bucket, version) VALUES (0, 0);
            SELECT coalesce(string_agg(format('(%L::xid8, %s)', xid, id), ', '), '(''0''::xid8, 0)') FROM crieur.outbox";
        let (now, slot) = match is_outbox() {
            true => {
                let rows = self.sql_at_last(fence).remove(0);
                let left =
                    format!("SELECT 'yes' WHERE NOT EXISTS (SELECT FROM crieur.outbox WHERE (xid, id) IN ({rows}))");
                ("0/0".to_owned(), left)
            }
            false => {
                let now = self.sql_at_last("SELECT pg_current_wal_lsn()::text").remove(0);
                let slot = format!("SELECT 'yes' FROM pg_replication_slots WHERE confirmed_flush_lsn >= '{now}'");
                (now, slot)
            }
        };
        // A daemon whose guard is off need not write its mark.
        let without =
            |(name, value): &(&str, String)| *name == "CRIEUR_WITHOUT" && value.to_lowercase().contains("mark");
        // Behind Sentinels the daemon may have marked a server that is no primary any more, and each shard of
        // a cluster has its own mark; what counts is its word.
        let unmarked = self.watched.is_some() || self.cluster.is_some() || self.env.iter().any(without);
        loop {
            let ended = self.daemon().has_ended();
            assert!(!ended, "the daemon ended by itself:\n{}", self.daemon().log());
            if (unmarked || self.marked(&now)) && self.sql_there(&slot).is_some_and(|rows| rows.len() == 1) {
                return;
            }
            let log = self.daemon().log();
            assert!(started.elapsed() < PATIENCE, "{now} is not confirmed after {PATIENCE:?}:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A publication that was altered is looked at every two seconds, and swept for: readers go on until that is over.
    pub fn sees_the_publication(&mut self) {
        let judged = self.judged;
        let log = self.daemon().log();
        if !["id=publication.changed", "id=table.unpublished"].iter().any(|id| log[judged..].contains(id)) {
            return;
        }
        let (mut sweeps, mut since) = (0, Instant::now());
        let _ = wait::poll(PATIENCE, || {
            let now = self.daemon().log().matches("id=sweep.").count();
            if now != sweeps {
                (sweeps, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_secs(3)).then_some(())
        });
    }

    /// Whether the mark in the cache is at `lsn` or past it.
    fn marked(&self, lsn: &str) -> bool {
        let mark = self.redis::<Option<String>>(&["GET", MARK]).ok().flatten().unwrap_or_default();
        let mark: serde_json::Value = serde_json::from_str(&mark).unwrap_or_default();
        let parse = |text: &str| text.parse::<crieur::lsn::Lsn>().ok();
        mark["lsn"].as_str().and_then(parse) >= parse(lsn)
    }

    /// What the keys of this family should hold, by their members.
    pub fn true_values(&self, family: &oracle::Family) -> Vec<String> {
        let one = |member| format!("({member}, ({}))", family.sql.replace("$1", &format!("'{member}'")));
        let all = (0..family.members).map(one).collect::<Vec<_>>().join(", ");
        self.sql_at_last(&format!("SELECT value FROM (VALUES {all}) AS v (member, value) ORDER BY member"))
    }

    /// Keys that do not hold what the database says, with the cached value and the true one; and how many were compared.
    pub fn stale_keys(&self) -> (Vec<(String, String, String)>, usize) {
        let Some(cluster) = &self.cluster else { return self.stale_keys_at(&mut self.keys().expect("it answers")) };
        let (mut stale, mut compared) = (Vec::new(), 0);
        for index in
            (0..cluster.nodes.len()).filter(|index| cluster.info(*index, "replication").contains("role:master"))
        {
            let (more, count) = self.stale_keys_at(&mut cluster.nodes[index].connection());
            stale.extend(more);
            compared += count;
        }
        (stale, compared)
    }

    fn stale_keys_at(&self, cache: &mut redis::Connection) -> (Vec<(String, String, String)>, usize) {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*:*").query(cache).expect("it answers");
        let mut stale = Vec::new();
        let mut compared = 0;
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.postgres.url(), tokio_postgres::NoTls)
                .await
                .expect("it accepts sessions");
            tokio::spawn(connection);
            for key in keys {
                let Some((family, argument)) = oracle::family(&key) else { continue };
                let cached: redis::RedisResult<Option<String>> = redis::cmd("GET").arg(&key).query(cache);
                // A copy in a slot that another node has: no reader is answered with it.
                let is_elsewhere = |error: &redis::RedisError| self.cluster.is_some() && error.code() == Some("MOVED");
                let cached = match cached {
                    Err(error) if is_elsewhere(&error) => continue,
                    cached => cached.expect("it answers"),
                };
                let Some(cached) = cached else { continue };
                let Some(cached) = family.reader.value(&cached).map(str::to_owned) else { continue };
                let truth: String = client.query_one(family.sql, &[&argument]).await.expect("valid SQL").get(0);
                compared += 1;
                if truth != cached {
                    stale.push((key, cached, truth));
                }
            }
        });
        (stale, compared)
    }
}
