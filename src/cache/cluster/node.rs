//! One node of a cluster: its connections, what it says of the cluster, and deletes of single keys at it.

use std::cell::RefCell;
use std::time::Duration;

use ::redis::{Cmd, Pipeline, Value};

use super::pipe::{DeletePipe, command};
use super::redirect::{NodeAnswer, SentPart, answer};
use super::view::{Told, View};
use crate::cache::acl;
use crate::cache::address::Address;
use crate::cache::lease;
use crate::cache::link::CacheLink;
use crate::cache::long;
use crate::cache::place::{HostPort, NodeLogin};
use crate::cache::redis::RedisCache;
use crate::cache::reply;
use crate::cache::speak::Speaks;
use crate::cache::unlink::Packing;
use crate::config::{CacheConfig, Leases};
use crate::error::{Error, Exit, Result};

/// Bytes of commands sent before their replies are awaited.
const EXCHANGE_BYTES_MAX: usize = 512 * 1024;
/// Commands sent before their replies are awaited.
const EXCHANGE_COMMANDS_MAX: usize = 8_192;

/// What is sent to a node for one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent<'a> {
    pub(super) key: &'a [u8],
    pub(super) part: SentPart,
    pub(super) asking: bool,
}

/// A node.
pub(super) struct Node {
    pub(super) endpoint: HostPort,
    /// The connections for its mark and its sweeps.
    pub(super) cache: RedisCache,
    timeout: Duration,
    age_max: Duration,
    leases: Leases,
    address: Address,
    /// The connection for deletes, while it is idle.
    pipe: RefCell<Option<DeletePipe>>,
    /// The connection for questions about the cluster, while it is idle.
    asking: RefCell<Option<CacheLink>>,
}

impl Node {
    /// Connects on the first call.
    pub(super) fn new(endpoint: HostPort, login: &NodeLogin, settings: &CacheConfig) -> Self {
        let address = || Address::of_node(login, "the cache", &endpoint);
        Node {
            cache: RedisCache::at(address(), settings),
            timeout: settings.timeout,
            age_max: settings.connection_age_max,
            leases: settings.leases,
            address: address(),
            pipe: RefCell::default(),
            asking: RefCell::default(),
            endpoint,
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> &str {
        self.cache.server()
    }

    /// What the node says of the cluster.
    pub(super) async fn view(&self) -> Result<View> {
        let mut pipeline = Pipeline::new();
        for word in ["NODES", "INFO", "SLOTS"] {
            pipeline.cmd("CLUSTER").arg(word);
        }
        let replies = self.ask(&pipeline).await?;
        let [nodes, info, slots] = replies.as_slice() else { return Err(reply::unexpected("CLUSTER")) };
        for value in [nodes, info, slots] {
            if let Value::ServerError(error) = value {
                let refused = match error.details().is_some_and(|detail| detail.contains("cluster support disabled")) {
                    true => no_cluster(),
                    false if error.code() == "NOPERM" => reply::refused("CLUSTER", error).hint(format!(
                        "Let the user ask for the slots and follow them: ACL SETUSER NAME {}",
                        acl::IN_CLUSTER
                    )),
                    false => reply::refused("CLUSTER", error),
                };
                return Err(refused.at(self.name()));
            }
        }
        let (nodes, info, told) = (text(nodes), text(info), told(slots));
        let view = told.and_then(|told| View::read(&nodes?, &info?, &told, &self.endpoint.host));
        view.ok_or_else(|| reply::unexpected("CLUSTER"))
    }

    /// Asks on a connection of its own, which stays.
    pub(super) async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let idle = self.asking.borrow_mut().take();
        if let Some(mut link) = idle.filter(|link| link.born.elapsed() < self.age_max)
            && let Ok(replies) = link.again().exchange(pipeline, 0).await
        {
            *self.asking.borrow_mut() = Some(link);
            return Ok(replies);
        }
        let mut link = self.cache.log_in().await?;
        let replies = link.exchange(pipeline, 0).await.map_err(|error| error.at(self.name()))?;
        *self.asking.borrow_mut() = Some(link);
        Ok(replies)
    }

    /// The connection for deletes: to the same server as the one for the mark, as far as the server says.
    async fn pipe(&self) -> Result<DeletePipe> {
        let idle = self.pipe.borrow_mut().take();
        let is_good =
            |pipe: &DeletePipe| pipe.generation == self.cache.generation() && pipe.born.elapsed() < self.age_max;
        match idle.filter(is_good) {
            Some(pipe) => Ok(pipe),
            None => self.open_pipe().await,
        }
    }

    async fn open_pipe(&self) -> Result<DeletePipe> {
        let mut pipe = DeletePipe::open(&self.address, self.timeout).await.map_err(|error| error.at(self.name()))?;
        if pipe.info.is_replica() {
            return Err(reply::replica().at(self.name()));
        }
        let identity = pipe.identity().ok_or_else(|| nameless().at(self.name()))?;
        pipe.generation = self.cache.met(&identity);
        Ok(pipe)
    }

    /// Deletes each of these, and hands over each answer as it comes. After an error some have none.
    pub(super) async fn delete(&self, sent: &[Sent<'_>], each: &mut dyn FnMut(usize, NodeAnswer)) -> Result<()> {
        let is_long = |place: &usize| Packing::Free.is_long(sent[*place].key.len(), self.leases);
        let (long, places): (Vec<usize>, Vec<usize>) = (0..sent.len()).partition(is_long);
        if !places.is_empty() {
            let mut pipe = self.pipe().await?;
            let deleted = self.delete_over(&mut pipe, (sent, &places), each).await;
            deleted.map_err(|error| error.at(self.name())).inspect_err(|_| self.cache.broken())?;
            *self.pipe.borrow_mut() = Some(pipe);
        }
        for place in long {
            self.delete_long(sent, place, each).await.map_err(|error| error.at(self.name()))?;
        }
        Ok(())
    }

    /// Deletes a key so long that the node may refuse to read it, on a connection of its own: whatever the key does to
    /// the connection, the others are through.
    async fn delete_long(
        &self,
        sent: &[Sent<'_>],
        place: usize,
        each: &mut dyn FnMut(usize, NodeAnswer),
    ) -> Result<()> {
        for _ in 0..long::TRIES {
            // A connection that was made and logged in proves that nothing but the key is wrong.
            let (mut pipe, mut answer) = (self.open_pipe().await?, None);
            let ended = self.delete_over(&mut pipe, (sent, &[place]), &mut |_, said| answer = Some(said)).await;
            match (ended, answer) {
                (Ok(()), Some(said)) if !said.is_unread() => {
                    each(place, said);
                    return Ok(());
                }
                (Err(error), _) if !pipe.was_closed() => return Err(error),
                (Ok(()) | Err(_), _) => {}
            }
        }
        long::leave_out(self.name(), sent[place].key.len());
        each(place, NodeAnswer::Done(0));
        Ok(())
    }

    /// Those of `sent` at these places.
    async fn delete_over(
        &self,
        pipe: &mut DeletePipe,
        (sent, places): (&[Sent<'_>], &[usize]),
        each: &mut dyn FnMut(usize, NodeAnswer),
    ) -> Result<()> {
        let (mut packed, mut lease) = (Vec::new(), Vec::new());
        let mut next = 0;
        while next < places.len() {
            packed.clear();
            // Of each line that comes: whose answer it is, if it is one.
            let mut whose: Vec<Option<usize>> = Vec::new();
            while next < places.len() && packed.len() < EXCHANGE_BYTES_MAX && whose.len() < EXCHANGE_COMMANDS_MAX {
                let Sent { key, part, asking } = sent[places[next]];
                if asking {
                    command(&mut packed, &[b"ASKING"]);
                    whose.push(None);
                }
                lease::write(&mut lease, key);
                match (part, self.leases) {
                    (SentPart::Whole, Leases::None) | (SentPart::Key, _) => command(&mut packed, &[b"UNLINK", key]),
                    (SentPart::Whole, Leases::Companion) => command(&mut packed, &[b"UNLINK", key, &lease]),
                    (SentPart::Lease, _) => command(&mut packed, &[b"UNLINK", &lease]),
                }
                whose.push(Some(places[next]));
                next += 1;
            }
            let mut of_line = |line: usize, text: &[u8]| {
                if let Some(index) = whose[line] {
                    each(index, answer(text, &self.endpoint.host));
                }
            };
            pipe.exchange(&packed, whose.len(), &mut of_line).await?;
        }
        Ok(())
    }

    /// One command on the connection for questions.
    pub(super) async fn ask_one(&self, command: Cmd) -> Result<Value> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        self.ask(&pipeline).await?.pop().ok_or_else(|| reply::unexpected("a command"))
    }
}

/// The address is given as that of a cluster.
fn no_cluster() -> Error {
    Error::definite(Exit::Config, "the server is no node of a cluster, and its address begins with redis+cluster://")
        .hint("Write redis:// (or rediss://) for a single server; a node of a cluster has cluster-enabled yes.")
}

/// Whoever takes over for a primary must be told from it.
fn nameless() -> Error {
    Error::transient("the node does not say which process it is (INFO)").hint(
        "Let the user run INFO: without run_id nobody can tell the replica that took over from the primary before.",
    )
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => Some(text.clone()),
        _ => None, // Value is foreign and non-exhaustive.
    }
}

/// The nodes in a reply to CLUSTER SLOTS.
fn told(reply: &Value) -> Option<Vec<Told>> {
    let Value::Array(ranges) = reply else { return None };
    let mut out = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        for node in parts.get(2..)? {
            let Value::Array(node) = node else { return None };
            let (host, port) = (node.first()?, node.get(1)?);
            let Value::Int(port) = port else { return None };
            // Before version 4 a node has no name here.
            let Some(id) = node.get(2).and_then(text) else { continue };
            let ip = node.get(3).and_then(address_in);
            out.push((id, text(host), u16::try_from(*port).ok()?, ip));
        }
    }
    Some(out)
}

/// The address among what is told of a node besides: pairs of names and values.
fn address_in(about: &Value) -> Option<String> {
    let Value::Array(words) = about else { return None };
    words.chunks_exact(2).find(|pair| text(&pair[0]).as_deref() == Some("ip")).and_then(|pair| text(&pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_reply_are_read_whatever_their_endpoints_say() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node =
            |host: Value, more: Vec<Value>| Value::Array([vec![host, Value::Int(7001), bulk("aaaa")], more].concat());
        let reply = |node: Value| Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(9), node])]);
        let of = |host: Option<&str>, ip: Option<&str>| {
            Some(vec![("aaaa".to_owned(), host.map(str::to_owned), 7001, ip.map(str::to_owned))])
        };
        let about = Value::Array(vec![bulk("ip"), bulk("10.0.0.1")]);
        assert_eq!(told(&reply(node(bulk("h"), vec![]))), of(Some("h"), None));
        assert_eq!(told(&reply(node(Value::Nil, vec![Value::Array(vec![])]))), of(None, None));
        assert_eq!(told(&reply(node(bulk("?"), vec![about]))), of(Some("?"), Some("10.0.0.1")));
        assert_eq!(told(&Value::Array(vec![])), Some(vec![]));
        assert_eq!(told(&Value::Array(vec![Value::Array(vec![])])), None);
        assert_eq!(told(&Value::Nil), None);
    }
}
