//! A sweep in a cluster: passes over nodes, until none of their keys can have moved past a pass.
//!
//! SCAN sees one node. A key that moves from a node that was not scanned yet to one that was is seen by neither, and no
//! error tells. So a sweep of one shard also scans the nodes that its slots went to, and scans all of them again while
//! slots move. A key that moves once is found by the second pass at the latest.

use std::rc::Rc;

use super::delete::delete;
use super::moves::{Pass, is_over};
use super::node::Node;
use super::topology::Topology;
use super::view::NodeId;
use crate::cache::Swept;
use crate::cache::link::CacheLink;
use crate::cache::sweep::{self, Steps, SweepGround, SweepPlan};
use crate::cache::watch::KeyWatch;
use crate::error::{Error, Result};

/// So often one sweep goes over its nodes; then it fails, and is tried again.
const PASSES_MAX: u32 = 5;

/// Deletes what the plan names at the shard's node, and wherever its keys went meanwhile.
pub(super) async fn sweep(topology: &Topology, shard: usize, steps: &Steps, plan: &SweepPlan<'_>) -> Result<Swept> {
    let mut swept = Swept::default();
    for number in 1..=PASSES_MAX {
        topology.refresh().await?;
        let (nodes, count) = topology.followed(shard);
        for (id, node) in &nodes {
            let part = pass(topology, shard, (id, node), steps, plan).await;
            let part = part.map_err(|error| error.at(node.name())).inspect_err(|_| topology.doubt())?;
            swept.scanned += part.scanned;
            swept.deleted += part.deleted;
        }
        topology.refresh().await?;
        let (now, count_now) = topology.followed(shard);
        let more = now.iter().any(|(id, _)| !nodes.iter().any(|(seen, _)| seen == id));
        let is_followed = nodes.len() > 1 || more;
        if is_over(Pass {
            number,
            moved: count != count_now && is_followed,
            moving: topology.is_moving() && is_followed,
            more,
        }) {
            return Ok(swept);
        }
    }
    Err(Error::transient(format!("slots of the cluster moved in each of {PASSES_MAX} passes of a sweep"))
        .hint("The sweep goes on until a pass sees slots at rest; the mark waits meanwhile.")
        .at(topology.server()))
}

/// One pass over one node.
async fn pass(
    topology: &Topology,
    shard: usize,
    (id, node): (&NodeId, &Rc<Node>),
    steps: &Steps,
    plan: &SweepPlan<'_>,
) -> Result<Swept> {
    let mut link = node.cache.link().await?;
    let finish = async |_: &mut CacheLink, keys: &[&[u8]]| {
        // A key that was seen at a node is deleted there, also when its slot is another's yet.
        let endpoint = topology.endpoint_of(id).unwrap_or_else(|| node.endpoint.clone());
        let seen = Some((&endpoint, topology.takes(id)));
        let outcome = delete(topology, shard, keys.iter().copied(), (seen, &KeyWatch::default())).await;
        match outcome.error {
            Some(error) => Err(error),
            None => Ok(outcome.deleted.existed),
        }
    };
    sweep::run(&SweepGround { steps, progress: topology.health().progress(), finish }, &mut link, plan).await
}
