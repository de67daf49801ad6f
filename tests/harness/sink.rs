//! The stand-ins of what takes tags (`tests/standin/sink.mjs`). The site's judge of signatures is the real package.
//!
//! What each switch does stands at the head of the script.

#![allow(dead_code)] // The live tests and others each use their own part.

use serde_json::{Value, json};

use super::process;
use super::standin::StandIn;
use super::tls::Pair;

/// The secret of every site.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The token of every service.
pub const TOKEN: &str = "stand-in-token-hunter2";
/// The project, zone or service.
pub const OWNER: &str = "prj-1";

/// A running stand-in; it ends with this value.
pub struct Sink {
    process: StandIn,
    kind: &'static str,
}

/// A request that was answered, or not (status 0).
#[derive(Clone, Debug)]
pub struct Taken {
    pub path: String,
    /// Milliseconds since 1970.
    pub at: u64,
    pub id: String,
    pub tags: Vec<String>,
    pub status: u64,
    pub verified: Option<bool>,
    pub soft: bool,
}

impl Sink {
    /// A site that takes webhooks.
    pub fn webhook() -> Sink {
        Sink::site(&[])
    }

    /// The same over TLS; its address is that of a `localhost` with this certificate.
    pub fn secure_webhook(pair: &Pair) -> Sink {
        let [certificate, key] = [&pair.certificate, &pair.key].map(|path| path.to_str().expect("a plain path"));
        Sink::site(&["--cert", certificate, "--key", key])
    }

    fn site(more: &[&str]) -> Sink {
        let modules = process::target_dir().join("servers/standardwebhooks");
        let modules = modules.to_str().expect("a plain path").to_owned();
        Sink::start("webhook", &[&["--secret", SECRET, "--modules", &modules], more].concat())
    }

    /// A service, with further flags.
    pub fn service(kind: &'static str, flags: &[&str]) -> Sink {
        Sink::start(kind, &[&["--token", TOKEN, "--owner", OWNER], flags].concat())
    }

    fn start(kind: &'static str, flags: &[&str]) -> Sink {
        let process = StandIn::start("sink.mjs", |command| {
            command.args(["--kind", kind]).args(flags);
        });
        Sink { process, kind }
    }

    pub fn port(&self) -> u16 {
        self.process.port("port")
    }

    /// Its section, named like its kind, with further keys.
    pub fn section(&self, more: &str) -> String {
        let (kind, port) = (self.kind, self.port());
        let own = match kind {
            "webhook" => format!("url = \"http://127.0.0.1:{port}/api/revalidate\"\nsecret = \"{SECRET}\""),
            kind => {
                let owner = match kind {
                    "vercel" => "project",
                    "cloudflare" => "zone",
                    _ => "service",
                };
                format!("url = \"http://127.0.0.1:{port}\"\ntoken = \"{TOKEN}\"\n{owner} = \"{OWNER}\"")
            }
        };
        format!("[sinks.{kind}]\nkind = \"{kind}\"\n{own}\n{more}\n")
    }

    /// Adds a fault.
    pub fn fault(&self, rule: Value) {
        self.process.control("POST", "/fault", &rule);
    }

    /// Takes the faults away, and lets go what hangs.
    pub fn heal(&self) {
        self.process.control("POST", "/unfault", &json!({}));
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.process.control("POST", "/forget", &json!({}));
    }

    /// Every request so far.
    pub fn log(&self) -> Vec<Taken> {
        let taken = |one: &Value| Taken {
            path: one["path"].as_str().unwrap_or_default().to_owned(),
            at: one["at"].as_u64().unwrap_or_default(),
            id: one["id"].as_str().unwrap_or_default().to_owned(),
            tags: one["tags"]
                .as_array()
                .map(|tags| tags.iter().map(|tag| tag.as_str().unwrap_or_default().to_owned()).collect())
                .unwrap_or_default(),
            status: one["status"].as_u64().unwrap_or_default(),
            verified: one["verified"].as_bool(),
            soft: one["soft"].as_bool().unwrap_or_default(),
        };
        self.process.control("GET", "/log", &json!({})).as_array().expect("a list").iter().map(taken).collect()
    }

    /// The tags of every request that was done, in order.
    pub fn purged(&self) -> Vec<String> {
        self.log().into_iter().filter(|one| one.status == 200).flat_map(|one| one.tags).collect()
    }
}
