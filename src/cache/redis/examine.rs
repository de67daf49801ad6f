//! What commands ask of one server besides: who it is, and which keys it holds.

use std::ops::ControlFlow;

use ::redis::Cmd;

use super::RedisCache;
use crate::cache::identity::Info;
use crate::cache::inspect::{Inspect, Lifetimes, Walk};
use crate::cache::probe::{self, Examined};
use crate::cache::scan;
use crate::cache::speak::{self, Speaks};
use crate::cache::swap::mark_key;
use crate::error::Result;

impl Inspect for RedisCache {
    async fn examine(&self, name: &str, families: &[Vec<u8>]) -> Result<Examined> {
        let mut link = self.log_in().await?;
        let mut memory = Cmd::new();
        memory.arg("INFO").arg("memory");
        let memory = link.ask(memory).await?;
        let mut tried = probe::each(&mut link, &mark_key(name), families, self.leases).await?;
        if let Some(publisher) = &self.publisher {
            tried.push(probe::telling(&mut link, publisher.channel()).await?);
        }
        let user = self.route.user().unwrap_or("default").to_owned();
        let sentinels = self.route.report().await;
        Ok(Examined { info: link.info.clone(), memory: Info::read(&[memory]), tried, user, sentinels })
    }

    /// On a connection of its own, with as much pause as work.
    async fn keys(&self, matching: &[u8], each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<bool> {
        let mut link = self.log_in().await?;
        let scanned = scan::all(&mut link, matching, each).await;
        scanned.map_err(|error| error.while_doing("scan").at(&self.route.server))
    }

    async fn some_keys(&self, walk: &mut Walk, matching: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut link = self.log_in().await?;
        let scanned = scan::some(&mut link, walk, matching).await;
        scanned.map_err(|error| error.while_doing("scan").at(&self.route.server))
    }

    async fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut link = self.log_in().await?;
        let values = speak::values(&mut link, keys).await;
        if let Ok(values) = &values {
            self.health().note_reads(values.iter().flatten().count() as u64, values.len() as u64);
        }
        values.map_err(|error| error.while_doing("read values").at(&self.route.server))
    }

    async fn lifetimes(&self, look: &mut dyn Lifetimes) -> Result<()> {
        let mut link = self.log_in().await?;
        let looked = scan::lifetimes(&mut link, look).await;
        looked.map_err(|error| error.while_doing("look at lifetimes").at(&self.route.server))
    }

    async fn size(&self) -> Result<u64> {
        let mut link = self.log_in().await?;
        scan::size(&mut link).await.map_err(|error| error.at(&self.route.server))
    }
}
