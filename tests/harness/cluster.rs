//! A throwaway cluster: six processes, three primaries with a replica each.

use std::net::TcpListener;
use std::time::Duration;

use redis::{FromRedisValue, RedisResult, ToRedisArgs, Value};

use super::redis::{Redis, Server};
use super::tls::{Authority, Pair};
use super::{process, wait};

/// How many primaries a cluster begins with.
pub const PRIMARIES: usize = 3;
const SLOTS: u16 = 16_384;

/// A running cluster; it ends with this value.
pub struct Cluster {
    /// The primaries, then the replica of each, then whoever joined.
    pub nodes: Vec<Redis>,
    server: Server,
    conf: Vec<String>,
    /// Where each node is for the others: its port for TLS, if they speak that.
    ports: Vec<u16>,
    speaks_tls: bool,
}

/// A port of which the one for the cluster's own talk is free, too, and below those of outgoing connections.
fn free_port() -> u16 {
    let serves = |port: u16| port < 22_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok();
    std::iter::repeat_with(process::free_port).find(|port| serves(*port)).expect("they do not end")
}

impl Cluster {
    /// Starts it with further lines of `redis.conf` for each node.
    pub fn start(server: Server, conf: &[&str]) -> Cluster {
        Cluster::made(server, conf.iter().map(|line| (*line).to_owned()).collect(), false)
    }

    /// The same whose nodes speak TLS to each other and to clients. At a port besides they speak to the tests without.
    pub fn start_with_tls(server: Server, conf: &[&str], authority: &Authority, pair: &Pair) -> Cluster {
        let files = [
            format!("tls-cert-file {}", pair.certificate.display()),
            format!("tls-key-file {}", pair.key.display()),
            format!("tls-ca-cert-file {}", authority.certificate().display()),
        ];
        let fixed = ["tls-cluster yes", "tls-replication yes", "tls-auth-clients no"].map(String::from);
        let conf = conf.iter().map(|line| (*line).to_owned());
        Cluster::made(server, conf.chain(files).chain(fixed).collect(), true)
    }

    fn made(server: Server, conf: Vec<String>, speaks_tls: bool) -> Cluster {
        let mut cluster = Cluster { nodes: Vec::new(), server, conf, ports: Vec::new(), speaks_tls };
        for _ in 0..2 * PRIMARIES {
            cluster.launch();
        }
        for (index, node) in cluster.nodes.iter().enumerate() {
            let () = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            if index < PRIMARIES {
                let share = usize::from(SLOTS) / PRIMARIES + 1;
                let (first, last) = (share * index, (share * (index + 1)).min(usize::from(SLOTS)) - 1);
                let slots: Vec<String> = (first..=last).map(|slot| slot.to_string()).collect();
                let command: Vec<String> = ["CLUSTER", "ADDSLOTS"].map(String::from).into_iter().chain(slots).collect();
                let () = node.ask(&command);
            }
        }
        (1..cluster.nodes.len()).for_each(|index| cluster.meet(index));
        cluster.wait_until_known();
        for index in 0..PRIMARIES {
            let id = cluster.id(index);
            let () = cluster.nodes[PRIMARIES + index].ask(&["CLUSTER", "REPLICATE", &id]);
        }
        let followed = wait::poll(Duration::from_secs(30), || {
            let all = (0..PRIMARIES).all(|index| cluster.info(index, "replication").contains("state=online"));
            all.then_some(())
        });
        assert!(followed.is_some(), "a replica does not follow");
        cluster
    }

    fn launch(&mut self) -> usize {
        let own =
            ["cluster-enabled yes", "cluster-config-file nodes.conf", "appendonly no", "repl-diskless-sync-delay 0"];
        let mut conf: Vec<&str> = own.into_iter().chain(self.server.with_debug()).collect();
        if !self.conf.iter().any(|line| line.starts_with("cluster-node-timeout")) {
            conf.push("cluster-node-timeout 1000");
        }
        conf.extend(self.conf.iter().map(String::as_str));
        // The port for the cluster's own talk follows from that of TLS, where there is one.
        let start = |_| {
            let port = free_port();
            if !self.speaks_tls {
                return Some((Redis::start_at(&self.server, &conf, port)?, port));
            }
            let line = format!("tls-port {port}");
            let conf: Vec<&str> = conf.iter().copied().chain([line.as_str()]).collect();
            Some((Redis::start_at(&self.server, &conf, process::free_port())?, port))
        };
        let (node, port) = (0..20).find_map(start).expect("one of the ports stays free");
        self.nodes.push(node);
        self.ports.push(port);
        self.nodes.len() - 1
    }

    fn meet(&self, index: usize) {
        let () = self.nodes[index].ask(&["CLUSTER", "MEET", "127.0.0.1", &self.port(0).to_string()]);
    }

    /// Where a node is for other nodes, and for clients that speak as nodes do.
    pub fn port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    fn wait_until_known(&self) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        let ready = wait::poll(Duration::from_secs(30), || {
            let knows = |node: &Redis| {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                info.contains(&known) && info.contains("cluster_state:ok")
            };
            self.nodes.iter().all(knows).then_some(())
        });
        assert!(ready.is_some(), "the nodes do not find each other");
    }

    /// One more node, without slots; its index.
    pub fn join(&mut self) -> usize {
        let index = self.launch();
        self.meet(index);
        self.wait_until_known();
        index
    }

    /// The URL with all that began as primaries.
    pub fn url(&self) -> String {
        let seeds: Vec<String> =
            self.nodes[..PRIMARIES].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// The same by the host's name, for clients that speak TLS.
    pub fn url_with_tls(&self, host: &str) -> String {
        let seeds: Vec<String> = self.ports[..PRIMARIES].iter().map(|port| format!("{host}:{port}")).collect();
        format!("rediss+cluster://{}", seeds.join(","))
    }

    /// The node hears none of the others any more, as if it were cut off from them; clients reach it.
    pub fn cut_off(&self, index: usize) {
        let known: String = self.nodes[index].ask(&["CLUSTER", "NODES"]);
        for other in known.lines().filter(|line| !line.contains("myself")) {
            let id = other.split(' ').next().expect("a line begins with a name");
            let () = self.nodes[index].ask(&["CLUSTER", "FORGET", id]);
        }
    }

    /// It finds the others again.
    pub fn rejoin(&self, index: usize) {
        // Of those that were forgotten nobody else may tell for a minute.
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            let () = self.nodes[index].ask(&["CLUSTER", "MEET", "127.0.0.1", &self.port(other).to_string()]);
        }
    }

    pub fn id(&self, index: usize) -> String {
        self.nodes[index].ask(&["CLUSTER", "MYID"])
    }

    pub fn info(&self, index: usize, section: &str) -> String {
        self.nodes[index].ask(&["INFO", section])
    }

    /// How often the node told its view of the cluster.
    pub fn views(&self, index: usize) -> u64 {
        self.calls(index, "cluster|nodes")
    }

    /// How many of a command's calls the node has executed.
    pub fn calls(&self, index: usize, command: &str) -> u64 {
        let (stats, name) = (self.info(index, "commandstats"), format!("cmdstat_{command}:calls="));
        let line = stats.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes[0].ask(&["CLUSTER", "KEYSLOT", key])
    }

    /// The node that answers for the key's slot; frozen and dead ones are left out.
    pub fn owner(&self, key: &str, asked: &[usize]) -> Option<usize> {
        asked.iter().copied().find(|index| self.at::<Value>(*index, &["EXISTS", key]).is_ok())
    }

    /// One command at one node, with its redirects as errors.
    pub fn at<T: FromRedisValue>(&self, index: usize, words: &[impl ToRedisArgs + std::fmt::Debug]) -> RedisResult<T> {
        command(words).query(&mut self.nodes[index].connection())
    }

    /// The same behind ASKING.
    pub fn asking<T: FromRedisValue>(
        &self,
        index: usize,
        words: &[impl ToRedisArgs + std::fmt::Debug],
    ) -> RedisResult<T> {
        let mut connection = self.nodes[index].connection();
        let () = redis::cmd("ASKING").query(&mut connection)?;
        command(words).query(&mut connection)
    }

    /// Stores a key at the owner of its slot.
    pub fn set(&self, key: &str, value: &str) {
        let stored = (0..self.nodes.len()).any(|index| self.at::<()>(index, &["SET", key, value]).is_ok());
        assert!(stored, "no node takes {key}");
    }

    /// Whether any of these nodes answers the key as a reader would be answered.
    pub fn holds(&self, key: &str, asked: &[usize]) -> bool {
        asked.iter().any(|index| {
            let seen = self.at::<bool>(*index, &["EXISTS", key]);
            seen.unwrap_or_else(|_| self.asking::<bool>(*index, &["EXISTS", key]).unwrap_or(false))
        })
    }

    /// Opens a slot's way from one primary to another.
    pub fn open(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let () = self.nodes[to].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        // A node learns from the others that it is the owner by now.
        let opened = wait::poll(Duration::from_secs(30), || {
            self.at::<()>(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]).ok()
        });
        assert!(opened.is_some(), "node {from} does not have slot {slot}");
    }

    /// Moves keys along the slot's way.
    pub fn carry(&self, from: usize, to: usize, timeout_ms: u32, keys: &[String]) -> RedisResult<Value> {
        let port = self.port(to).to_string();
        let mut words: Vec<String> =
            ["MIGRATE", "127.0.0.1", &port, "", "0", &timeout_ms.to_string(), "KEYS"].map(String::from).into();
        words.extend(keys.iter().cloned());
        self.at(from, &words)
    }

    /// Ends the slot's way: at its target first, and every other primary is told, too.
    pub fn close(&self, slot: u16, from: usize, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        for index in [to, from] {
            let () = self.nodes[index].ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
        for index in (0..self.nodes.len()).filter(|index| ![to, from].contains(index)) {
            // A replica refuses.
            let _: RedisResult<()> = self.at(index, &["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
        }
        // A node that has not heard of it tells the new owner that it is none, where epochs rise on both sides.
        let agreed = wait::poll(Duration::from_secs(30), || {
            let first = self.owners(0);
            (1..PRIMARIES).all(|index| self.owners(index) == first).then_some(())
        });
        assert!(agreed.is_some(), "the primaries do not agree");
    }

    /// Who has which slots, in the eyes of one node.
    fn owners(&self, index: usize) -> Vec<String> {
        let text: String = self.nodes[index].ask(&["CLUSTER", "NODES"]);
        let slots = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let slots: Vec<&str> = words.get(8..)?.iter().filter(|word| !word.starts_with('[')).copied().collect();
            (!slots.is_empty()).then(|| format!("{} {}", words[0], slots.join(" ")))
        };
        let mut owners: Vec<String> = text.lines().filter_map(slots).collect();
        owners.sort();
        owners
    }

    /// Moves a slot with all of its keys.
    pub fn migrate(&self, slot: u16, from: usize, to: usize) {
        self.open(slot, from, to);
        loop {
            let keys: Vec<String> = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "100"]);
            if keys.is_empty() {
                break;
            }
            let _ = self.carry(from, to, 5_000, &keys); // A key that went meanwhile is none to carry.
        }
        self.close(slot, from, to);
    }

    /// Valkey 9 moves slots by itself.
    pub fn migrate_atomically(&self, slots: &[u16], from: usize, to: usize) {
        let mut words: Vec<String> = ["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"].map(String::from).into();
        words.extend(slots.iter().flat_map(|slot| [slot.to_string(), slot.to_string()]));
        words.extend(["NODE".to_owned(), self.id(to)]);
        let () = self.nodes[from].ask(&words);
    }

    /// The replica takes its primary's place, whatever that one says.
    pub fn take_over(&self, replica: usize) {
        let () = self.nodes[replica].ask(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    }
}

fn command(words: &[impl ToRedisArgs]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    command.arg(words);
    command
}
