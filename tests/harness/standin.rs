//! A stand-in that runs as a script of `tests/standin`: it says its ports, and has switches at one of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::process::Process;
use super::wait;

/// Where a script is.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin").join(name)
}

/// A running stand-in; it ends with this value.
pub struct StandIn {
    _process: Process,
    ports: Value,
    dir: TempDir,
}

impl StandIn {
    /// Starts the script with these arguments, and waits until it listens.
    pub fn start(name: &str, arguments: impl FnOnce(&mut Command)) -> StandIn {
        let dir =
            tempfile::Builder::new().prefix("crieur-standin-").tempdir().expect("the temporary directory is writable");
        let said = dir.path().join("ports");
        let mut command = Command::new("node");
        command.arg(script(name));
        arguments(&mut command);
        let log = fs::File::create(dir.path().join("log")).expect("the directory is ours");
        command.stdin(Stdio::null()).stderr(log).stdout(fs::File::create(&said).expect("the directory is ours"));
        let mut process = Process::start(&mut command, dir.path());
        let ports: Option<Value> = wait::poll(Duration::from_secs(30), || {
            assert!(process.ended().is_none(), "{}", complaints(&dir));
            serde_json::from_str(&fs::read_to_string(&said).unwrap_or_default()).ok()
        });
        StandIn { _process: process, ports: ports.expect("the stand-in listens"), dir }
    }

    /// One of its ports.
    pub fn port(&self, name: &str) -> u16 {
        self.ports[name].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port")
    }

    /// One call of a switch.
    ///
    /// # Panics
    /// When the stand-in does not do it.
    pub fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut socket = TcpStream::connect(("127.0.0.1", self.port("control"))).expect("the stand-in runs");
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

    /// What it complained of.
    pub fn log(&self) -> String {
        complaints(&self.dir)
    }
}

fn complaints(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("log")).unwrap_or_default()
}
