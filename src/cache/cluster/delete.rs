//! Deletes of single keys in a cluster: to the node of each, along its redirects, and what was answered never again.

use futures_util::future::join_all;

use super::node::Sent;
use super::redirect::{HOPS_MAX, Next, NodeAnswer, SentPart, Wait, next};
use super::topology::Topology;
use crate::cache::place::HostPort;
use crate::cache::watch::KeyWatch;
use crate::cache::{Deleted, reply};
use crate::config::Leases;
use crate::error::{Error, Result};

/// A key on its way.
struct Going<'a> {
    key: &'a [u8],
    part: SentPart,
    hops: u8,
    /// Where a redirect sent it, and whether the node is to be asked; `None`: to where the map says.
    to: Option<(HostPort, bool)>,
    /// The owner of its slot has answered; this is for the copy at the node that the slot comes to.
    is_second: bool,
}

/// What became of all keys of a call.
pub(super) struct DeleteOutcome<'a> {
    pub(super) deleted: Deleted,
    /// Those that are not deleted.
    pub(super) left: Vec<&'a [u8]>,
    /// Why, of one of them.
    pub(super) error: Option<Error>,
}

impl DeleteOutcome<'_> {
    fn waits(&mut self, error: Error) {
        // What stops the daemon is told rather than what passes.
        let is_told = self.error.as_ref().is_some_and(|told| !told.is_transient() || error.is_transient());
        if !is_told {
            self.error = Some(error);
        }
    }
}

/// Deletes each key, with its lease where readers keep one: where the map says, as the shard sees it, or at a node where
/// they were seen, which is asked when slots come to it.
pub(super) async fn delete<'a>(
    topology: &Topology,
    shard: usize,
    keys: impl Iterator<Item = &'a [u8]>,
    (seen, watch): (Option<(&HostPort, bool)>, &KeyWatch),
) -> DeleteOutcome<'a> {
    let has_lease = topology.settings().leases == Leases::Companion;
    let to = seen.map(|(endpoint, asking)| (endpoint.clone(), asking));
    let mut going: Vec<Going<'a>> =
        keys.map(|key| Going { key, part: SentPart::Whole, hops: 0, to: to.clone(), is_second: false }).collect();
    let mut outcome = DeleteOutcome { deleted: Deleted::default(), left: Vec::new(), error: None };
    while !going.is_empty() {
        let groups = grouped(topology, shard, std::mem::take(&mut going), &mut outcome);
        let sending = groups.iter().map(|(endpoint, group)| send(topology, endpoint, group));
        let answered = join_all(sending).await;
        for ((endpoint, group), (answers, error)) in groups.into_iter().zip(answered) {
            for (key, answer) in group.into_iter().zip(answers) {
                match answer {
                    None => outcome.left.push(key.key),
                    Some(answer) => {
                        follow(topology, &endpoint, (key.0, answer), (has_lease, watch), &mut going, &mut outcome)
                    }
                }
            }
            if let Some(error) = error {
                topology.doubt();
                outcome.waits(error);
            }
        }
    }
    outcome
}

/// A key and whether its node is to be asked.
struct Addressed<'a>(Going<'a>, bool);

impl<'a> std::ops::Deref for Addressed<'a> {
    type Target = Going<'a>;

    fn deref(&self) -> &Going<'a> {
        &self.0
    }
}

/// By the node that each goes to.
fn grouped<'a>(
    topology: &Topology,
    shard: usize,
    going: Vec<Going<'a>>,
    outcome: &mut DeleteOutcome<'a>,
) -> Vec<(HostPort, Vec<Addressed<'a>>)> {
    let routes = topology.routes(shard);
    let mut groups: Vec<(HostPort, Vec<Addressed<'a>>)> =
        routes.endpoints.iter().map(|endpoint| (endpoint.clone(), Vec::new())).collect();
    for key in going {
        match (&key.to, routes.of(key.key)) {
            (Some((endpoint, asking)), _) => {
                let asking = *asking;
                match groups.iter_mut().find(|(known, _)| known == endpoint) {
                    Some((_, group)) => group.push(Addressed(key, asking)),
                    None => groups.push((endpoint.clone(), vec![Addressed(key, asking)])),
                }
            }
            (None, Some((index, asking))) => groups[index].1.push(Addressed(key, asking)),
            (None, None) => {
                outcome.left.push(key.key);
                outcome.waits(reply::in_cluster("UNLINK", "CLUSTERDOWN", "Hash slot not served").at(topology.server()));
                topology.doubt();
            }
        }
    }
    groups.retain(|(_, group)| !group.is_empty());
    groups
}

/// Sends a group to its node: for each key its answer, if it had one.
async fn send(
    topology: &Topology,
    endpoint: &HostPort,
    group: &[Addressed<'_>],
) -> (Vec<Option<NodeAnswer>>, Option<Error>) {
    let node = topology.node_at(endpoint);
    let sent: Vec<Sent<'_>> = group.iter().map(|key| Sent { key: key.key, part: key.part, asking: key.1 }).collect();
    let mut answers: Vec<Option<NodeAnswer>> = vec![None; group.len()];
    let mut each = |index: usize, answer: NodeAnswer| answers[index] = Some(answer);
    let ended: Result<()> = tokio::select! {
        ended = node.delete(&sent, &mut each) => ended,
        () = topology.deposed(endpoint) => {
            Err(Error::transient("the node holds no slots any more: its keys go to the one that has them").at(node.name()))
        }
    };
    (answers, ended.err())
}

/// Does what follows from one answer.
fn follow<'a>(
    topology: &Topology,
    at: &HostPort,
    (mut key, answer): (Going<'a>, NodeAnswer),
    (has_lease, watch): (bool, &KeyWatch),
    going: &mut Vec<Going<'a>>,
    outcome: &mut DeleteOutcome<'a>,
) {
    // The key is not where the slot still is, and nobody reads it where the slot was going: that node failed, or is a
    // replica. When the node is back its slots come anew, and the node is swept.
    let answer = match answer {
        NodeAnswer::Ask(_, to) if topology.takes_nothing(&to) => NodeAnswer::Done(0),
        answer => answer,
    };
    match &answer {
        NodeAnswer::Moved(slot, to) => topology.moved(*slot, to),
        NodeAnswer::Ask(slot, to) => topology.comes(*slot, to),
        _ => {}
    }
    match next(key.part, has_lease, key.hops, answer) {
        Next::Done(existed) => {
            if key.is_second {
                return;
            }
            outcome.deleted.sent += 1;
            outcome.deleted.existed += existed;
            watch.answered(key.key, existed);
            if key.to.is_none()
                && let Some(coming) = topology.comes_to(key.key, at)
            {
                // The key may have been handed over before its slot began to move, and a MIGRATE that timed out since may
                // have left a copy there: the shard of that node does not know of this key.
                (key.part, key.hops, key.to, key.is_second) = (SentPart::Whole, 0, Some((coming, true)), true);
                going.push(key);
            }
        }
        Next::Send(part) => {
            key.part = part;
            // The key's own road may be another than its lease's.
            (key.to, key.hops) = (None, 0);
            going.push(key);
        }
        Next::Follow { to, asking } => {
            key.hops += 1;
            key.to = Some((to, asking));
            going.push(key);
        }
        Next::Wait(wait) => {
            topology.doubt();
            outcome.left.push(key.key);
            outcome.waits(why(topology, at, wait));
        }
    }
}

fn why(topology: &Topology, at: &HostPort, wait: Wait) -> Error {
    let name = topology.node_at(at).name().to_owned();
    match wait {
        Wait::Loop(to) => Error::transient(format!(
            "the nodes {at} and {to} of the cluster send a key to each other: more than {HOPS_MAX} redirects"
        ))
        .hint("Compare CLUSTER NODES of both; redis-cli --cluster fix mends slots that no node will have.")
        .at(topology.server()),
        Wait::Refused(code, detail) => reply::in_cluster("UNLINK", &code, &detail).at(&name),
        Wait::Strange => reply::unexpected("UNLINK").at(&name),
    }
}
