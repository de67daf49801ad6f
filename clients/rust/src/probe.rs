//! Tries each step of the protocol, on a key of its own that has a TTL and is gone at the end.

use std::time::{Duration, Instant};

use crate::inner::Core;
use crate::lease::{GIVE_BACK, STORE_IN_KEY, TAKE, Take};
use crate::silence::Mark;
use crate::store::Reply;

/// All steps together take no longer, and what is left of the key goes within the rest of six seconds.
const ALL: Duration = Duration::from_secs(5);

/// What a test of the connection found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Probe {
    /// Whether every step succeeded.
    pub ok: bool,
    /// The steps in their order.
    pub steps: Vec<Step>,
    /// The mark of the daemon, where the cache looks at it.
    pub mark: Option<Mark>,
}

/// One step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Step {
    /// The command that was tried.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed.
    pub error: Option<String>,
}

struct Probing<'a> {
    core: &'a Core,
    found: Probe,
}

impl Probing<'_> {
    async fn send(&self, words: &[&str]) -> Result<Reply, String> {
        let store = self.core.store.as_ref().ok_or("there is no cache")?;
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        store.send(&words).await.map_err(|error| error.to_string())
    }

    /// Sends, and judges the answer; what it is not is said.
    async fn step(&mut self, name: &'static str, words: &[&str], is: impl Fn(&Reply) -> bool, wanted: &str) -> Reply {
        let start = Instant::now();
        let answer = self.send(words).await;
        let error = match &answer {
            Ok(reply) => (!is(reply)).then(|| format!("the answer is not {wanted}")),
            Err(error) => Some(error.clone()),
        };
        self.found.steps.push(Step { name, took: start.elapsed(), error });
        answer.unwrap_or(Reply::Nil)
    }

    async fn all(&mut self, key: &str, own: &str) {
        self.step("PING", &["PING"], |reply| reply.is("PONG"), "PONG").await;
        self.step("SET", &["SET", key, own, "EX", "10"], |reply| reply.is("OK"), "OK").await;
        self.step("GET", &["GET", key], |reply| reply.is(own), "what was set").await;
        let is_one = |reply: &Reply| reply.int() == Some(1);
        self.step("EXISTS", &["EXISTS", key], is_one, "1").await;
        self.step("DEL", &["DEL", key], is_one, "1").await;
        let mut lease = own.to_owned();
        match self.core.settings.take {
            Take::Once => {
                let words = ["SET", key, own, "NX", "GET", "PX", "10000"];
                let wanted = "nil: it needs Redis 7 or Valkey, or `Take::Script`";
                self.step("SET NX GET", &words, |reply| *reply == Reply::Nil, wanted).await;
            }
            Take::Script => {
                let words = ["EVAL", TAKE, "1", key, own, "10000"];
                let is_lease =
                    |reply: &Reply| matches!(reply, Reply::Bytes(lease) if lease.starts_with(own.as_bytes()));
                if let Reply::Bytes(made) = self.step("EVAL instead of NX", &words, is_lease, "a lease").await {
                    lease = String::from_utf8_lossy(&made).into_owned();
                }
            }
        }
        self.step("EVAL store", &["EVAL", STORE_IN_KEY, "1", key, &lease, own, "10"], is_one, "1").await;
        self.step("EVAL give back", &["EVAL", GIVE_BACK, "1", key, own], is_one, "1").await;
        if let Some(silence) = &self.core.settings.silence {
            let (mark, is_fresh) = (silence.key.clone(), |reply: &Reply| !silence.is_silent(reply));
            let reply =
                self.step("mark", &["GET", &mark], is_fresh, "a mark that is new enough: does crieur run?").await;
            self.found.mark = Mark::read(&reply);
        }
        self.found.ok = self.found.steps.iter().all(|step| step.error.is_none());
    }
}

/// Never fails; what failed is in its answer.
pub async fn probe(core: &Core) -> Probe {
    let own = format!("L{}", crate::random::text());
    let key = core.names(&format!("crieur-cache:test:{own}"), None).key;
    let mut probing = Probing { core, found: Probe::default() };
    if tokio::time::timeout(ALL, probing.all(&key, &own)).await.is_err() {
        let error = Some(format!("not all steps ended within {} s", ALL.as_secs()));
        probing.found.steps.push(Step { name: "the rest", took: ALL, error });
    }
    // Whatever failed half-way; where this is lost as well, the key expires.
    let _ = tokio::time::timeout(Duration::from_millis(500), probing.send(&["DEL", &key])).await;
    probing.found
}
