//! A throwaway Redis-protocol server: Redis or Valkey, one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{self, Process, Signal};
use super::wait;

/// Which server; all of them are there after `tests/setup.sh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// `redis-server`, else `valkey-server`, of the system.
    System,
    /// Published for x86_64 only.
    #[cfg(target_arch = "x86_64")]
    Redis6,
    /// The same.
    #[cfg(target_arch = "x86_64")]
    Redis8,
    Valkey9,
}

impl Server {
    pub const ALL: &[Server] = &[
        Server::System,
        #[cfg(target_arch = "x86_64")]
        Server::Redis6,
        #[cfg(target_arch = "x86_64")]
        Server::Redis8,
        Server::Valkey9,
    ];

    /// The line that a test needs to say DEBUG; an old server does not know it.
    pub fn with_debug(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        if self == Server::Redis6 {
            return None;
        }
        Some("enable-debug-command yes")
    }

    fn binary(self) -> PathBuf {
        let servers = process::target_dir().join("servers");
        let found = match self {
            Server::System => in_path("redis-server").or_else(|| in_path("valkey-server")),
            #[cfg(target_arch = "x86_64")]
            Server::Redis6 => Some(servers.join("redis-6/redis-server")),
            #[cfg(target_arch = "x86_64")]
            Server::Redis8 => Some(servers.join("redis-8/redis-server")),
            Server::Valkey9 => Some(servers.join("valkey-9/valkey-server")),
        };
        found.filter(|path| path.exists()).unwrap_or_else(|| panic!("{self:?} is not there: run tests/setup.sh"))
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.exists())
}

/// What a restart leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    Kept,
    Lost,
}

/// A running server; it ends with this value.
pub struct Redis {
    process: Process,
    binary: PathBuf,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts it with further lines of `redis.conf`.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub fn start(server: &Server, conf: &[&str]) -> Redis {
        let binary = server.binary();
        let dir = configured(conf);
        let (process, port) =
            (0..5).find_map(|_| launch(&binary, dir.path(), process::free_port())).unwrap_or_else(|| {
                panic!("{server:?} does not start:\n{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default())
            });
        Redis { process, binary, port, dir }
    }

    /// The same at this port; `None` when another process has it.
    pub fn start_at(server: &Server, conf: &[&str], port: u16) -> Option<Redis> {
        let binary = server.binary();
        let dir = configured(conf);
        let (process, port) = launch(&binary, dir.path(), port)?;
        Some(Redis { process, binary, port, dir })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A blocking connection.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .expect("the server accepts connections")
    }

    /// The answer to one command, on a connection of its own.
    ///
    /// # Panics
    /// When the server refuses it, or answers another type.
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[impl redis::ToRedisArgs + std::fmt::Debug]) -> T {
        let mut command = redis::Cmd::new();
        command.arg(words);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// SIGKILL, and nothing after it.
    pub fn kill(&mut self) {
        self.process.end(Signal::Kill);
    }

    /// Up again at the same port, after [`Redis::kill`] or from running.
    pub fn restart(&mut self, data: Data) {
        if data == Data::Kept && self.process.ended().is_none() {
            let _: () = redis::cmd("SAVE").query(&mut self.connection()).expect("the directory is writable");
        }
        self.kill();
        if data == Data::Lost {
            let _ = fs::remove_file(self.dir.path().join("dump.rdb"));
        }
        let started = launch(&self.binary, self.dir.path(), self.port);
        self.process = started.unwrap_or_else(|| panic!("it does not come back:\n{}", self.log())).0;
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.process.signal(Signal::Stop);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.process.signal(Signal::Cont);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// A directory with its `redis.conf`.
fn configured(conf: &[&str]) -> TempDir {
    let dir = tempfile::Builder::new().prefix("crieur-cache-").tempdir().expect("the temporary directory is writable");
    let conf = format!("bind 127.0.0.1\nsave \"\"\ndir {}\n{}\n", dir.path().display(), conf.join("\n"));
    fs::write(dir.path().join("conf"), conf).expect("the directory is ours");
    dir
}

/// Starts the server; `None` when it ended instead, most likely because another process took the port.
fn launch(binary: &Path, dir: &Path, port: u16) -> Option<(Process, u16)> {
    let log = fs::File::create(dir.join("log")).expect("the directory is writable");
    let mut command = Command::new(binary);
    command.arg(dir.join("conf")).args(["--port", &port.to_string()]);
    let is_sentinel = fs::read_to_string(dir.join("conf")).is_ok_and(|conf| conf.contains("sentinel monitor"));
    command.args(is_sentinel.then_some("--sentinel"));
    let ready_line = if is_sentinel { "Sentinel ID is" } else { "Ready to accept connections" };
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
    let mut child = Process::start(&mut command, dir);
    let ready = wait::poll(Duration::from_secs(30), || {
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        if log.contains(ready_line) { Some(true) } else { child.ended().map(|_| false) }
    });
    (ready == Some(true)).then_some((child, port))
}
