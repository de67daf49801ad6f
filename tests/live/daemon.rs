//! The daemon as its users run it: the built program, its log, its exit code.
//!
//! A test that is silent about a warning asserts that there was none: dropping the value panics when the log holds a
//! WARN or ERROR line that [`Daemon::allow`] did not name.

#![allow(dead_code)] // The live tests and the torture test each use their own part.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::harness::process::{Process, Signal};
use super::harness::wait::{self, PATIENCE};

/// The program as cargo built it for the tests.
const BUILT: &str = env!("CARGO_BIN_EXE_crieur");

/// The stream runs.
pub const STARTED: &str = "id=stream.started";

/// A running daemon; it ends with this value.
pub struct Daemon {
    process: Process,
    dir: TempDir,
    allowed: Vec<&'static str>,
}

impl Daemon {
    /// Starts `crieur run` with this configuration. It may not be ready yet.
    pub fn start(config: &str, env: &[(&str, &str)]) -> Daemon {
        Daemon::launch(Path::new(BUILT), config, env)
    }

    /// The same of another build of the program.
    pub fn start_build(program: &Path, config: &str) -> Daemon {
        Daemon::launch(program, config, &[])
    }

    fn launch(program: &Path, config: &str, env: &[(&str, &str)]) -> Daemon {
        let dir = write(config);
        let log = fs::File::create(dir.path().join("log")).expect("the directory is ours");
        let mut command = crieur(program, "run", dir.path(), env);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Daemon { process: Process::start(&mut command, dir.path()), dir, allowed: Vec::new() }
    }

    /// Of the process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its configuration file.
    pub fn config_path(&self) -> std::path::PathBuf {
        self.dir.path().join("crieur.toml")
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log holds `text` `times` times.
    ///
    /// # Panics
    /// At the deadline or at the daemon's end, with the log.
    pub fn wait_for_logs(&mut self, text: &str, times: usize) {
        let found = wait::poll(PATIENCE, || {
            let ended = self.process.ended().is_some();
            if self.log().matches(text).count() >= times { Some(true) } else { ended.then_some(false) }
        });
        assert_eq!(found, Some(true), "the log does not say {text:?} {times} times:\n{}", self.log());
    }

    /// Waits until the log holds `text`.
    pub fn wait_for_log(&mut self, text: &str) {
        self.wait_for_logs(text, 1);
    }

    /// Lines of warnings and errors with this text are as expected.
    pub fn allow(&mut self, pattern: &'static str) {
        self.allowed.push(pattern);
    }

    /// So are those of a cache that fails for a while.
    pub fn allow_failing_cache(&mut self) {
        ["id=cache.failing", "id=mark.failing"].into_iter().for_each(|id| self.allow(id));
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether it is gone.
    pub fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// SIGTERM; the exit code, `None` after a signal.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::Term);
        self.exit()
    }

    /// Waits for its end; the exit code, `None` after a signal.
    pub fn exit(&mut self) -> Option<i32> {
        let status = self.process.wait(PATIENCE);
        status.unwrap_or_else(|| panic!("the daemon does not end:\n{}", self.log())).code()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.process.end(Signal::Kill);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.end(Signal::Kill);
        let log = self.log();
        if std::thread::panicking() {
            return eprintln!("the daemon's log:\n{log}");
        }
        let expected = |line: &&str| self.allowed.iter().any(|pattern| line.contains(pattern));
        let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR "));
        let unexpected: Vec<&str> = complaints.filter(|line| !expected(line)).collect();
        assert!(unexpected.is_empty(), "nobody expected:\n{}\nthe log:\n{log}", unexpected.join("\n"));
    }
}

/// Runs a command of the program to its end: `check`, `setup`.
pub fn run(command: &str, config: &str, env: &[(&str, &str)]) -> Output {
    let dir = write(config);
    crieur(Path::new(BUILT), command, dir.path(), env).output().expect("cargo built the program")
}

/// The same with further arguments.
pub fn run_with(args: &[&str], config: &str) -> Output {
    let dir = write(config);
    let (command, more) = args.split_first().expect("a command");
    crieur(Path::new(BUILT), command, dir.path(), &[]).args(more).output().expect("cargo built the program")
}

fn write(config: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix("crieur-run-").tempdir().expect("the temporary directory is writable");
    fs::write(dir.path().join("crieur.toml"), config).expect("the directory is ours");
    dir
}

/// Its environment is the test's own, so that whoever runs the tests cannot configure it.
fn crieur(program: &Path, command: &str, dir: &Path, env: &[(&str, &str)]) -> Command {
    let mut crieur = Command::new(program);
    crieur.arg(command).arg("--config").arg(dir.join("crieur.toml"));
    crieur.env_clear().envs(env.iter().copied());
    crieur
}
