//! A cluster whose nodes fail, are frozen, lie to each other, or call themselves by other names.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cluster::{ClusterScene, FIRST};
use super::daemon::{self, Daemon};
use super::harness::cluster::{Cluster, PRIMARIES};
use super::harness::redis::Server;
use super::harness::wait::{PATIENCE, eventually};

/// How many sweeps of whole tables the log tells.
fn sweeps(daemon: &Daemon) -> usize {
    daemon.log().matches("id=sweep.ended").count()
}

#[tokio::test]
async fn a_replica_that_takes_over_without_the_last_deletes_is_repaired_alone() {
    for server in [Server::System, Server::Valkey9] {
        let mut scene = ClusterScene::start(server, &["cluster-replica-validity-factor 0"]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow_failing_cache();
        let (ids, others) = (scene.items_at(0, 20), scene.items_at(1, 20));
        scene.fill(&ids);
        scene.fill(&others);
        let before = sweeps(&daemon);
        // The replica has all of that, and hears no more.
        let replica = PRIMARIES;
        // WAIT counts the writes of its own connection only.
        let has_all = |keys: Vec<String>| keys.len() >= ids.len();
        let held = |cluster: &Cluster| cluster.at::<Vec<String>>(replica, &["KEYS", "item:*"]).is_ok_and(has_all);
        eventually("the replica has all of that", PATIENCE, async || held(&scene.cluster)).await;
        scene.cluster.nodes[replica].freeze();
        let _: u64 = scene.cluster.nodes[0].ask(&["CLIENT", "KILL", "TYPE", "replica"]);
        scene.update(&ids).await;
        scene.confirmed(&daemon).await;
        assert!(!ids.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), &[0])));
        scene.cluster.nodes[0].kill();
        scene.cluster.nodes[replica].thaw();
        eventually("the replica answers", PATIENCE, async || scene.cluster.at::<String>(replica, &["PING"]).is_ok())
            .await;
        assert!(held(&scene.cluster), "the replica heard of the deletes");
        scene.cluster.take_over(replica);
        scene.gone(&daemon, &ids, &[replica]).await;
        let alive = [1, 2, replica];
        scene.update(&[&ids[..1], &others[..1]].concat()).await;
        scene.confirmed(&daemon).await;
        assert!(!scene.cluster.holds(&format!("item:{}", others[0]), &alive));
        // What the others hold was not swept.
        assert!(others[1..].iter().all(|id| scene.cluster.holds(&format!("item:{id}"), &alive)), "{}", daemon.log());
        assert!(sweeps(&daemon) <= before + 1, "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_shard_that_is_frozen_delays_no_other_and_holds_the_position() {
    let scene = ClusterScene::start(Server::System, &["cluster-node-timeout 60000"]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    let (there, others) = (scene.items_at(0, 10), [scene.items_at(1, 10), scene.items_at(2, 10)].concat());
    scene.fill(&there);
    scene.fill(&others);
    scene.cluster.nodes[0].freeze();
    scene.update(&[&there[..], &others[..]].concat()).await;
    let now = scene.now().await;
    scene.gone(&daemon, &others, &[1, 2]).await;
    // Others go on while the shard's own flight waits.
    scene.fill_at(&others, &[1, 2]);
    scene.update(&others).await;
    scene.gone(&daemon, &others, &[1, 2]).await;
    assert!(!scene.is_confirmed(&now).await, "the frozen shard answered nothing");
    scene.cluster.nodes[0].thaw();
    scene.gone(&daemon, &there, FIRST).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// Slots that no node has: their keys wait, and only those of their shard.
#[tokio::test]
async fn keys_of_a_slot_without_a_node_wait_and_the_rest_goes_on() {
    let scene = ClusterScene::start(Server::System, &["cluster-require-full-coverage no"]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    let (lost, others) = (scene.items_at(0, 1)[0], scene.items_at(1, 10));
    scene.fill(&others);
    let slot = scene.cluster.slot(&format!("item:{lost}")).to_string();
    for node in &scene.cluster.nodes {
        let _: redis::RedisResult<()> = redis::cmd("CLUSTER").arg("DELSLOTS").arg(&slot).query(&mut node.connection());
    }
    scene.update(&[&[lost][..], &others[..]].concat()).await;
    scene.gone(&daemon, &others, &[1]).await;
    let () = scene.cluster.nodes[0].ask(&["CLUSTER", "ADDSLOTS", &slot]);
    scene.confirmed(&daemon).await;
    daemon.allow("id=repair.slowed");
    assert_eq!(daemon.stop(), Some(0));
}

/// A node that answers what a test wants: it speaks just enough of the protocol.
struct Liar {
    port: u16,
    unlinks: Arc<AtomicU64>,
}

impl Liar {
    /// Which slots the cluster has, and what an UNLINK is answered.
    fn start(
        listener: TcpListener,
        nodes: String,
        slots: String,
        unlink: impl Fn(u64) -> Option<String> + Send + Sync + 'static,
    ) -> Liar {
        let port = listener.local_addr().expect("it is bound").port();
        let (unlinks, unlink) = (Arc::new(AtomicU64::new(0)), Arc::new(unlink));
        let counter = Arc::clone(&unlinks);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (nodes, slots, unlink, counter) =
                    (nodes.clone(), slots.clone(), Arc::clone(&unlink), Arc::clone(&counter));
                std::thread::spawn(move || {
                    let _ = Liar::serve(stream, &nodes, &slots, &*unlink, &counter);
                });
            }
        });
        Liar { port, unlinks }
    }

    fn serve(
        stream: TcpStream,
        nodes: &str,
        slots: &str,
        unlink: &(dyn Fn(u64) -> Option<String> + Send + Sync),
        counter: &AtomicU64,
    ) -> std::io::Result<()> {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        loop {
            let words = words(&mut reader)?;
            let upper: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
            let reply = match upper.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["INFO", "SERVER"] => {
                    bulk(&format!("redis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:{nodes:.4}\r\n"))
                }
                ["INFO", ..] => bulk("role:master\r\nmaster_replid:r\r\n"),
                ["CLUSTER", "NODES"] => bulk(nodes),
                ["CLUSTER", "INFO"] => bulk("cluster_state:ok\r\n"),
                ["CLUSTER", "SLOTS"] => slots.to_owned(),
                ["SCAN", ..] => "*2\r\n$1\r\n0\r\n*0\r\n".to_owned(),
                ["GET", ..] => "$-1\r\n".to_owned(),
                ["SET", .., "XX"] => "-ERR syntax error\r\n".to_owned(),
                ["EVAL", _, "1", _, "ASKS"] => "$16\r\nERR syntax error\r\n".to_owned(),
                ["EVAL", ..] | ["DBSIZE"] => ":1\r\n".to_owned(),
                ["UNLINK", key, ..] if key.contains("CRIEUR-CHECK") => ":0\r\n".to_owned(),
                ["UNLINK", ..] => match unlink(counter.fetch_add(1, Ordering::SeqCst)) {
                    Some(reply) => reply,
                    None => return Ok(()),
                },
                _ => "+OK\r\n".to_owned(),
            };
            writer.write_all(reply.as_bytes())?;
        }
    }
}

/// One command.
fn words(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut number = |mark: char| -> std::io::Result<usize> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let digits = line.trim_end().strip_prefix(mark).and_then(|digits| digits.parse().ok());
        digits.ok_or_else(|| std::io::Error::other("no command"))
    };
    let count = number('*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length: usize = line.trim_end()[1..].parse().map_err(std::io::Error::other)?;
        let mut word = vec![0; length + 2];
        reader.read_exact(&mut word)?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Ok(words)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback has free ports")
}

/// What a node says of itself when it has all slots.
fn all_slots(port: u16) -> (String, String) {
    let id = format!("{port:040}");
    let nodes = format!("{id} 127.0.0.1:{port}@1 myself,master - 0 0 1 connected 0-16383\n");
    let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n${}\r\n{id}\r\n", id.len());
    (nodes, slots)
}

#[tokio::test]
async fn two_nodes_that_send_a_key_to_each_other_are_both_named() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    let (a, b) = (listener(), listener());
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    let (at_a, at_b) = (port(&a), port(&b));
    let to = |port: u16| move |_: u64| Some(format!("-MOVED 1 127.0.0.1:{port}\r\n"));
    let (nodes, slots) = all_slots(at_a);
    let (a, b) = (Liar::start(a, nodes.clone(), slots.clone(), to(at_b)), Liar::start(b, nodes, slots, to(at_a)));
    let mut daemon = Daemon::start(&scene.config_at(&format!("redis+cluster://127.0.0.1:{}", a.port)), &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log(daemon::STARTED);
    scene.update(&[1]).await;
    daemon.wait_for_log("send a key to each other: more than 5 redirects");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("to each other")).expect("it was there");
    assert!(line.contains(&format!("127.0.0.1:{at_a}")) && line.contains(&format!("127.0.0.1:{at_b}")), "{line}");
    assert!(b.unlinks.load(Ordering::SeqCst) >= 2);
    assert!(!daemon.has_ended());
    daemon.signal(super::harness::process::Signal::Kill);
    let _ = daemon.exit();
}

/// A cut at any position of a pipeline: what was answered is not sent again.
#[tokio::test]
async fn what_was_answered_before_a_cut_is_never_sent_again() {
    const KEYS: u64 = 40;
    let scene = ClusterScene::start(Server::System, &[]).await;
    for cut in [0, 1, 17, KEYS - 1] {
        let at = listener();
        let (nodes, slots) = all_slots(at.local_addr().expect("it is bound").port());
        // The connection ends once, instead of the answer with this number.
        let liar = Liar::start(at, nodes, slots, move |number| (number != cut).then(|| ":1\r\n".to_owned()));
        let url = format!("redis+cluster://127.0.0.1:{}", liar.port);
        // Echoes and deletes ahead of the gate would be counted, too.
        let config = scene.config_at(&url).replace("echo = []", "echo = []\nmetered = \"yes\"\nheartbeat = \"1s\"");
        let mut daemon = Daemon::start(&config, &[]);
        daemon.allow_failing_cache();
        daemon.wait_for_log(daemon::STARTED);
        scene.confirmed(&daemon).await;
        let before = liar.unlinks.load(Ordering::SeqCst);
        assert_eq!(before, 0, "nothing was deleted so far");
        scene.update(&(1..=KEYS as u32).collect::<Vec<_>>()).await;
        scene.confirmed(&daemon).await;
        // One more than the keys: the one that had no answer.
        assert_eq!(liar.unlinks.load(Ordering::SeqCst), KEYS + 1, "cut at {cut}\n{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn nodes_are_found_whatever_they_call_themselves() {
    for conf in [
        &["cluster-preferred-endpoint-type unknown-endpoint"][..],
        &["cluster-preferred-endpoint-type hostname", "cluster-announce-hostname localhost"],
        &["cluster-preferred-endpoint-type hostname"],
    ] {
        let scene = ClusterScene::start(Server::System, conf).await;
        let mut daemon = scene.daemon().await;
        let ids: Vec<u32> = FIRST.iter().flat_map(|index| scene.items_at(*index, 5)).collect();
        scene.fill(&ids);
        scene.cluster.migrate(scene.cluster.slot(&format!("item:{}", ids[0])), 0, 1);
        scene.update(&ids).await;
        scene.gone(&daemon, &ids, FIRST).await;
        assert_eq!(daemon.stop(), Some(0), "{conf:?}");
    }
}

#[tokio::test]
async fn an_address_of_the_other_kind_is_refused_with_the_right_one() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    let check = |url: &str| {
        let out = daemon::run("check", &scene.config_at(url), &[]);
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    let node = scene.cluster.nodes[0].port();
    let single = super::harness::redis::Redis::start(&Server::System, &[]);
    let told = check(&format!("redis://127.0.0.1:{node}"));
    assert!(told.contains("redis+cluster://"), "{told}");
    let told = check(&format!("redis+cluster://127.0.0.1:{}", single.port()));
    assert!(told.contains("is no node of a cluster") && told.contains("redis://"), "{told}");
    let named = format!("the cache at 127.0.0.1:{} (cache.url in ", single.port());
    assert!(told.lines().any(|line| line.contains(&named) && line.contains("is no node of a cluster")), "{told}");
    let told = check(&scene.cluster.url());
    assert!(!told.contains("WRONG  cache"), "{told}");
}

/// A slot is on its way to a node that becomes a replica: nobody ends the way, and keys of other slots do not wait for it.
#[tokio::test]
async fn a_slot_on_its_way_to_a_node_that_lost_its_place_delays_no_other() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    ["id=repair.slowed", "id=sweep."].into_iter().for_each(|id| daemon.allow(id));
    let ids = scene.items_at(0, 10);
    let (moving, others) = ids.split_first().expect("there are ten");
    let slot = scene.cluster.slot(&format!("item:{moving}"));
    scene.cluster.open(slot, 0, 1);
    let replica = PRIMARIES + 1;
    scene.cluster.take_over(replica);
    eventually("the target of the slot is a replica", PATIENCE, async || {
        scene.cluster.info(1, "replication").contains("role:slave")
    })
    .await;
    // In the eyes of the node that the slot leaves as well.
    let seen = format!("{} ", scene.cluster.id(1));
    eventually("the owner knows it", PATIENCE, async || {
        let nodes: String = scene.cluster.nodes[0].ask(&["CLUSTER", "NODES"]);
        nodes.lines().any(|line| line.starts_with(&seen) && line.contains("slave"))
    })
    .await;
    scene.fill_at(others, &[0]);
    scene.update(&ids).await;
    scene.gone(&daemon, others, &[0]).await;
    scene.confirmed(&daemon).await;
    let () = scene.cluster.nodes[0].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "STABLE"]);
    scene.fill_at(&ids, &[0]);
    scene.update(&ids).await;
    scene.gone(&daemon, &ids, &[0]).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}
