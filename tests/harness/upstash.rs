//! The stand-in of Upstash (`tests/standin/upstash.mjs`) before a Valkey 9 of its own: REST and TCP, a bill, faults.
//!
//! What each switch does stands at the head of the script.

use std::process::Command;

use serde_json::{Value, json};

use super::process;
use super::redis::{Redis, Server};
use super::standin::{StandIn, script};
use super::tls::Pair;

/// The token of every stand-in.
pub const TOKEN: &str = "AXXX-stand-in-token";

/// A running stand-in; it ends with this value.
pub struct Upstash {
    process: StandIn,
    /// The server behind it; what is asked there is not billed.
    pub backend: Redis,
    host: String,
    secure: bool,
}

impl Upstash {
    /// Without TLS, at free ports.
    pub fn start() -> Upstash {
        Upstash::start_at("127.0.0.1", None, &[])
    }

    /// With TLS on both ports where a certificate is given, and further flags.
    pub fn start_at(host: &str, pair: Option<&Pair>, flags: &[&str]) -> Upstash {
        let backend = Redis::start(&Server::Valkey9, &[]);
        let process = StandIn::start("upstash.mjs", |command| {
            command.args(["--token", TOKEN, "--host", host]);
            command.args(["--backend", &format!("127.0.0.1:{}", backend.port())]).args(flags);
            if let Some(pair) = pair {
                command.arg("--cert").arg(&pair.certificate).arg("--key").arg(&pair.key);
            }
        });
        Upstash { process, backend, host: host.to_owned(), secure: pair.is_some() }
    }

    /// What UPSTASH_REDIS_REST_URL would be.
    pub fn rest_url(&self) -> String {
        format!("{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.process.port("rest"))
    }

    /// The same database over TCP.
    pub fn tcp_url(&self) -> String {
        let scheme = if self.secure { "rediss" } else { "redis" };
        format!("{scheme}://default:{TOKEN}@{}:{}", self.host, self.process.port("tcp"))
    }

    /// One call of a switch.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        self.process.control(method, path, body)
    }

    /// Adds a fault; its id.
    pub fn fault(&self, rule: Value) -> u64 {
        self.control("POST", "/fault", &rule)["id"].as_u64().expect("an id")
    }

    /// What was billed and asked so far.
    pub fn stats(&self) -> Value {
        self.control("GET", "/stats", &json!({}))
    }

    /// Commands billed so far.
    pub fn billed(&self) -> u64 {
        self.stats()["billed"].as_u64().expect("a count")
    }

    /// The requests of late: over, path, commands, fault.
    pub fn requests(&self) -> Vec<Value> {
        self.control("GET", "/log", &json!({})).as_array().cloned().expect("a list")
    }

    /// What it complained of.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// The real SDK, the real ioredis, and bare HTTP and RESP, against a stand-in: what the script prints, and whether all of it
/// is right.
pub fn sdk(backend: &Redis) -> (bool, String) {
    let part = |name: &str| {
        let path = process::target_dir().join("servers").join(name);
        assert!(path.exists(), "{name} is not there: run tests/setup.sh");
        path
    };
    let out = Command::new("node")
        .arg(script("sdk.mjs"))
        .env("BACKEND", format!("127.0.0.1:{}", backend.port()))
        .env("SDK", part("upstash-redis"))
        .env("IOREDIS", part("ioredis"))
        .output()
        .expect("node is there after tests/setup.sh");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}
