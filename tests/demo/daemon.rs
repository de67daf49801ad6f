//! The release binary as it is installed: the shipped configuration, the real rules, secrets in the environment.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::process::{self, Process, Signal};
use crate::harness::wait;

const CONFIG: &str = include_str!("../../systemd/crieur.toml");
const RULES: &str = include_str!("../../systemd/dousell.rules.toml");

/// The default is 250 ms, 2 s and 30 s; nobody who watches wants to wait for the third.
pub const ECHO: &str = "250ms";

const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration directory and the program.
pub struct Installation {
    program: PathBuf,
    dir: TempDir,
    database: String,
    caches: [String; 2],
}

impl Installation {
    pub fn new(database: String, caches: [String; 2]) -> Result<Installation, String> {
        let program = process::target_dir().join("release").join("crieur");
        let dir = tempfile::Builder::new().prefix("crieur-config-").tempdir().map_err(|error| error.to_string())?;
        let write = |name: &str, text| fs::write(dir.path().join(name), text).map_err(|error| error.to_string());
        write("crieur.toml", CONFIG)?;
        write("dousell.rules.toml", RULES)?;
        Ok(Installation { program, dir, database, caches })
    }

    /// Runs a command that ends, and returns what it printed.
    pub fn command(&self, name: &str) -> Result<String, String> {
        let mut child = self.spawn(name)?;
        let status = child.wait(PATIENCE);
        let printed = fs::read_to_string(self.path(name, "out")).unwrap_or_default();
        match status {
            Some(status) if status.success() => Ok(printed),
            Some(status) => Err(format!("crieur {name}: {status}\n{printed}{}", self.log(name))),
            None => Err(format!("crieur {name} does not end\n{printed}{}", self.log(name))),
        }
    }

    /// Starts the daemon and waits until it streams.
    pub fn run(&self) -> Result<Daemon<'_>, String> {
        let mut daemon = Daemon { process: self.spawn("run")?, installation: self };
        let streams = wait::poll(PATIENCE, || match daemon.log().contains("replication started") {
            true => Some(true),
            false => daemon.process.ended().map(|_| false),
        });
        match streams {
            Some(true) => Ok(daemon),
            Some(false) => Err(format!("crieur run ended:\n{}", daemon.log())),
            None => Err(format!("crieur run does not start to stream:\n{}", daemon.log())),
        }
    }

    fn spawn(&self, name: &str) -> Result<Process, String> {
        if !self.program.exists() {
            return Err(format!("there is no {}: make demo builds it", self.program.display()));
        }
        let file = |kind| File::create(self.path(name, kind)).map_err(|error| error.to_string());
        let mut command = Command::new(&self.program);
        command.args([name, "--config"]).arg(self.dir.path().join("crieur.toml"));
        // Nothing of this shell's environment: it may hold another database's address.
        command.env_clear().env("DATABASE_URL", &self.database).env("REDIS_URL", &self.caches[0]);
        command.env("CRIEUR__CACHES__DAKAR__URL", &self.caches[1]);
        command.env("CRIEUR__CACHE__ECHO", ECHO).env("CRIEUR__CACHES__DAKAR__ECHO", ECHO);
        command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("log")?);
        Ok(Process::start(&mut command, self.dir.path()))
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name, "log")).unwrap_or_default()
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        Path::new(self.dir.path()).join(format!("{name}.{kind}"))
    }
}

/// `crieur run`; it ends with this value.
pub struct Daemon<'a> {
    process: Process,
    installation: &'a Installation,
}

impl Daemon<'_> {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// What it said on standard error.
    pub fn log(&self) -> String {
        self.installation.log("run")
    }

    /// SIGTERM, as systemd stops it: it must finish what is in flight and exit with 0.
    pub fn stop(mut self) -> Result<(), String> {
        self.process.signal(Signal::Term);
        match self.process.wait(PATIENCE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("crieur run, at SIGTERM: {status}")),
            None => Err("crieur run does not end at SIGTERM".to_owned()),
        }
    }
}
