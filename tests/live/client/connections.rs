//! Over each kind of connection that the README names: TLS, a `ConnectionManager`, and a cluster's.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crieur_cache::{Cache, Connection, From, LockError, LockOptions, Locks, Options, Protocol, Redis, Sending, Store};
use redis::aio::ConnectionManagerConfig;
use redis::cluster::ClusterClient;
use redis::{Client, TlsCertificates};

use super::harness::cluster::{Cluster, PRIMARIES};
use super::harness::process::{free_port, target_dir};
use super::harness::proxy::{Direction, Proxy};
use super::harness::redis::Server;
use super::harness::tls::Authority;
use super::harness::wait::{PATIENCE, eventually, poll};
use super::{Bench, Source, harness, read};

/// Where the test looks, past the store.
trait Beside {
    fn held(&self, key: &str) -> Option<String>;
    /// As the daemon does.
    fn delete(&self, key: &str);
}

impl Beside for harness::redis::Redis {
    fn held(&self, key: &str) -> Option<String> {
        self.ask(&["GET", key])
    }

    fn delete(&self, key: &str) {
        let _: u64 = self.ask(&["UNLINK", key, &format!("lease:{{{key}}}")]);
    }
}

impl Beside for Cluster {
    fn held(&self, key: &str) -> Option<String> {
        (0..self.nodes.len()).find_map(|index| self.at::<Option<String>>(index, &["GET", key]).ok().flatten())
    }

    fn delete(&self, key: &str) {
        let lease = format!("lease:{{{key}}}");
        let deletes = |index: &usize| self.at::<u64>(*index, &["UNLINK", key, &lease]).is_ok();
        assert!((0..self.nodes.len()).any(|index| deletes(&index)), "no node deletes {key}");
    }
}

/// A miss, a hit, a delete while a row is read, and a lock.
async fn serves(store: &Arc<dyn Store>, beside: &impl Beside, keys: &[String]) {
    for (protocol, name) in [(Protocol::Key, "key"), (Protocol::Companion, "companion")] {
        let (cache, source) = (Cache::builder(Arc::clone(store)).namespace(name).protocol(protocol), Source::default());
        let cache = cache.build().expect("it is valid");
        for key in keys {
            let full = format!("{name}:{key}");
            let place = if protocol == Protocol::Key { full.clone() } else { format!("lease:{{{full}}}") };
            // The row is older than the delete.
            let fetch = async || {
                let lease = beside.held(&place).expect("a lease stands while the row is read");
                assert!(lease.starts_with('L'), "{protocol:?} {key}: {lease}");
                assert_eq!(lease.contains(':'), store.resends(), "another lease at each run: {lease}");
                beside.delete(&full);
                source.fetch(Duration::ZERO).await
            };
            assert_eq!(cache.read(key, Options::new(), fetch).await.map(|read| read.from), Ok(From::Miss));
            assert_eq!(beside.held(&full), None, "{protocol:?}: a row from before the delete");
            let row = read(&cache, key, &source).await;
            assert_eq!(row.from, From::Miss, "{protocol:?} {key}");
            let text = format!("{}{}", if protocol == Protocol::Key { "V" } else { "" }, row.value);
            assert_eq!(beside.held(&full), Some(text), "{protocol:?} {key}");
            let again = read(&cache, key, &source).await;
            assert_eq!((again.from, again.value), (From::Hit, row.value), "{protocol:?} {key}");
        }
        let counts = (cache.stats().stored, cache.stats().refused, cache.stats().errors);
        assert_eq!(counts, (keys.len() as u64, keys.len() as u64, 0), "{protocol:?}");
        assert!(cache.invalidate(keys).await, "{protocol:?}: those of all slots at once");
        for key in keys {
            assert_eq!(read(&cache, key, &source).await.from, From::Miss, "{protocol:?} {key}");
        }
        let probe = cache.test().await;
        assert!(probe.ok, "{:?}", probe.steps);
    }
    let locks = Locks::new(Arc::clone(store));
    for key in keys {
        let lock = locks.acquire(key, LockOptions::secs(30)).await.expect("it is free");
        assert_eq!(beside.held(&format!("lock:{key}")).as_deref(), Some(lock.token()));
        let busy = locks.acquire(key, LockOptions::secs(30)).await.err();
        assert!(matches!(busy, Some(LockError::Busy)), "{busy:?}");
        assert!(lock.extend(Duration::from_secs(60)).await && lock.release().await && !lock.is_held());
        let done = locks.with(key, LockOptions::secs(30), async |_| Ok::<_, ()>("worked")).await.expect("it is free");
        assert!(done.value == "worked" && done.fence > lock.fence());
        assert_eq!(beside.held(&format!("lock:{key}")), None);
    }
}

fn names() -> Vec<String> {
    ["city:Dakar", "é {x} y"].map(str::to_owned).into()
}

/// A server that speaks TLS at this port, and the authority that it is known by.
fn with_tls() -> (harness::redis::Redis, u16, Authority) {
    let (authority, port) = (Authority::new(), free_port());
    let pair = authority.issue("localhost");
    let conf = [
        format!("tls-port {port}"),
        format!("tls-cert-file {}", pair.certificate.display()),
        format!("tls-key-file {}", pair.key.display()),
        format!("tls-ca-cert-file {}", authority.certificate().display()),
        "tls-auth-clients no".to_owned(),
    ];
    let conf = conf.iter().map(String::as_str).collect::<Vec<_>>();
    (harness::redis::Redis::start(&Server::System, &conf), port, authority)
}

/// An authority of one's own, by the file in which it stands.
fn trusting(url: &str, authority: &Authority) -> Client {
    let root = fs::read(authority.certificate()).expect("the file is there");
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(root) };
    Client::build_with_tls(url, certificates).expect("a valid address, and a certificate")
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let (server, port, authority) = with_tls();
    let client = trusting(&format!("rediss://localhost:{port}"), &authority);
    let store: Arc<dyn Store> = Arc::new(Redis::over(client).timeout(PATIENCE));
    serves(&store, &server, &names()).await;
}

/// Then nothing of the protocol is sent, and the row comes all the same.
#[tokio::test]
async fn tls_with_a_server_that_nobody_vouches_for_is_a_cache_that_is_away() {
    let (server, port, authority) = with_tls();
    let unknown = Redis::open(&format!("rediss://localhost:{port}")).expect("a valid address");
    let misnamed = Redis::over(trusting(&format!("rediss://127.0.0.1:{port}"), &authority));
    for (store, why) in [(unknown, "UnknownIssuer"), (misnamed, "not valid for name")] {
        let (cache, source) =
            (Cache::builder(store.timeout(PATIENCE)).build().expect("it is valid"), Source::default());
        assert_eq!(read(&cache, "k", &source).await.from, From::Bypass, "{why}");
        let probe = cache.test().await;
        let said = probe.steps[0].error.as_deref().unwrap_or_default();
        assert!(!probe.ok && said.contains(why), "{why}: {said}");
    }
    let keys: u64 = server.ask(&["DBSIZE"]);
    assert_eq!(keys, 0);
}

/// A process of its own has the variable; what it does is the test below.
#[tokio::test]
async fn tls_with_an_address_alone_takes_the_authorities_of_the_system() {
    let (_server, port, authority) = with_tls();
    let mut command = Command::new(std::env::current_exe().expect("a running test has a file"));
    command.args(["--exact", "client::connections::tls_by_an_address_alone", "--ignored", "--nocapture"]);
    command.env("SSL_CERT_FILE", authority.certificate()).env("CRIEUR_TEST_TLS", port.to_string());
    command.env("CARGO_TARGET_DIR", target_dir());
    let out = command.output().expect("the file can be run");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
#[ignore = "the test above runs it, with a server and an authority"]
async fn tls_by_an_address_alone() {
    let port = std::env::var("CRIEUR_TEST_TLS").expect("the test above runs this one");
    let store = Redis::open(&format!("rediss://localhost:{port}")).expect("a valid address").timeout(PATIENCE);
    let (cache, source) = (Cache::builder(store).build().expect("it is valid"), Source::default());
    assert_eq!(read(&cache, "k", &source).await.from, From::Miss);
    assert_eq!(read(&cache, "k", &source).await.from, From::Hit);
}

/// A manager that waits as long as a loaded machine needs.
async fn manager(client: Client) -> Arc<dyn Store> {
    let config = ConnectionManagerConfig::new().set_response_timeout(None).set_connection_timeout(Some(PATIENCE));
    let manager = client.get_connection_manager_with_config(config).await.expect("it accepts connections");
    Arc::new(Connection::new(manager).timeout(PATIENCE))
}

#[tokio::test]
async fn a_connection_manager() {
    for server in [Server::System, Server::Valkey9] {
        let server = harness::redis::Redis::start(&server, &[]);
        let store = manager(Client::open(server.url()).expect("a valid address")).await;
        serves(&store, &server, &names()).await;
    }
    let (server, port, authority) = with_tls();
    let store = manager(trusting(&format!("rediss://localhost:{port}"), &authority)).await;
    serves(&store, &server, &names()).await;
}

/// Loses the answer to the next take: it was executed, and the line is cut.
struct Losing {
    store: Arc<dyn Store>,
    proxy: Arc<Proxy>,
    bench: Arc<Bench>,
    loses: Arc<AtomicBool>,
}

impl Losing {
    fn takes(bench: &Bench) -> u64 {
        bench.commands().get("set").copied().unwrap_or(0)
    }
}

impl Store for Losing {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            if command[0] != b"SET" || !self.loses.swap(false, Ordering::SeqCst) {
                return self.store.send(command).await;
            }
            let (bench, proxy, before) = (Arc::clone(&self.bench), Arc::clone(&self.proxy), Losing::takes(&self.bench));
            proxy.stall(Direction::Answers);
            let cuts = tokio::task::spawn_blocking(move || {
                let executed = poll(PATIENCE, || (Losing::takes(&bench) > before).then_some(()));
                proxy.cut();
                proxy.heal();
                executed.expect("the take is executed");
            });
            let answer = self.store.send(command).await;
            cuts.await.expect("it was executed, and cut");
            answer
        })
    }

    fn timeout(&self) -> Duration {
        self.store.timeout()
    }
}

#[tokio::test]
async fn a_take_whose_answer_was_lost_is_not_sent_again_and_the_next_call_has_a_new_connection() {
    for is_managed in [false, true] {
        let bench = Arc::new(Bench::start());
        let proxy = Arc::new(Proxy::start(bench.server.port()));
        let client = Client::open(format!("redis://127.0.0.1:{}", proxy.port())).expect("a valid address");
        let store: Arc<dyn Store> =
            if is_managed { manager(client).await } else { Arc::new(Redis::over(client).timeout(PATIENCE)) };
        let (loses, source) = (Arc::new(AtomicBool::new(false)), Source::default());
        let losing = Losing { store, proxy, bench: Arc::clone(&bench), loses: Arc::clone(&loses) };
        let cache = Cache::builder(losing).build().expect("it is valid");
        assert_eq!(read(&cache, "other", &source).await.from, From::Miss);
        for number in 1..=5 {
            loses.store(true, Ordering::SeqCst);
            let (key, before) = (format!("k{number}"), Losing::takes(&bench));
            assert_eq!(read(&cache, &key, &source).await.from, From::Bypass, "managed: {is_managed}");
            eventually("the cache serves again", PATIENCE, async || {
                read(&cache, "other", &source).await.from == From::Hit
            })
            .await;
            assert_eq!(Losing::takes(&bench), before + 1, "managed: {is_managed}");
            assert!(bench.held(&key).is_some_and(|held| held.starts_with(b"L")), "a lease, and no value");
        }
    }
}

/// Keys of which each primary has some, with every namespace that is used here.
fn of_all_nodes(cluster: &Cluster) -> Vec<String> {
    let primaries: Vec<usize> = (0..PRIMARIES).collect();
    let keys: Vec<String> = (0..12).map(|number| format!("k{number}")).collect();
    for prefix in ["key", "companion", "lock"] {
        let owner = |key: &String| cluster.owner(&format!("{prefix}:{key}"), &primaries).expect("an owner");
        let owners: BTreeSet<usize> = keys.iter().map(owner).collect();
        assert_eq!(owners.len(), PRIMARIES, "{prefix}: these keys are in few slots");
    }
    keys
}

#[tokio::test]
async fn a_clusters_connection() {
    for server in [Server::System, Server::Valkey9] {
        let cluster = Cluster::start(server, &[]);
        let keys = of_all_nodes(&cluster);
        let seeds: Vec<String> = cluster.nodes[..PRIMARIES].iter().map(harness::redis::Redis::url).collect();
        let client = ClusterClient::builder(seeds).response_timeout(PATIENCE).connection_timeout(PATIENCE).build();
        let connection = client.expect("valid addresses").get_async_connection().await.expect("it answers");
        let store: Arc<dyn Store> = Arc::new(Connection::that_resends(connection).timeout(PATIENCE));
        serves(&store, &cluster, &keys).await;
        keys_move(&store, &cluster, &keys[0]).await;
    }
}

/// The slot moves, connections end, and a replica takes its primary's place: the same store serves on.
async fn keys_move(store: &Arc<dyn Store>, cluster: &Cluster, key: &str) {
    let (cache, source) = (Cache::builder(Arc::clone(store)).namespace("key"), Source::default());
    let cache = cache.build().expect("it is valid");
    let full = format!("key:{key}");
    let owner = || cluster.owner(&full, &[0, 1, 2]).expect("an owner");
    let from = owner();
    let served = read(&cache, key, &source).await;
    cluster.migrate(cluster.slot(&full), from, (from + 1) % PRIMARIES);
    let hit = read(&cache, key, &source).await;
    assert_eq!((hit.from, hit.value, owner()), (From::Hit, served.value, (from + 1) % PRIMARIES));
    let _: u64 = cluster.nodes[owner()].ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(read(&cache, key, &source).await.value, served.value, "its own second attempt");
    let replica = PRIMARIES + owner();
    cluster.take_over(replica);
    eventually("the replica is asked", PATIENCE, async || {
        let row = read(&cache, key, &source).await;
        row.from != From::Bypass && cluster.owner(&full, &[replica]) == Some(replica)
    })
    .await;
    // Nobody has read these.
    let fresh: Vec<String> = (0..12).map(|number| format!("fresh{number}")).collect();
    serves(store, cluster, &fresh).await;
}
