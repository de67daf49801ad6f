//! A throwaway PostgreSQL: logical WAL, no durability, one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{self, Process, Signal};
use super::wait;

/// Which server; all of them are there after `tests/setup.sh`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Version {
    /// The newest that the system has.
    #[default]
    System,
    V17,
    V18,
}

impl Version {
    pub const ALL: [Version; 3] = [Version::System, Version::V17, Version::V18];

    fn bin(self) -> PathBuf {
        let fetched = |name: &str| process::target_dir().join("servers").join(name).join("bin");
        let bin = match self {
            Version::System => newest_in("/usr/lib/postgresql"),
            Version::V17 => fetched("postgresql-17"),
            Version::V18 => fetched("postgresql-18"),
        };
        assert!(bin.join("postgres").exists(), "PostgreSQL ({self:?}) is not there: run tests/setup.sh");
        bin
    }
}

fn newest_in(root: &str) -> PathBuf {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let versions = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Path::new(root).join(versions.max().unwrap_or_default().to_string()).join("bin")
}

/// What is not the same in every test.
#[derive(Default)]
pub struct Options {
    pub version: Version,
    /// Lines of `postgresql.conf`.
    pub conf: Vec<String>,
    /// Lines of `pg_hba.conf`, before the ones that trust everybody.
    pub hba: Vec<String>,
    /// Of its environment, besides the test's own.
    pub env: Vec<(&'static str, String)>,
}

/// How a server goes down.
#[derive(Clone, Copy, Debug)]
pub enum Shutdown {
    /// With a checkpoint.
    Fast,
    /// Like a crash: the next start recovers.
    Immediate,
}

/// A running server; it ends with this value.
pub struct Postgres {
    process: Process,
    bin: PathBuf,
    env: Vec<(&'static str, String)>,
    port: u16,
    dir: TempDir,
}

impl Postgres {
    /// # Panics
    /// When it does not start, with its log.
    pub fn start(options: Options) -> Postgres {
        let bin = options.version.bin();
        let dir = tempfile::Builder::new().prefix("crieur-pg-").tempdir().expect("the temporary directory is writable");
        process::give(dir.path(), process::unprivileged());
        let data = dir.path().join("data");
        copy_template(&bin, &data);
        let conf = CONF.replace("{dir}", &dir.path().display().to_string()) + &options.conf.join("\n") + "\n";
        append(&data.join("postgresql.conf"), &conf);
        let hba = data.join("pg_hba.conf");
        let trust = fs::read_to_string(&hba).expect("initdb wrote it");
        fs::write(&hba, options.hba.join("\n") + "\n" + &trust).expect("the directory is writable");
        let (process, port) =
            (0..5).find_map(|_| launch(&bin, &options.env, dir.path(), process::free_port())).unwrap_or_else(|| {
                panic!("PostgreSQL does not start:\n{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default())
            });
        Postgres { process, bin, env: options.env, port, dir }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Of the superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// An ordinary session.
    pub async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await.expect("the server accepts sessions");
        tokio::spawn(connection);
        client
    }

    /// Down and up again at the same port.
    pub fn restart(&mut self, how: Shutdown) {
        self.stop(how);
        self.start_again();
    }

    /// Down, for now.
    pub fn stop(&mut self, how: Shutdown) {
        self.process.end(match how {
            Shutdown::Fast => Signal::Int,
            Shutdown::Immediate => Signal::Quit,
        });
    }

    /// Up again at the same port.
    pub fn start_again(&mut self) {
        let started = launch(&self.bin, &self.env, self.dir.path(), self.port);
        self.process = started.unwrap_or_else(|| panic!("PostgreSQL does not come back:\n{}", self.log())).0;
    }

    /// Keeps a copy of the data directory of a server that is down.
    pub fn save(&self) {
        let _ = fs::remove_dir_all(self.dir.path().join("saved")); // An older copy, if there is one.
        run(Command::new("cp").arg("-a").arg(self.dir.path().join("data")).arg(self.dir.path().join("saved")));
    }

    /// Puts the copy back, while the server is down.
    pub fn restore(&self) {
        let data = self.dir.path().join("data");
        fs::remove_dir_all(&data).expect("root may remove it");
        run(Command::new("cp").arg("-a").arg(self.dir.path().join("saved")).arg(&data));
    }

    /// A streaming standby, made from a copy of this server, which goes down for it.
    pub fn standby(&mut self, conf: &[&str]) -> Postgres {
        let dir = tempfile::Builder::new().prefix("crieur-pg-").tempdir().expect("the temporary directory is writable");
        process::give(dir.path(), process::unprivileged());
        let data = dir.path().join("data");
        self.stop(Shutdown::Fast);
        run(Command::new("cp").arg("-a").arg(self.dir.path().join("data")).arg(&data));
        self.start_again();
        // As in a base backup: slots stay where they are.
        run(Command::new("/bin/sh").args(["-c", "rm -r \"$0\"/pg_replslot/*"]).arg(&data));
        fs::write(data.join("standby.signal"), "").expect("the directory is writable");
        let upstream = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let conf = [
            format!("unix_socket_directories = '{}'", dir.path().display()),
            format!("primary_conninfo = '{upstream}'\nprimary_slot_name = 'standby'"),
            conf.join("\n"),
        ];
        append(&data.join("postgresql.conf"), &(conf.join("\n") + "\n"));
        let (process, port) = (0..5)
            .find_map(|_| launch(&self.bin, &self.env, dir.path(), process::free_port()))
            .unwrap_or_else(|| panic!("{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default()));
        Postgres { process, bin: self.bin.clone(), env: self.env.clone(), port, dir }
    }

    /// Other settings, from the next start on; those of a reload at once.
    pub fn configure(&self, conf: &str) {
        append(&self.dir.path().join("data").join("postgresql.conf"), &format!("{conf}\n"));
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

const CONF: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = '{dir}'
wal_level = logical
max_replication_slots = 20
max_wal_senders = 20
fsync = off
";

/// Makes the cluster of a version once, for all runs, and copies it: initdb takes a second, the copy a tenth.
fn copy_template(bin: &Path, data: &Path) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let version = bin.parent().and_then(Path::file_name).expect("the path of a version").display();
    let template = process::target_dir().join("servers").join(format!("template-{version}"));
    if !template.exists() {
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync", "-D"]).arg(data);
        run(process::run_as(&mut initdb, process::unprivileged()).current_dir("/"));
        fs::create_dir_all(template.parent().expect("it has a name")).expect("the target directory is writable");
        let half = template.with_extension(std::process::id().to_string());
        run(Command::new("cp").arg("-a").arg(data).arg(&half));
        // Another run may have put its own there meanwhile; either will do.
        if fs::rename(&half, &template).is_err() {
            let _ = fs::remove_dir_all(&half);
        }
    } else {
        run(Command::new("cp").arg("-a").arg(&template).arg(data));
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    assert!(out.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&out.stderr));
}

/// Starts the server; `None` when it ended instead, most likely because another process took the port.
fn launch(bin: &Path, env: &[(&str, String)], dir: &Path, port: u16) -> Option<(Process, u16)> {
    let (data, log) = (dir.join("data"), dir.join("log"));
    let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("the directory is writable");
    let mut command = Command::new(bin.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string()]).current_dir("/");
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = Process::start(process::run_as(&mut command, process::unprivileged()), dir);
    // Its own file says "ready" (miscadmin.h, LOCK_FILE_LINE_PM_STATUS): another server at this port cannot.
    let ready = wait::poll(Duration::from_secs(30), || {
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let ours = file.lines().next() == Some(&child.pid().to_string());
        match ours && file.lines().nth(7).is_some_and(|status| matches!(status.trim(), "ready" | "standby")) {
            true => Some(true),
            false => child.ended().map(|_| false),
        }
    });
    (ready == Some(true)).then_some((child, port))
}

fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).expect("initdb wrote it");
    fs::write(path, old + text).expect("the directory is writable");
}
