//! A cluster behind networks: host names with certificates, addresses that lead nowhere from here, a primary that is cut
//! off from the others, keys that a node does not read.

use super::cluster::{ClusterScene, FIRST};
use super::daemon::{self, Daemon, STARTED};
use super::harness::cluster::{Cluster, PRIMARIES};
use super::harness::proxy::Proxy;
use super::harness::redis::{Redis, Server};
use super::harness::tls::Authority;
use super::harness::wait::{PATIENCE, eventually, settled};

/// The first replica: that of the first primary.
const REPLICA: usize = PRIMARIES;

fn check(config: &str) -> (bool, String) {
    let out = daemon::run("check", config, &[]);
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

async fn started(scene: &ClusterScene, config: &str) -> Daemon {
    let mut daemon = Daemon::start(config, &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log(STARTED);
    scene.confirmed(&daemon).await;
    daemon
}

/// Keys of every shard go, behind a redirect and behind a failover, too.
async fn nodes_are_reached(scene: &mut ClusterScene, daemon: &Daemon) {
    let ids: Vec<u32> = FIRST.iter().flat_map(|index| scene.items_at(*index, 5)).collect();
    scene.fill(&ids);
    scene.cluster.migrate(scene.cluster.slot(&format!("item:{}", ids[0])), 0, 1);
    scene.update(&ids).await;
    scene.gone(daemon, &ids, FIRST).await;
    scene.confirmed(daemon).await;
    scene.cluster.nodes[0].kill();
    scene.cluster.take_over(REPLICA);
    let alive = [1, 2, REPLICA];
    eventually("the replica has the slots", PATIENCE, async || {
        ids.iter().all(|id| scene.cluster.owner(&format!("item:{id}"), &alive).is_some())
    })
    .await;
    scene.fill_at(&ids, &alive);
    scene.update(&ids).await;
    scene.gone(daemon, &ids, &alive).await;
    scene.confirmed(daemon).await;
}

/// The certificates name a host, so no node can be reached by its address. Valkey 9 of the tests' set-up speaks no TLS.
#[tokio::test]
async fn nodes_with_certificates_are_reached_by_the_names_in_them() {
    let authority = Authority::new();
    let pair = authority.issue("localhost");
    let conf = ["cluster-preferred-endpoint-type hostname", "cluster-announce-hostname localhost"];
    let mut scene = ClusterScene::over(Cluster::start_with_tls(Server::System, &conf, &authority, &pair)).await;
    let files = format!("echo = []\ntls_ca = \"{}\"", authority.certificate().display());
    let config = scene.config_at(&scene.cluster.url_with_tls("localhost")).replace("echo = []", &files);
    let (is_well, told) = check(&config);
    assert!(is_well, "{told}");
    for node in &scene.cluster.nodes {
        let () = node.ask(&["CONFIG", "SET", "cluster-preferred-endpoint-type", "ip"]);
    }
    let (is_well, told) = check(&config);
    assert!(!is_well && told.contains("127.0.0.1"), "{told}");
    for node in &scene.cluster.nodes {
        let () = node.ask(&["CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname"]);
    }
    let mut daemon = started(&scene, &config).await;
    nodes_are_reached(&mut scene, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// Nodes call themselves by names that nobody resolves; each is behind a proxy.
#[tokio::test]
async fn nodes_behind_nat_are_reached_where_the_map_says() {
    for server in [Server::System, Server::Valkey9] {
        let mut scene = ClusterScene::start(server, &["cluster-preferred-endpoint-type hostname"]).await;
        let nodes = &scene.cluster.nodes;
        for (index, node) in nodes.iter().enumerate() {
            let () = node.ask(&["CONFIG", "SET", "cluster-announce-hostname", &format!("node{index}.invalid")]);
        }
        eventually("each node knows the names of all", PATIENCE, async || {
            nodes.iter().all(|node| {
                let told: String = node.ask(&["CLUSTER", "NODES"]);
                told.matches(".invalid").count() == nodes.len()
            })
        })
        .await;
        let proxies: Vec<Proxy> = nodes.iter().map(|node| Proxy::start(node.port())).collect();
        let seeds: Vec<String> =
            proxies[..PRIMARIES].iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
        let url = format!("redis+cluster://{}", seeds.join(","));
        let (is_well, told) = check(&scene.config_at(&url));
        assert!(!is_well && told.contains(".invalid:"), "{told}");
        let pairs: Vec<String> = nodes
            .iter()
            .zip(&proxies)
            .enumerate()
            .map(|(index, (node, proxy))| {
                format!("\"node{index}.invalid:{}\" = \"127.0.0.1:{}\"", node.port(), proxy.port())
            })
            .collect();
        let map = format!("echo = []\nnodes = {{ {} }}", pairs.join(", "));
        let config = scene.config_at(&url).replace("echo = []", &map);
        let (is_well, told) = check(&config);
        assert!(is_well, "{told}");
        let mut daemon = started(&scene, &config).await;
        nodes_are_reached(&mut scene, &daemon).await;
        assert!(proxies[..=REPLICA].iter().all(|proxy| proxy.accepted() > 0));
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Nodes announce an address of their own, as containers do; each is behind a proxy. What they announce is reached here by
/// the nodes alone, because the map says otherwise to crieur.
#[tokio::test]
async fn nodes_that_announce_another_address_are_reached_where_the_map_says() {
    let conf = ["bind 127.0.0.1 127.9.0.1", "cluster-announce-ip 127.9.0.1"];
    let mut scene = ClusterScene::start(Server::System, &conf).await;
    let proxies: Vec<Proxy> = scene.cluster.nodes.iter().map(|node| Proxy::start(node.port())).collect();
    let seeds: Vec<String> = proxies[..PRIMARIES].iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect();
    let pair =
        |(node, proxy): (&Redis, &Proxy)| format!("\"127.9.0.1:{}\" = \"127.0.0.1:{}\"", node.port(), proxy.port());
    let pairs: Vec<String> = scene.cluster.nodes.iter().zip(&proxies).map(pair).collect();
    let map = format!("echo = []\nnodes = {{ {} }}", pairs.join(", "));
    let config = scene.config_at(&format!("redis+cluster://{}", seeds.join(","))).replace("echo = []", &map);
    let (is_well, told) = check(&config);
    assert!(is_well, "{told}");
    let mut daemon = started(&scene, &config).await;
    nodes_are_reached(&mut scene, &daemon).await;
    assert!(proxies[..=REPLICA].iter().all(|proxy| proxy.accepted() > 0));
    for node in &scene.cluster.nodes[1..] {
        let clients: String = node.ask(&["CLIENT", "LIST", "TYPE", "normal"]);
        assert!(!clients.contains("laddr=127.9.0.1"), "{clients}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// The replica has what these keys are, and hears no more.
async fn replica_stands_still(scene: &ClusterScene, ids: &[u32]) {
    let has_all = |keys: Vec<String>| keys.len() >= ids.len();
    eventually("the replica has all of that", PATIENCE, async || {
        scene.cluster.at::<Vec<String>>(REPLICA, &["KEYS", "item:*"]).is_ok_and(has_all)
    })
    .await;
    scene.cluster.nodes[REPLICA].freeze();
    let _: u64 = scene.cluster.nodes[0].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
}

fn role(scene: &ClusterScene, index: usize) -> String {
    let info = scene.cluster.at::<String>(index, &["INFO", "replication"]).unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix("role:")).unwrap_or_default().trim().to_owned()
}

/// For a while only one primary answers; then the others do, elect its replica, and that one does not. Deletes that the
/// minority alone answered count for nothing.
#[tokio::test]
async fn deletes_that_only_the_minority_answered_go_again_at_the_one_that_was_elected() {
    for server in [Server::System, Server::Valkey9] {
        let conf =
            ["cluster-replica-validity-factor 0", "cluster-node-timeout 3000", "cluster-allow-reads-when-down yes"];
        let scene = ClusterScene::start(server, &conf).await;
        let mut daemon = scene.daemon().await;
        daemon.allow_failing_cache();
        let (ids, others) = (scene.items_at(0, 20), scene.items_at(1, 5));
        scene.fill(&[&ids[..], &others[..]].concat());
        replica_stands_still(&scene, &ids).await;
        let majority = [1, 2, REPLICA + 1, REPLICA + 2];
        majority.iter().for_each(|index| scene.cluster.nodes[*index].freeze());
        scene.update(&[&ids[..], &others[..]].concat()).await;
        let now = scene.now().await;
        let is_there = |id: &u32| scene.cluster.at::<bool>(0, &["EXISTS", &format!("item:{id}")]);
        eventually("the primary that is cut off deletes", PATIENCE, async || {
            ids.iter().all(|id| is_there(id).is_ok_and(|is_there| !is_there))
        })
        .await;
        assert!(!scene.is_confirmed(&now).await, "shards of the majority answered nothing");
        scene.cluster.nodes[0].freeze();
        [&majority[..], &[REPLICA]].concat().iter().for_each(|index| scene.cluster.nodes[*index].thaw());
        eventually("the replica is elected", PATIENCE, async || role(&scene, REPLICA) == "master").await;
        let alive = [1, 2, REPLICA];
        scene.gone(&daemon, &[&ids[..], &others[..]].concat(), &alive).await;
        scene.confirmed(&daemon).await;
        scene.cluster.nodes[0].thaw();
        eventually("the old primary follows", PATIENCE, async || role(&scene, 0) == "slave").await;
        scene.fill_at(&ids, &alive);
        scene.update(&ids).await;
        scene.gone(&daemon, &ids, &alive).await;
        scene.confirmed(&daemon).await;
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Two primaries of the same slots answer at once: the one that is cut off goes on, and takes writes. Redis only: a
/// Valkey that has no link from a node meets that node again by itself, and the two are not two for long.
#[tokio::test]
async fn of_two_primaries_the_one_that_the_others_know_has_the_deletes() {
    let conf = ["cluster-replica-validity-factor 0", "cluster-require-full-coverage no"];
    let scene = ClusterScene::start(Server::System, &conf).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    let ids = scene.items_at(0, 20);
    scene.fill(&ids);
    replica_stands_still(&scene, &ids).await;
    scene.update(&ids).await;
    scene.confirmed(&daemon).await;
    assert!(!ids.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), &[0])));
    scene.cluster.cut_off(0);
    scene.cluster.nodes[REPLICA].thaw();
    eventually("the replica answers", PATIENCE, async || scene.cluster.at::<String>(REPLICA, &["PING"]).is_ok()).await;
    scene.cluster.take_over(REPLICA);
    let alive = [1, 2, REPLICA];
    scene.gone(&daemon, &ids, &alive).await;
    // The scene is what it says: the old one does not know better, and goes on as soon as it counts itself alone.
    let first = format!("item:{}", ids[0]);
    settled("the old one takes writes", PATIENCE, async || {
        let refused = |error| (error, scene.cluster.at::<String>(0, &["CLUSTER", "NODES"]));
        scene.cluster.at::<()>(0, &["SET", &first, "old"]).map_err(refused)
    })
    .await;
    scene.fill_at(&ids, &[0]);
    assert_eq!((role(&scene, 0).as_str(), role(&scene, REPLICA).as_str()), ("master", "master"));
    scene.fill_at(&ids, &alive);
    scene.update(&ids).await;
    scene.gone(&daemon, &ids, &alive).await;
    scene.confirmed(&daemon).await;
    scene.cluster.rejoin(0);
    eventually("the old primary follows", PATIENCE, async || role(&scene, 0) == "slave").await;
    scene.fill_at(&ids, &alive);
    scene.update(&ids).await;
    scene.gone(&daemon, &ids, &alive).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A key that a node does not even read keeps no other key of its shard waiting.
#[tokio::test]
async fn a_key_that_is_too_long_for_a_node_is_left_out_and_the_others_go() {
    for server in [Server::System, Server::Valkey9] {
        let scene = ClusterScene::start(server, &[]).await;
        scene
            .run("CREATE TABLE texts (id int PRIMARY KEY, body text); INSERT INTO texts VALUES (1, 'a'), (2, 'b')")
            .await;
        let config = format!("{}\n[[rules]]\ntable = \"public.texts\"\nkeys = [\"text:{{body}}\"]\n", scene.config());
        let out = daemon::run("setup", &config, &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene.run("ALTER TABLE texts REPLICA IDENTITY FULL").await;
        let mut daemon = started(&scene, &config).await;
        let long = "repeat('x', 3 * 512 * 1024)";
        let key = format!("text:{}", "x".repeat(3 * 512 * 1024));
        let ids: Vec<u32> = FIRST.iter().flat_map(|index| scene.items_at(*index, 5)).collect();
        let both = |set: &str| {
            let items = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            format!(
                "BEGIN; UPDATE texts SET body = {set} WHERE id = 1; UPDATE items SET n = n + 1 WHERE id IN ({items}); COMMIT"
            )
        };
        scene.cluster.set(&key, "v");
        scene.fill(&ids);
        scene.run(&both(long)).await;
        scene.confirmed(&daemon).await;
        assert!(!scene.cluster.holds(&key, FIRST), "{server:?}: it can have this key");
        for index in FIRST {
            let () = scene.cluster.nodes[*index].ask(&["CONFIG", "SET", "proto-max-bulk-len", "1048576"]);
        }
        daemon.allow("does not read a key of");
        scene.fill(&ids);
        scene.run(&both("'c'")).await;
        scene.confirmed(&daemon).await;
        assert!(!ids.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), FIRST)), "{server:?}");
        daemon.wait_for_log(&format!("does not read a key of {} bytes", key.len()));
        assert_eq!(daemon.stop(), Some(0), "{server:?}");
    }
}
