//! What the nodes of a cluster say of it, and the one map that follows from what all of them say. Pure.
//!
//! Each node tells which primaries there are, their slots and their configuration epochs; what is in motion at a node only
//! that node tells. Where nodes differ, the claim with the highest epoch is the truth for a slot, as it is among the
//! nodes themselves: an old primary that lost its majority claims with an old epoch. Of a node that answers, only what
//! it says of itself is a claim: one whose epoch rose keeps, in the eyes of others, what it gave away before.

use std::collections::{BTreeMap, BTreeSet};

use super::slot::{SLOTS, SlotSet};
use crate::cache::place::HostPort;

/// A node's name, forty hexadecimal digits.
pub type NodeId = String;

/// `host:port` of a redirect; an empty host, or `?`, is that of whoever was `asked`. IPv6 stands without brackets.
pub fn endpoint(text: &str, asked: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = if is_unknown(host) { asked } else { host };
    Some(HostPort { host: host.to_owned(), port: port.parse().ok().filter(|port| *port != 0)? })
}

/// Whether a host's name says nothing.
fn is_unknown(host: &str) -> bool {
    host.is_empty() || host == "?"
}

/// One line of CLUSTER NODES.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLine {
    /// Its name.
    pub id: NodeId,
    /// Address and port; the address may be empty.
    address: (String, u16),
    /// The host's name, where it has one.
    hostname: Option<String>,
    /// The node that was asked.
    is_myself: bool,
    /// A primary that is not given up.
    is_primary: bool,
    /// A majority of the primaries gave it up.
    is_failed: bool,
    /// Of a replica, its primary.
    replica_of: Option<NodeId>,
    /// The configuration epoch of its claims.
    epoch: u64,
    /// Its slots.
    owned: SlotSet,
    /// Slots that leave it, and where to.
    leaving: Vec<(u16, NodeId)>,
    /// Slots that come to it.
    coming: SlotSet,
}

/// A line; `None` for what is none.
fn node(line: &str) -> Option<NodeLine> {
    let mut words = line.split_ascii_whitespace();
    let (id, address, flags, primary) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let epoch = words.nth(2)?.parse().ok()?;
    let slots = words.skip(1);
    let mut parts = address.split(',');
    let place = parts.next()?;
    let (ip, port) = place.split('@').next()?.rsplit_once(':')?;
    let hostname = parts.next().filter(|name| !name.is_empty() && !name.contains('=')).map(str::to_owned);
    let flags: BTreeSet<&str> = flags.split(',').collect();
    let mut node = NodeLine {
        id: id.to_owned(),
        address: (ip.to_owned(), port.parse().ok()?),
        hostname,
        is_myself: flags.contains("myself"),
        is_primary: flags.contains("master") && !flags.contains("noaddr") && !flags.contains("handshake"),
        is_failed: flags.contains("fail"),
        replica_of: (primary != "-").then(|| primary.to_owned()),
        epoch,
        owned: SlotSet::default(),
        leaving: Vec::new(),
        coming: SlotSet::default(),
    };
    for slot in slots {
        match slot.strip_prefix('[').and_then(|slot| slot.strip_suffix(']')) {
            None => node.owned.add(&SlotSet::read(slot)?),
            Some(moving) => {
                if let Some((slot, to)) = moving.split_once("->-") {
                    node.leaving.push((slot.parse().ok()?, to.to_owned()));
                } else if let Some((slot, _)) = moving.split_once("-<-") {
                    node.coming.insert(slot.parse().ok()?);
                }
            }
        }
    }
    Some(node)
}

/// An entry of CLUSTER SLOTS: a node, how it wants to be reached (`None` where it says nothing), and its address if that
/// is told besides.
pub type Told = (NodeId, Option<String>, u16, Option<String>);

/// What one node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    nodes: Vec<NodeLine>,
    endpoints: BTreeMap<NodeId, HostPort>,
    /// Whether the node takes writes: CLUSTER INFO says `cluster_state:ok`.
    is_ok: bool,
}

impl View {
    /// From the texts of CLUSTER NODES and CLUSTER INFO and the entries of CLUSTER SLOTS, as said by the node that was
    /// reached at the host `asked`.
    pub fn read(nodes: &str, info: &str, told: &[Told], asked: &str) -> Option<Self> {
        let nodes: Vec<NodeLine> =
            nodes.lines().filter(|line| !line.trim().is_empty()).map(node).collect::<Option<_>>()?;
        let is_ok = info.lines().any(|line| line.trim_end() == "cluster_state:ok");
        let mut endpoints = BTreeMap::new();
        let mut by_name = false;
        for (id, host, port, ip) in told {
            // No name, and an empty one: the host that was asked. An unknown one: the address, where that is told.
            let host = match host.as_deref() {
                None | Some("") => asked,
                Some("?") => ip.as_deref().filter(|ip| !is_unknown(ip)).unwrap_or(asked),
                Some(host) => host,
            };
            by_name |= nodes.iter().any(|node| node.id == *id && node.hostname.as_deref() == Some(host));
            endpoints.insert(id.clone(), HostPort { host: host.to_owned(), port: *port });
        }
        // A node without slots is in no entry.
        for node in &nodes {
            let (ip, port) = &node.address;
            let host = node.hostname.as_deref().filter(|_| by_name).unwrap_or(ip);
            let host = if is_unknown(host) { asked } else { host };
            let at = || HostPort { host: host.to_owned(), port: *port };
            endpoints.entry(node.id.clone()).or_insert_with(at);
        }
        nodes.iter().any(|node| node.is_myself).then_some(View { nodes, endpoints, is_ok })
    }

    fn myself(&self) -> Option<&NodeLine> {
        self.nodes.iter().find(|node| node.is_myself)
    }
}

/// One primary that holds slots, or gets some.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Primary {
    /// Its slots.
    pub owned: SlotSet,
    /// Slots that come to it and are another's yet.
    pub coming: SlotSet,
    /// Where it is; `None` where no view says it.
    pub endpoint: Option<HostPort>,
    /// Its configuration epoch.
    pub epoch: u64,
}

/// Who has what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Map {
    /// Those that hold slots, or get some.
    pub primaries: BTreeMap<NodeId, Primary>,
    /// Where each node is that any view knows.
    pub endpoints: BTreeMap<NodeId, HostPort>,
    /// Of each replica, its primary.
    pub replicas: BTreeMap<NodeId, NodeId>,
    /// Nodes that say themselves that they take no writes.
    pub down: BTreeSet<NodeId>,
    /// Nodes that the others gave up, and that do not answer.
    pub failed: BTreeSet<NodeId>,
}

impl Map {
    /// The map that follows from all views.
    pub fn of(views: &[View]) -> Self {
        let mut map = Map::default();
        let mut claims: Vec<Option<(u64, &NodeId)>> = vec![None; usize::from(SLOTS)];
        let answered: BTreeSet<&NodeId> = views.iter().filter_map(View::myself).map(|node| &node.id).collect();
        let mut newest: BTreeMap<&NodeId, (u64, bool, &NodeLine)> = BTreeMap::new();
        for view in views {
            map.endpoints.extend(view.endpoints.iter().map(|(id, at)| (id.clone(), at.clone())));
            for node in &view.nodes {
                let seen = (node.epoch, node.is_myself, node);
                let known = newest.entry(&node.id).or_insert(seen);
                if (seen.0, seen.1) > (known.0, known.1) {
                    *known = seen;
                }
                // Of a node that answered, only its own word counts: the others learn by hearsay what it has.
                let is_hearsay = !node.is_myself && answered.contains(&node.id);
                if !node.is_primary || node.owned.is_empty() || is_hearsay {
                    continue;
                }
                for slot in (0..SLOTS).filter(|slot| node.owned.has(*slot)) {
                    let claim = &mut claims[usize::from(slot)];
                    *claim = (*claim).max(Some((node.epoch, &node.id)));
                }
            }
        }
        for (slot, claim) in (0..SLOTS).zip(&claims) {
            if let Some((_, id)) = claim {
                map.primaries.entry((*id).clone()).or_default().owned.insert(slot);
            }
        }
        for (id, (_, _, node)) in &newest {
            if let Some(primary) = node.replica_of.as_ref().filter(|_| !node.is_primary) {
                map.replicas.insert((*id).clone(), primary.clone());
            }
        }
        let failed = newest.values().filter(|(.., node)| node.is_failed && !answered.contains(&node.id));
        map.failed = failed.map(|(.., node)| node.id.clone()).collect();
        for view in views {
            let Some(myself) = view.myself().filter(|node| node.is_primary) else { continue };
            if !view.is_ok {
                map.down.insert(myself.id.clone());
            }
            let owner = |slot: u16| claims[usize::from(slot)].map(|(_, id)| id);
            for slot in (0..SLOTS).filter(|slot| myself.coming.has(*slot) && owner(*slot) != Some(&myself.id)) {
                map.primaries.entry(myself.id.clone()).or_default().coming.insert(slot);
            }
            // What goes to a node that failed, or was made a replica, nobody reads there; should it be back, its slots came
            // anew, and it is swept.
            let is_open = |slot: u16, to: &NodeId| owner(slot) == Some(&myself.id) && !map.takes_nothing(to);
            let open: Vec<_> = myself.leaving.iter().filter(|(slot, to)| is_open(*slot, to)).collect();
            for (slot, to) in open {
                map.primaries.entry(to.clone()).or_default().coming.insert(*slot);
            }
        }
        for (id, primary) in &mut map.primaries {
            primary.endpoint = map.endpoints.get(id).cloned();
            primary.epoch = newest.get(id).map_or(0, |(epoch, ..)| *epoch);
        }
        map
    }

    /// Whether no slot can come to this node: it failed, or is a replica.
    pub fn takes_nothing(&self, id: &NodeId) -> bool {
        self.failed.contains(id) || (self.replicas.contains_key(id) && !self.primaries.contains_key(id))
    }

    /// The owner of a slot.
    pub fn owner(&self, slot: u16) -> Option<&NodeId> {
        self.primaries.iter().find(|(_, primary)| primary.owned.has(slot)).map(|(id, _)| id)
    }

    /// A node said that the slot is this one's: nobody else has it from now on. Where this one was the replica of whoever
    /// had the slot, it took over: it has all that its primary had.
    pub fn moved(&mut self, slot: u16, to: &NodeId) {
        let owner = self.owner(slot).cloned();
        if let Some(owner) = owner.filter(|owner| self.replicas.get(to) == Some(owner)) {
            return self.took_over(owner, to);
        }
        self.primaries.values_mut().for_each(|primary| primary.owned.remove(slot));
        let place = self.endpoints.get(to).cloned();
        let primary = self.primaries.entry(to.clone()).or_default();
        primary.endpoint = primary.endpoint.take().or(place);
        primary.owned.insert(slot);
        primary.coming.remove(slot);
    }

    fn took_over(&mut self, owner: NodeId, to: &NodeId) {
        let place = self.endpoints.get(to).cloned();
        let had = self.primaries.remove(&owner).unwrap_or_default();
        let primary = self.primaries.entry(to.clone()).or_default();
        primary.endpoint = primary.endpoint.take().or(place);
        primary.owned.add(&had.owned);
        primary.coming.add(&had.coming);
        self.replicas.remove(to);
        self.replicas.insert(owner, to.clone());
    }

    /// A node said that keys of the slot are on their way to this one.
    pub fn comes(&mut self, slot: u16, to: &NodeId) {
        if self.takes_nothing(to) {
            return;
        }
        let place = self.endpoints.get(to).cloned();
        let primary = self.primaries.entry(to.clone()).or_default();
        primary.endpoint = primary.endpoint.take().or(place);
        if !primary.owned.has(slot) {
            primary.coming.insert(slot);
        }
    }

    /// The slot that the mark of this primary lies in: the lowest that does not leave it.
    pub fn mark_slot(&self, id: &NodeId) -> Option<u16> {
        let owned = &self.primaries.get(id)?.owned;
        let mut staying = owned.clone();
        self.primaries.values().for_each(|other| staying.lose(&other.coming));
        staying.first().or_else(|| owned.first())
    }

    /// The node at this place.
    pub fn at(&self, place: &HostPort) -> Option<&NodeId> {
        self.endpoints.iter().find(|(_, known)| *known == place).map(|(id, _)| id)
    }

    /// Whether slots are on their way.
    pub fn is_moving(&self) -> bool {
        self.primaries.values().any(|primary| !primary.coming.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaa";
    const B: &str = "bbbb";
    const C: &str = "cccc";

    fn view(nodes: &str, told: &[Told], asked: &str) -> View {
        View::read(nodes, "cluster_state:ok\r\n", told, asked).expect("a view")
    }

    fn owned(map: &Map) -> Vec<(&str, String, String)> {
        map.primaries.iter().map(|(id, node)| (id.as_str(), node.owned.text(), node.coming.text())).collect()
    }

    #[test]
    fn lines_of_every_version_are_read() {
        let texts = "aaaa 127.0.0.1:7001@17001 myself,master - 0 1 3 connected 0-5460 9000 [5-<-bbbb] [93->-bbbb]\n\
            bbbb 127.0.0.1:7002@17002,host.b,shard-id=1f master - 0 1 2 connected 5461-8999\n\
            cccc :0@0,,shard-id=1f slave,fail aaaa 0 1 3 disconnected\n\
            dddd ::1:7004@17004 slave bbbb 0 1 2 connected\n";
        let map = Map::of(&[view(texts, &[], "asked")]);
        assert_eq!(
            owned(&map),
            [(A, "0-5460,9000".to_owned(), String::new()), (B, "5461-8999".to_owned(), "93".to_owned())]
        );
        let at = |id: &str| map.endpoints[id].to_string();
        assert_eq!((at(A), at(B), at("dddd")), ("127.0.0.1:7001".into(), "127.0.0.1:7002".into(), "[::1]:7004".into()));
        assert_eq!(map.replicas[C], A);
        for wrong in ["", "aaaa", "aaaa x:1@2 master - 0 1 3 connected 0-5460", "aaaa x:1@2 myself - 0 1 x connected"] {
            assert!(View::read(wrong, "", &[], "h").is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_that_says_nothing_is_the_host_that_was_asked() {
        let texts = "aaaa 10.1.1.1:7001@1,a.example myself,master - 0 1 3 connected 0-10\n\
            bbbb 10.1.1.2:7002@1,b.example master - 0 1 2 connected 11-20\n\
            cccc :7003@1,c.example master - 0 1 2 connected\n";
        let told = |host: Option<&str>, ip: Option<&str>| -> Vec<Told> {
            vec![(A.to_owned(), host.map(str::to_owned), 7001, ip.map(str::to_owned))]
        };
        for (told, a, c) in [
            (told(None, None), "asked:7001", "asked:7003"),
            (told(Some(""), None), "asked:7001", "asked:7003"),
            (told(Some("?"), None), "asked:7001", "asked:7003"),
            (told(Some("?"), Some("10.9.9.9")), "10.9.9.9:7001", "asked:7003"),
            (told(Some("a.example"), None), "a.example:7001", "c.example:7003"),
            (told(Some("10.1.1.1"), None), "10.1.1.1:7001", "asked:7003"),
        ] {
            let map = Map::of(&[view(texts, &told, "asked")]);
            assert_eq!((map.endpoints[A].to_string(), map.endpoints[C].to_string()), (a.into(), c.into()), "{told:?}");
        }
        for (text, at) in [
            ("10.0.0.1:6379", Some("10.0.0.1:6379")),
            (":6379", Some("asked:6379")),
            ("?:6379", Some("asked:6379")),
            ("host.name:1", Some("host.name:1")),
            ("::1:6379", Some("[::1]:6379")),
            ("[::1]:6379", Some("[::1]:6379")),
            ("host", None),
            ("host:0", None),
            ("host:70000", None),
        ] {
            assert_eq!(endpoint(text, "asked").map(|at| at.to_string()).as_deref(), at, "{text}");
        }
    }

    #[test]
    fn the_claim_with_the_highest_epoch_is_true() {
        let old =
            view("aaaa h:1@1 myself,master - 0 1 1 connected 0-100\nbbbb h:2@1 slave aaaa 0 1 1 connected", &[], "h");
        let new = view(
            "aaaa h:1@1 master,fail - 0 1 1 connected\nbbbb h:2@1 myself,master - 0 1 9 connected 0-100",
            &[],
            "h",
        );
        for views in [[old.clone(), new.clone()], [new, old.clone()]] {
            assert_eq!(owned(&Map::of(&views)), [(B, "0-100".to_owned(), String::new())]);
        }
        let before = Map::of(&[old]);
        assert_eq!(owned(&before), [(A, "0-100".to_owned(), String::new())]);
        assert_eq!(before.replicas[B], A);
    }

    #[test]
    fn a_redirect_to_a_replica_says_that_it_took_over() {
        let lines = "aaaa h:1@1 myself,master - 0 1 1 connected 0-9 [5->-bbbb]\n\
            bbbb h:2@1 master - 0 1 2 connected 10-20\ncccc h:3@1 slave aaaa 0 1 1 connected";
        let known = Map::of(&[view(lines, &[], "h")]);
        let text = |map: &Map| format!("{:?}", owned(map));
        let mut map = known.clone();
        map.moved(3, &C.to_owned());
        assert_eq!(text(&map), r#"[("bbbb", "10-20", "5"), ("cccc", "0-9", "")]"#);
        assert_eq!((map.replicas.get(A).map(String::as_str), map.replicas.get(C)), (Some(C), None));
        // The replica of another, or no replica at all, got this slot and no other.
        let mut map = known.clone();
        map.moved(12, &C.to_owned());
        assert_eq!(text(&map), r#"[("aaaa", "0-9", ""), ("bbbb", "10-11,13-20", "5"), ("cccc", "12", "")]"#);
        let mut map = known;
        map.moved(3, &B.to_owned());
        assert_eq!(text(&map), r#"[("aaaa", "0-2,4-9", ""), ("bbbb", "3,10-20", "5")]"#);
    }

    #[test]
    fn of_a_node_that_answers_only_its_own_word_is_a_claim() {
        let own = |id: &str, port: u16, epoch: u64, slots: &str| {
            format!("{id} h:{port}@1 myself,master - 0 1 {epoch} connected {slots}")
        };
        let others = "\naaaa h:1@1 master - 0 1 9 connected 0-9\nbbbb h:2@1 master - 0 1 10 connected 10-20";
        let (a, b) = (view(&own(A, 1, 9, "0-10"), &[], "h"), view(&own(B, 2, 10, "11-20"), &[], "h"));
        let hearsay = view(&(own(C, 3, 3, "21-30") + others), &[], "h");
        let map = Map::of(&[a.clone(), b, hearsay.clone()]);
        assert_eq!(map.owner(10).map(String::as_str), Some(A));
        // Of one that does not answer, hearsay is all there is.
        assert_eq!(Map::of(&[a, hearsay]).owner(10).map(String::as_str), Some(B));
    }

    #[test]
    fn what_is_in_motion_is_said_by_either_end() {
        let a = view(
            "aaaa h:1@1 myself,master - 0 1 1 connected 0-9 [3->-bbbb]\nbbbb h:2@1 master - 0 1 2 connected 10-19",
            &[],
            "h",
        );
        let b = view(
            "aaaa h:1@1 master - 0 1 1 connected 0-9\nbbbb h:2@1 myself,master - 0 1 2 connected 10-19 [3-<-aaaa]",
            &[],
            "h",
        );
        for views in [vec![a.clone()], vec![b.clone()], vec![a.clone(), b]] {
            let map = Map::of(&views);
            assert_eq!(owned(&map), [(A, "0-9".to_owned(), String::new()), (B, "10-19".to_owned(), "3".to_owned())]);
            assert!(map.is_moving());
        }
        // The target has the slot already, and the source still says that it leaves.
        let done = view(
            "aaaa h:1@1 master - 0 1 1 connected 0-2 4-9\nbbbb h:2@1 myself,master - 0 1 5 connected 3 10-19",
            &[],
            "h",
        );
        let map = Map::of(&[a, done]);
        assert_eq!((map.owner(3).map(String::as_str), map.is_moving()), (Some(B), false));
    }

    #[test]
    fn a_redirect_moves_one_slot() {
        let text = "aaaa h:1@1 myself,master - 0 1 1 connected 0-9\ncccc h:3@1 master - 0 1 2 connected";
        let mut map = Map::of(&[view(text, &[], "h")]);
        map.comes(4, &C.to_owned());
        assert_eq!(owned(&map)[1], (C, String::new(), "4".to_owned()));
        map.moved(4, &C.to_owned());
        assert_eq!(owned(&map), [(A, "0-3,5-9".to_owned(), String::new()), (C, "4".to_owned(), String::new())]);
        assert_eq!(map.at(&HostPort { host: "h".into(), port: 3 }).map(String::as_str), Some(C));
        assert_eq!(map.primaries[C].endpoint.as_ref().map(|at| at.port), Some(3));
    }

    #[test]
    fn a_node_that_lost_its_majority_says_so() {
        let text = "aaaa h:1@1 myself,master - 0 1 1 connected 0-9";
        let view = View::read(text, "cluster_state:fail\r\n", &[], "h").expect("a view");
        assert!(Map::of(&[view]).down.contains(A));
    }
}
