//! Slots that move under load: there and back, to a node that joined, by the server's own migration. Nothing stays stale.
//!
//! A reader that knows the row's version stores it and looks later: a value older than what was committed before the last
//! position that is confirmed is stale.

use std::collections::BTreeMap;

use super::cluster::{ClusterScene, FIRST};
use super::daemon::Daemon;
use super::harness::redis::Server;
use super::harness::wait::{PATIENCE, eventually};

/// Stores what the rows say now: readers that are not late.
async fn read_all(scene: &ClusterScene, ids: &[u32], asked: &[usize]) -> BTreeMap<u32, i32> {
    let rows = scene.sql.query("SELECT id, n FROM items", &[]).await.expect("the table is there");
    let rows: BTreeMap<u32, i32> = rows.iter().map(|row| (row.get::<_, i32>(0) as u32, row.get(1))).collect();
    for id in ids {
        let (key, value) = (format!("item:{id}"), rows[id].to_string());
        let is_stored = asked.iter().any(|index| {
            scene.cluster.at::<()>(*index, &["SET", &key, &value]).is_ok()
                || scene.cluster.asking::<()>(*index, &["SET", &key, &value]).is_ok()
        });
        assert!(is_stored, "no node takes {key}");
    }
    rows
}

/// Items whose cached value is not that of the row.
async fn stale(scene: &ClusterScene, ids: &[u32], asked: &[usize]) -> Vec<u32> {
    let rows = scene.sql.query("SELECT id, n FROM items", &[]).await.expect("the table is there");
    let rows: BTreeMap<u32, i32> = rows.iter().map(|row| (row.get::<_, i32>(0) as u32, row.get(1))).collect();
    let cached = |id: &u32| {
        let key = format!("item:{id}");
        let at = |index: &usize| scene.cluster.at::<Option<i32>>(*index, &["GET", &key]).ok().flatten();
        asked.iter().find_map(at)
    };
    ids.iter().copied().filter(|id| cached(id).is_some_and(|value| value != rows[id])).collect()
}

/// Everything was confirmed and every migration is over: nothing that a reader is answered is older than its row.
async fn nothing_is_stale(scene: &ClusterScene, daemon: &Daemon, ids: &[u32], asked: &[usize]) {
    scene.confirmed(daemon).await;
    eventually("nothing is stale", PATIENCE, async || stale(scene, ids, asked).await.is_empty()).await;
}

#[tokio::test]
async fn slots_that_go_there_and_back_under_load_leave_nothing_stale() {
    for server in [Server::System, Server::Valkey9] {
        let scene = ClusterScene::start(server, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow_failing_cache();
        ["id=repair.slowed", "id=sweep."].into_iter().for_each(|id| daemon.allow(id));
        let ids: Vec<u32> = FIRST.iter().flat_map(|index| scene.items_at(*index, 12)).collect();
        for round in 0..6 {
            for (from, to) in [(0, 1), (1, 0)] {
                read_all(&scene, &ids, FIRST).await;
                for id in scene.items_at(0, 4) {
                    let slot = scene.cluster.slot(&format!("item:{id}"));
                    scene.cluster.open(slot, from, to);
                    if round % 2 == 0 {
                        scene.update(&[id]).await;
                    }
                    scene.cluster.migrate(slot, from, to);
                    scene.update(&ids[..6]).await;
                }
            }
        }
        nothing_is_stale(&scene, &daemon, &ids, FIRST).await;
        assert_eq!(daemon.stop(), Some(0), "{server:?}");
    }
}

/// A pattern is swept while its keys move, there in one round and back in the next.
#[tokio::test]
async fn a_sweep_during_migrations_misses_no_key() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    ["id=repair.slowed", "id=sweep."].into_iter().for_each(|id| daemon.allow(id));
    let notes: Vec<String> = (1..1_000).map(|id| format!("note:{id}")).collect();
    let share = 16_384 / 3 + 1;
    let of_first: Vec<&String> = notes.iter().filter(|note| scene.cluster.slot(note) / share == 0).take(8).collect();
    for round in 0..3 {
        notes.iter().for_each(|note| scene.cluster.set(note, "old"));
        scene.run("TRUNCATE notes").await;
        for note in &of_first {
            let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
            scene.cluster.migrate(scene.cluster.slot(note), from, to);
        }
        scene.confirmed(&daemon).await;
        eventually("every note is gone", PATIENCE, async || !notes.iter().any(|note| scene.cluster.holds(note, FIRST)))
            .await;
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_fourth_primary_takes_its_part_and_is_swept_alone() {
    for is_atomic in [false, true] {
        let mut scene = ClusterScene::start(Server::Valkey9, &[]).await;
        let mut daemon = scene.daemon().await;
        daemon.allow_failing_cache();
        daemon.allow("id=repair.slowed");
        let ids: Vec<u32> = FIRST.iter().flat_map(|index| scene.items_at(*index, 20)).collect();
        let joined = scene.cluster.join();
        let all = [0, 1, 2, joined];
        read_all(&scene, &ids, FIRST).await;
        let moving = scene.items_at(0, 10);
        let sweeps = daemon.log().matches("id=sweep.ended").count();
        if is_atomic {
            let slots: Vec<u16> = moving.iter().map(|id| scene.cluster.slot(&format!("item:{id}"))).collect();
            scene.cluster.migrate_atomically(&slots, 0, joined);
            scene.update(&moving).await;
            eventually("the server moved them", PATIENCE, async || {
                slots
                    .iter()
                    .zip(&moving)
                    .all(|(_, id)| scene.cluster.owner(&format!("item:{id}"), &all) == Some(joined))
            })
            .await;
        } else {
            for id in &moving {
                scene.update(&[*id]).await;
                scene.cluster.migrate(scene.cluster.slot(&format!("item:{id}")), 0, joined);
            }
        }
        scene.update(&moving).await;
        scene.gone(&daemon, &moving, &all).await;
        nothing_is_stale(&scene, &daemon, &ids, &all).await;
        // The new shard has a mark of its own, and the others were not swept.
        eventually("its mark", PATIENCE, async || !scene.marks(joined).is_empty()).await;
        let others = &ids[20..];
        assert!(others.iter().all(|id| scene.cluster.holds(&format!("item:{id}"), &all)), "{}", daemon.log());
        assert!(daemon.log().matches("id=sweep.ended").count() > sweeps, "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// The owner executes a delete that was sent before the slot began to move only when a broken migration has left a copy at
/// the other end, whose sweep is over.
#[tokio::test]
async fn a_delete_that_waited_at_the_owner_reaches_a_copy_that_came_meanwhile() {
    let scene = ClusterScene::start(Server::System, &[]).await;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    // So many go behind the gate only, and once.
    let ids = scene.items_at(0, 100);
    let (key, slot) = (format!("item:{}", ids[0]), scene.cluster.slot(&format!("item:{}", ids[0])));
    scene.fill(&ids);
    let () = scene.cluster.nodes[0].ask(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    scene.update(&ids).await;
    let waits = async || scene.cluster.info(0, "clients").contains("blocked_clients:1");
    eventually("the delete waits at the owner", PATIENCE, waits).await;
    let came = |daemon: &Daemon| daemon.log().matches("id=cluster.slots_came").count();
    let ended = |daemon: &Daemon| daemon.log().matches("id=sweep.ended").count();
    let (before, swept) = (came(&daemon), ended(&daemon));
    scene.cluster.open(slot, 0, 1);
    eventually("the node that the slot comes to is swept", PATIENCE, async || {
        came(&daemon) > before && ended(&daemon) > swept
    })
    .await;
    // As MIGRATE leaves the key when its target answers too late.
    let () = scene.cluster.asking(1, &["SET", &key, "old"]).expect("the slot comes to this node");
    let () = scene.cluster.nodes[0].ask(&["CLIENT", "UNPAUSE"]);
    scene.confirmed(&daemon).await;
    assert!(!scene.cluster.holds(&key, FIRST), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

/// Faster than anybody looks, and with a copy that a broken migration left.
#[tokio::test]
async fn a_slot_that_goes_there_and_back_between_two_looks_brings_nothing_stale() {
    let mut scene = ClusterScene::start(Server::System, &[]).await;
    // No delete ahead of the gate, as under load.
    scene.cache = "metered = \"yes\"\nheartbeat = \"2s\"";
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    ["id=repair.slowed", "id=sweep."].into_iter().for_each(|id| daemon.allow(id));
    let ids = scene.items_at(0, 3);
    for id in &ids {
        let (key, slot) = (format!("item:{id}"), scene.cluster.slot(&format!("item:{id}")));
        scene.fill(&[*id]);
        let looks = scene.cluster.views(0);
        eventually("a look is over", PATIENCE, async || scene.cluster.views(0) > looks).await;
        scene.cluster.open(slot, 0, 1);
        let () = scene.cluster.asking(1, &["SET", &key, "old"]).expect("the slot comes to this node");
        scene.update(&[*id]).await;
        let is_gone = async || !scene.cluster.at::<bool>(0, &["EXISTS", &key]).unwrap_or(false);
        eventually("the owner's copy is deleted", PATIENCE, is_gone).await;
        let [there, back] = [1, 0].map(|index| scene.cluster.id(index));
        let end = |owner: &str, told: [usize; 2]| {
            for index in told {
                let () = scene.cluster.nodes[index].ask(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", owner]);
            }
        };
        end(&there, [1, 0]);
        scene.cluster.open(slot, 1, 0);
        // The copy may be gone by now: then there is none to carry.
        let _ = scene.cluster.carry(1, 0, 10_000, std::slice::from_ref(&key));
        end(&back, [0, 1]);
    }
    let keys: Vec<String> = ids.iter().map(|id| format!("item:{id}")).collect();
    let is_held = || keys.iter().any(|key| scene.cluster.holds(key, FIRST));
    eventually("no copy is left", PATIENCE, async || !is_held()).await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// A node that joined has no slot of its own, and no mark: what comes to it is swept with each slot.
#[tokio::test]
async fn each_slot_on_its_way_to_a_node_without_slots_is_swept_there() {
    let mut scene = ClusterScene::start(Server::System, &[]).await;
    let joined = scene.cluster.join();
    let scene = scene;
    let mut daemon = scene.daemon().await;
    daemon.allow_failing_cache();
    ["id=repair.slowed", "id=sweep."].into_iter().for_each(|id| daemon.allow(id));
    for id in scene.items_at(0, 2) {
        let (key, slot) = (format!("item:{id}"), scene.cluster.slot(&format!("item:{id}")));
        scene.cluster.open(slot, 0, joined);
        // As a migration leaves it whose answer was lost.
        let () = scene.cluster.asking(joined, &["SET", &key, "old"]).expect("the slot comes to this node");
        let is_gone = async || !scene.cluster.asking::<bool>(joined, &["EXISTS", &key]).unwrap_or(true);
        eventually("the copy is swept", PATIENCE, is_gone).await;
    }
    assert_eq!(daemon.stop(), Some(0));
}
