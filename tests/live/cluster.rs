//! A cluster: keys of every shard go, along redirects and at both ends of a slot's way; each shard has its own mark.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::daemon::{self, Daemon, STARTED};
use super::harness::cluster::{Cluster, PRIMARIES};
use super::harness::postgres::{self, Postgres};
use super::harness::python::RedisPy;
use super::harness::redis::Server;
use super::harness::sink::Sink;
use super::harness::wait::{PATIENCE, eventually, settled};

const RULES: &str = r#"
[[rules]]
table = "public.items"
keys = ["item:{id}"]

[[rules]]
table = "public.notes"
keys = ["note:{id}"]
"#;

const TABLES: &str = "CREATE TABLE items (id int PRIMARY KEY, n int); CREATE TABLE notes (id int PRIMARY KEY);
    INSERT INTO items SELECT id, 0 FROM generate_series(1, 2000) AS id;";

pub const MARK: &str = "crieur:mark:crieur";

/// Servers with tables, rules, and what `crieur setup` makes.
pub struct ClusterScene {
    pub postgres: Postgres,
    pub cluster: Cluster,
    pub sql: Client,
    /// Further lines of `[cache]`.
    pub cache: &'static str,
}

impl ClusterScene {
    pub async fn start(server: Server, conf: &[&str]) -> ClusterScene {
        ClusterScene::over(Cluster::start(server, conf)).await
    }

    pub async fn over(cluster: Cluster) -> ClusterScene {
        let postgres = Postgres::start(postgres::Options::default());
        let sql = postgres.client().await;
        sql.batch_execute(TABLES).await.expect("valid SQL");
        let scene = ClusterScene { postgres, cluster, sql, cache: "" };
        let out = daemon::run("setup", &scene.config(), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        scene
    }

    /// Without echoes.
    pub fn config(&self) -> String {
        self.config_at(&self.cluster.url())
    }

    pub fn config_at(&self, url: &str) -> String {
        let (postgres, cache) = (self.postgres.url(), self.cache);
        format!(
            "[postgres]\nurl = \"{postgres}\"\n[cache]\nurl = \"{url}\"\necho = []\ntimeout = \"1s\"\n{cache}\n{RULES}"
        )
    }

    /// A daemon whose shards have all been swept, and are marked.
    pub async fn daemon(&self) -> Daemon {
        let mut daemon = Daemon::start(&self.config(), &[]);
        daemon.wait_for_log(STARTED);
        self.confirmed(&daemon).await;
        daemon
    }

    pub async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn update(&self, ids: &[u32]) {
        let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        self.run(&format!("UPDATE items SET n = n + 1 WHERE id IN ({ids})")).await;
    }

    async fn ask(&self, sql: &str) -> String {
        let row = self.sql.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Whether everything that was committed by now is confirmed.
    pub async fn is_confirmed(&self, now: &str) -> bool {
        let slot = "SELECT (confirmed_flush_lsn >= '{now}')::text FROM pg_replication_slots WHERE slot_name = 'crieur'";
        self.ask(&slot.replace("{now}", now)).await == "true"
    }

    pub async fn now(&self) -> String {
        self.ask("SELECT pg_current_wal_lsn()::text").await
    }

    /// Waits until everything that is committed by now is confirmed.
    pub async fn confirmed(&self, daemon: &Daemon) {
        let now = self.now().await;
        settled(&format!("{now} is confirmed"), PATIENCE, async || match self.is_confirmed(&now).await {
            true => Ok(()),
            false => Err(daemon.log()),
        })
        .await;
    }

    /// The first items whose keys lie at this node, as the cluster was made.
    pub fn items_at(&self, index: usize, count: usize) -> Vec<u32> {
        let share = 16_384 / PRIMARIES + 1;
        let at = |id: &u32| usize::from(self.cluster.slot(&format!("item:{id}"))) / share == index;
        (1..2_000).filter(at).take(count).collect()
    }

    /// Waits until the keys of these items are nowhere among the nodes.
    pub async fn gone(&self, daemon: &Daemon, ids: &[u32], asked: &[usize]) {
        settled("the keys are gone", PATIENCE, async || {
            let left: Vec<&u32> = ids.iter().filter(|id| self.cluster.holds(&format!("item:{id}"), asked)).collect();
            if left.is_empty() { Ok(()) } else { Err((left.len(), daemon.log())) }
        })
        .await;
    }

    pub fn fill(&self, ids: &[u32]) {
        ids.iter().for_each(|id| self.cluster.set(&format!("item:{id}"), "old"));
    }

    /// The same while the other nodes do not answer.
    pub fn fill_at(&self, ids: &[u32], asked: &[usize]) {
        for key in ids.iter().map(|id| format!("item:{id}")) {
            let stored = asked.iter().any(|index| self.cluster.at::<()>(*index, &["SET", &key, "old"]).is_ok());
            assert!(stored, "none of these nodes takes {key}");
        }
    }

    /// The marks at a node.
    pub fn marks(&self, index: usize) -> Vec<String> {
        self.cluster.at(index, &["KEYS", "crieur:mark:*"]).unwrap_or_default()
    }
}

/// The primaries as the cluster was made.
pub const FIRST: &[usize] = &[0, 1, 2];

/// Whichever node each of the two addresses names.
#[tokio::test]
async fn two_caches_on_one_cluster_are_refused_by_name() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    for other in [0, 1] {
        let url = format!("redis+cluster://127.0.0.1:{}", scene.cluster.port(other));
        let twin = format!("{}\n[caches.dakar]\nurl = \"{url}\"\n", scene.config());
        let out = daemon::run("check", &twin, &[]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let words = ["one cluster", "main", "dakar", "let it lead to another cluster"];
        assert!(!out.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
        let mut daemon = Daemon::start(&twin, &[]);
        daemon.allow("id=run.failed");
        assert_eq!(daemon.exit(), Some(crieur::error::Exit::Config as i32), "{}", daemon.log());
        assert!(daemon.log().contains("are one cluster"), "{}", daemon.log());
    }
}

#[tokio::test]
async fn keys_of_every_shard_go_and_each_shard_has_its_mark() {
    for server in Server::ALL.iter().copied() {
        let scene = ClusterScene::start(server, &[]).await;
        let mut daemon = scene.daemon().await;
        let ids: Vec<u32> = (0..PRIMARIES).flat_map(|index| scene.items_at(index, 100)).collect();
        scene.fill(&ids);
        scene.cluster.set("session:1", "x");
        scene.update(&ids).await;
        scene.confirmed(&daemon).await;
        assert!(!ids.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), FIRST)), "{server:?}");
        assert!(scene.cluster.holds("session:1", FIRST));
        let marks: BTreeSet<String> = FIRST.iter().flat_map(|index| scene.marks(*index)).collect();
        assert_eq!(marks.len(), PRIMARIES + 1, "{marks:?}");
        let mark = || FIRST.iter().find_map(|index| scene.cluster.at::<String>(*index, &["GET", MARK]).ok());
        let now = scene.now().await;
        scene.run("SELECT pg_logical_emit_message(true, 'x', 'y')").await;
        settled("the mark of the whole moves", PATIENCE, async || {
            let whole = mark().unwrap_or_default();
            let lsn =
                whole.split("\"lsn\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("0/0").to_owned();
            let is_past = scene.ask(&format!("SELECT ('{lsn}'::pg_lsn >= '{now}'::pg_lsn)::text")).await == "true";
            if is_past && !whole.contains('\n') { Ok(()) } else { Err(whole) }
        })
        .await;
        // A pattern goes to every shard.
        (1..200).for_each(|id| scene.cluster.set(&format!("note:{id}"), "old"));
        scene.run("TRUNCATE notes").await;
        eventually("every note goes", PATIENCE, async || {
            !(1..200).any(|id| scene.cluster.holds(&format!("note:{id}"), FIRST))
        })
        .await;
        assert_eq!(daemon.stop(), Some(0));
        // A start behind marks that are trusted sweeps nothing.
        scene.fill(&ids);
        let mut daemon = scene.daemon().await;
        scene.update(&ids[..1]).await;
        scene.confirmed(&daemon).await;
        assert!(scene.cluster.holds(&format!("item:{}", ids[5]), FIRST), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The map of redis-py is older than the move of a slot: it follows the redirect, as crieur does.
#[tokio::test]
async fn keys_that_redis_py_stored_are_gone_for_redis_py() {
    const COUNT: u32 = 300;
    let scene = ClusterScene::start(Server::Valkey9, &[]).await;
    let mut daemon = scene.daemon().await;
    let ids: Vec<u32> = (1..=COUNT).collect();
    let python = RedisPy::start(scene.cluster.port(0), "item:", COUNT);
    assert!(FIRST.iter().all(|index| scene.items_at(*index, 1)[0] <= COUNT), "each shard has some");
    scene.cluster.migrate(scene.cluster.slot(&format!("item:{}", scene.items_at(0, 1)[0])), 0, 1);
    scene.update(&ids).await;
    let (is_gone, said) = python.ends();
    assert!(is_gone, "{said}\n{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// A slot's way is opened and never ended.
#[tokio::test]
async fn keys_of_a_slot_in_motion_go_where_they_live_also_apart_from_their_lease() {
    for server in [Server::System, Server::Valkey9] {
        let mut scene = ClusterScene::start(server, &[]).await;
        scene.cache = "leases = \"companion\"";
        let mut daemon = scene.daemon().await;
        let ids = scene.items_at(0, 4);
        let lease = |id: u32| format!("lease:{{item:{id}}}");
        for id in &ids {
            scene.fill(&[*id]);
            scene.cluster.set(&lease(*id), "token");
            scene.cluster.open(scene.cluster.slot(&format!("item:{id}")), 0, 1);
        }
        let [_, moved, key_moved, lease_moved] = ids[..] else { panic!("four items") };
        let key = |id: u32| format!("item:{id}");
        scene.cluster.carry(0, 1, 5_000, &[key(moved), lease(moved)]).expect("they move");
        scene.cluster.carry(0, 1, 5_000, &[key(key_moved)]).expect("it moves");
        scene.cluster.carry(0, 1, 5_000, &[lease(lease_moved)]).expect("it moves");
        let missing = scene.items_at(0, 8)[7];
        scene.cluster.open(scene.cluster.slot(&key(missing)), 0, 1);
        scene.update(&[&ids[..], &[missing]].concat()).await;
        scene.confirmed(&daemon).await;
        for id in ids {
            for name in [key(id), lease(id)] {
                assert!(!scene.cluster.holds(&name, FIRST), "{server:?} {name}\n{}", daemon.log());
            }
        }
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// `cluster_migrate_timeout.py`: the copy that is left at the target is nobody's until the slot is the target's.
#[tokio::test]
async fn a_copy_that_a_broken_migration_left_goes() {
    for (server, is_seen) in [(Server::System, true), (Server::System, false), (Server::Valkey9, false)] {
        let scene = ClusterScene::start(server, &[]).await;
        let mut daemon = scene.daemon().await;
        let id = scene.items_at(0, 1)[0];
        let (key, slot) = (format!("item:{id}"), scene.cluster.slot(&format!("item:{id}")));
        scene.fill(&[id]);
        scene.cluster.open(slot, 0, 1);
        if is_seen {
            // The map was asked for twice since, so the daemon knows the way.
            let before = scene.cluster.views(0);
            eventually("the map is asked for", PATIENCE, async || scene.cluster.views(0) >= before + 2).await;
        }
        scene.cluster.nodes[1].freeze();
        assert!(scene.cluster.carry(0, 1, 200, std::slice::from_ref(&key)).is_err(), "the target does not answer");
        scene.cluster.nodes[1].thaw();
        eventually("a copy is at both ends", PATIENCE, async || {
            scene.cluster.at::<bool>(0, &["EXISTS", &key]).is_ok_and(|there| there)
                && scene.cluster.asking::<bool>(1, &["EXISTS", &key]).is_ok_and(|there| there)
        })
        .await;
        scene.update(&[id]).await;
        scene.confirmed(&daemon).await;
        if is_seen {
            assert!(!scene.cluster.holds(&key, FIRST), "{}", daemon.log());
        }
        scene.cluster.close(slot, 0, 1);
        scene.gone(&daemon, &[id], FIRST).await;
        daemon.allow("id=repair.slowed");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Exit code and output of `crieur status` with these arguments.
fn status(scene: &ClusterScene, arguments: &[&str]) -> (Option<i32>, String) {
    let out = daemon::run_with(&[&["status"], arguments].concat(), &scene.config());
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (out.status.code(), text.concat())
}

/// What every shard has deleted is what counts, whichever of them is behind.
#[tokio::test]
async fn status_waits_for_every_shard() {
    let scene = ClusterScene::start(Server::System, &["cluster-node-timeout 60000"]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    let ids: Vec<u32> = (0..PRIMARIES).flat_map(|index| scene.items_at(index, 10)).collect();
    for _ in 0..3 {
        scene.fill(&ids);
        scene.update(&ids).await;
        let (code, said) = status(&scene, &["--wait", "now"]);
        assert_eq!(code, Some(0), "{said} {}", daemon.log());
        assert!(!ids.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), FIRST)), "{}", daemon.log());
    }
    let (code, said) = status(&scene, &[]);
    assert!(code == Some(0) && said.contains("cache main: lsn "), "{code:?} {said}");
    let owner = scene.cluster.owner(MARK, FIRST);
    let behind = FIRST.iter().copied().find(|index| *index != 0 && Some(*index) != owner).expect("there are three");
    let there = scene.items_at(behind, 10);
    scene.fill(&there);
    scene.cluster.nodes[behind].freeze();
    scene.update(&ids).await;
    let (code, said) = status(&scene, &["--wait", "now", "--timeout", "5s"]);
    assert!(code == Some(1) && said.contains("cache main is at "), "{code:?} {said} {}", daemon.log());
    scene.cluster.nodes[behind].thaw();
    let (code, said) = status(&scene, &["--wait", "now"]);
    assert_eq!(code, Some(0), "{said} {}", daemon.log());
    assert!(!there.iter().any(|id| scene.cluster.holds(&format!("item:{id}"), FIRST)), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// A page of a change is purged behind the shard that has its key, and behind every other one.
#[tokio::test]
async fn a_sink_waits_for_every_shard() {
    let (scene, site) = (ClusterScene::start(Server::System, &["cluster-node-timeout 60000"]).await, Sink::webhook());
    let keys = "keys = [\"item:{id}\"]";
    let tags = format!("{keys}\ntags = [\"item:{{id}}\"]\ntags_all = \"items\"");
    let config = format!("{}\n{}", site.section("echo = []"), scene.config().replace(keys, &tags));
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow_failing_cache();
    daemon.wait_for_log(STARTED);
    scene.confirmed(&daemon).await;
    let ids = [scene.items_at(0, 1), scene.items_at(1, 1)].concat();
    scene.fill(&ids);
    scene.cluster.nodes[1].freeze();
    scene.update(&ids).await;
    scene.gone(&daemon, &ids[..1], &[0, 2]).await;
    daemon.wait_for_log("id=cache.failing");
    let purged = || site.purged().into_iter().filter(|tag| tag.starts_with("item:")).collect::<BTreeSet<_>>();
    assert_eq!(purged(), BTreeSet::new(), "a page is made from a stale key: {}", daemon.log());
    scene.cluster.nodes[1].thaw();
    let all: BTreeSet<String> = ids.iter().map(|id| format!("item:{id}")).collect();
    settled("both tags are purged", PATIENCE, async || match purged() == all {
        true => Ok(()),
        false => Err((site.log(), daemon.log())),
    })
    .await;
    scene.gone(&daemon, &ids, FIRST).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}
