//! The stand-in of Upstash (`tests/standin/upstash.mjs`) before a Valkey 9 of its own: REST and TCP, a bill, faults.
//!
//! What each switch does stands at the head of the script.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{self, Process};
use super::redis::{Redis, Server};
use super::tls::Pair;
use super::wait;

/// The token of every stand-in.
pub const TOKEN: &str = "AXXX-stand-in-token";

/// A running stand-in; it ends with this value.
pub struct Upstash {
    _process: Process,
    /// The server behind it; what is asked there is not billed.
    pub backend: Redis,
    host: String,
    rest: u16,
    tcp: u16,
    control: u16,
    secure: bool,
    dir: TempDir,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin").join(name)
}

impl Upstash {
    /// Without TLS, at free ports.
    pub fn start() -> Upstash {
        Upstash::start_at("127.0.0.1", None, &[])
    }

    /// With TLS on both ports where a certificate is given, and further flags.
    pub fn start_at(host: &str, pair: Option<&Pair>, flags: &[&str]) -> Upstash {
        let backend = Redis::start(&Server::Valkey9, &[]);
        let dir =
            tempfile::Builder::new().prefix("crieur-upstash-").tempdir().expect("the temporary directory is writable");
        let said = dir.path().join("ports");
        let mut command = Command::new("node");
        command.arg(script("upstash.mjs")).args(["--token", TOKEN, "--host", host]);
        command.args(["--backend", &format!("127.0.0.1:{}", backend.port())]).args(flags);
        if let Some(pair) = pair {
            command.arg("--cert").arg(&pair.certificate).arg("--key").arg(&pair.key);
        }
        let log = fs::File::create(dir.path().join("log")).expect("the directory is ours");
        command.stdin(Stdio::null()).stderr(log).stdout(fs::File::create(&said).expect("the directory is ours"));
        let mut process = Process::start(&mut command, dir.path());
        let ports: Option<Value> = wait::poll(Duration::from_secs(30), || {
            assert!(process.ended().is_none(), "{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
            serde_json::from_str(&fs::read_to_string(&said).unwrap_or_default()).ok()
        });
        let ports = ports.expect("the stand-in listens");
        let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let (rest, tcp, control) = (port("rest"), port("tcp"), port("control"));
        Upstash { _process: process, backend, host: host.to_owned(), rest, tcp, control, secure: pair.is_some(), dir }
    }

    /// What UPSTASH_REDIS_REST_URL would be.
    pub fn rest_url(&self) -> String {
        format!("{}://{}:{}", if self.secure { "https" } else { "http" }, self.host, self.rest)
    }

    /// The same database over TCP.
    pub fn tcp_url(&self) -> String {
        let scheme = if self.secure { "rediss" } else { "redis" };
        format!("{scheme}://default:{TOKEN}@{}:{}", self.host, self.tcp)
    }

    /// One call of a switch.
    ///
    /// # Panics
    /// When the stand-in does not do it.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut socket = TcpStream::connect(("127.0.0.1", self.control)).expect("the stand-in runs");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body.as_bytes())).expect("it listens");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}\n{}", self.log());
        serde_json::from_str(body).expect("JSON")
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
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// The real SDK, and bare HTTP and RESP, against a stand-in: what the script prints, and whether all of it is right.
pub fn sdk(backend: &Redis) -> (bool, String) {
    let sdk = process::target_dir().join("servers/upstash-redis");
    let out = Command::new("node")
        .arg(script("sdk.mjs"))
        .env("BACKEND", format!("127.0.0.1:{}", backend.port()))
        .env("SDK", sdk)
        .output()
        .expect("node is there after tests/setup.sh");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}
