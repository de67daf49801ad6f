//! A client of a cluster for the readers: one client of `clients/rust` for each node, and MOVED is followed.
//!
//! What was moved was not executed, so a command is sent to one node at most. On ASK and everything else the reader has
//! no cache for this once, and asks another node the next time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crieur_cache::{Redis, Sending, Store, StoreError};

/// Redirects of one command.
const REDIRECTS: usize = 3;

/// See the head of the file.
pub struct Clustered {
    timeout: Duration,
    seeds: Vec<String>,
    nodes: Mutex<HashMap<String, Arc<Redis>>>,
    owners: Mutex<HashMap<Vec<u8>, String>>,
}

impl Clustered {
    /// `redis+cluster://HOST:PORT,HOST:PORT`.
    pub fn new(url: &str, timeout: Duration) -> Option<Clustered> {
        let seeds = url.strip_prefix("redis+cluster://")?.split(',').map(str::to_owned).collect();
        Some(Clustered { timeout, seeds, nodes: Mutex::default(), owners: Mutex::default() })
    }

    fn node(&self, address: &str) -> Arc<Redis> {
        let mut nodes = self.nodes.lock().expect("no holder panics");
        let open = || {
            let redis = Redis::open(&format!("redis://{address}")).expect("an address of a node");
            Arc::new(redis.timeout(self.timeout))
        };
        Arc::clone(nodes.entry(address.to_owned()).or_insert_with(open))
    }

    /// Who was last known to have the key, or is to be asked next.
    fn owner(&self, key: &[u8]) -> String {
        self.owners.lock().expect("no holder panics").get(key).cloned().unwrap_or_else(|| self.seeds[0].clone())
    }

    fn learn(&self, key: &[u8], owner: &str) {
        self.owners.lock().expect("no holder panics").insert(key.to_vec(), owner.to_owned());
    }

    fn after(&self, address: &str) -> &str {
        let index = self.seeds.iter().position(|seed| seed == address);
        &self.seeds[index.map_or(0, |index| (index + 1) % self.seeds.len())]
    }
}

/// Where MOVED leads.
fn moved(error: &str) -> Option<&str> {
    let is_moved = error.to_ascii_lowercase().contains("moved");
    error.split_whitespace().last().filter(|word| is_moved && word.contains(':'))
}

impl Store for Clustered {
    fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> Sending<'a> {
        Box::pin(async move {
            let key = match command {
                [b"EVAL", _, _, key, ..] | [_, key, ..] => *key,
                _ => b"",
            };
            let mut address = self.owner(key);
            for _ in 0..=REDIRECTS {
                let error = match self.node(&address).send(command).await {
                    Ok(reply) => {
                        self.learn(key, &address);
                        return Ok(reply);
                    }
                    Err(error) => error,
                };
                match moved(&error.to_string()) {
                    Some(owner) => address = owner.to_owned(),
                    None => {
                        self.learn(key, self.after(&address));
                        return Err(error);
                    }
                }
            }
            Err(StoreError::new("the nodes send the key to each other"))
        })
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }
}
