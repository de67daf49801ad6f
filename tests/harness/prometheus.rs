//! Prometheus and promtool, as `tests/setup.sh` fetches them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{self, Process};

/// One of the two programs.
pub fn program(name: &str) -> PathBuf {
    let path = process::target_dir().join("servers/prometheus").join(name);
    assert!(path.exists(), "{} is missing: tests/setup.sh fetches it", path.display());
    path
}

/// Runs promtool with this input; says whether it was content, and what it wrote.
pub fn promtool(args: &[&str], directory: &Path, input: &str) -> (bool, String) {
    let mut command = Command::new(program("promtool"));
    command.args(args).current_dir(directory);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.expect("promtool runs here");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(input.as_bytes()).expect("promtool reads all of it");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// A server that reads one address each second, and has its data in a folder of its own.
pub struct Prometheus {
    port: u16,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    pub fn start(target: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("the temporary folder is writable");
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- {{job_name: crieur, static_configs: [{{targets: ['{target}']}}]}}\n"
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("the folder is ours");
        let port = process::free_port();
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command, dir.path());
        Prometheus { port, _process: process, _dir: dir }
    }

    /// The values of an expression now; an error is that of Prometheus, or that it does not answer yet.
    pub fn query(&self, expression: &str) -> Result<Vec<serde_json::Value>, String> {
        use std::io::Read;
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let connected = std::net::TcpStream::connect(("127.0.0.1", self.port));
        let mut socket = connected.map_err(|error| error.to_string())?;
        let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\nHost: a\r\n\r\n");
        socket.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let mut value: serde_json::Value = serde_json::from_str(body).map_err(|_| answer.clone())?;
        if value["status"] != "success" {
            return Err(answer);
        }
        match value["data"]["result"].take() {
            serde_json::Value::Array(found) => Ok(found),
            other => Err(format!("no list: {other}")),
        }
    }
}
