//! A PgBouncer before a PostgreSQL: what most people mean by "a pooler".

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{self, Process};
use super::wait;

/// How long a client keeps a session of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolMode {
    Session,
    Transaction,
}

/// A running pooler; it ends with this value.
pub struct Pgbouncer {
    process: Process,
    port: u16,
    /// Goes last.
    _dir: TempDir,
}

impl Pgbouncer {
    /// Before the server at this port. Of two sessions per pool, so that clients must take turns in transaction mode.
    ///
    /// # Panics
    /// When it does not start, with its log.
    pub fn start(mode: PoolMode, server: u16) -> Pgbouncer {
        let dir =
            tempfile::Builder::new().prefix("crieur-pool-").tempdir().expect("the temporary directory is writable");
        let started = (0..5).find_map(|_| launch(&dir, mode, server, process::free_port()));
        let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        let (process, port) = started.unwrap_or_else(|| panic!("PgBouncer does not start:\n{}", log()));
        Pgbouncer { process, port, _dir: dir }
    }

    /// Of the superuser, through the pooler.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

fn launch(dir: &TempDir, mode: PoolMode, server: u16, port: u16) -> Option<(Process, u16)> {
    let path = |name: &str| dir.path().join(name);
    let (mode, size) = match mode {
        PoolMode::Session => ("session", 20),
        PoolMode::Transaction => ("transaction", 2),
    };
    let conf = format!(
        "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {size}\nlogfile = {}\n",
        path("users").display(),
        path("log").display()
    );
    let written = fs::write(path("conf"), conf).and_then(|()| fs::write(path("users"), "\"postgres\" \"\"\n"));
    written.expect("the directory is ours");
    process::give(dir.path(), process::unprivileged());
    let mut command = Command::new("/usr/sbin/pgbouncer");
    assert!(fs::exists("/usr/sbin/pgbouncer").unwrap_or(false), "PgBouncer is not there: run tests/setup.sh");
    command.arg("-q").arg(path("conf")).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Process::start(process::run_as(&mut command, process::unprivileged()), dir.path());
    let up = wait::poll(Duration::from_secs(10), || match std::net::TcpStream::connect(("127.0.0.1", port)) {
        Ok(_) => Some(true),
        Err(_) => child.ended().map(|_| false),
    });
    (up == Some(true)).then_some((child, port))
}
