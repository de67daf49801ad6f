//! A child process with a temporary directory, and the list of all of them.
//!
//! Invariant: a server never outlives the process that started it, save by SIGKILL of the latter. Values end their server on
//! drop; the list is for an end without drops (a panic that aborts, Ctrl-C in the demo).

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use super::wait;

static RUNNING: Mutex<Vec<(u32, PathBuf)>> = Mutex::new(Vec::new());

/// A running child and the directory that goes with it.
pub struct Process {
    child: Child,
    dir: PathBuf,
}

/// A signal, by its shell name.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    Term,
    Int,
    Hup,
    Quit,
    Kill,
    Stop,
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Hup => "HUP",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        }
    }
}

impl Process {
    /// Starts `command`; `dir` is removed by [`reap_all`] only, its owner removes it otherwise.
    pub fn start(command: &mut Command, dir: &Path) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        RUNNING.lock().expect("no holder panics").push((child.id(), dir.to_owned()));
        Process { child, dir: dir.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// The exit status, when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Waits for the end for at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let status = wait::poll(timeout, || self.ended());
        if status.is_some() {
            RUNNING.lock().expect("no holder panics").retain(|(pid, _)| *pid != self.child.id());
        }
        status
    }

    /// Asks with `signal`, insists with SIGKILL, and collects the child. A stopped one is woken up to hear it.
    pub fn end(&mut self, signal: Signal) {
        if self.ended().is_none() {
            self.signal(signal);
            self.signal(Signal::Cont);
        }
        if self.wait(Duration::from_secs(10)).is_none() {
            self.signal(Signal::Kill);
            self.wait(Duration::from_secs(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(last(self.pid()));
    }
}

/// The signal that ends a process at once. PostgreSQL takes its children with it on SIGQUIT; SIGKILL would leave them.
/// Others do nothing about it, and ignore it where a shell has started us in the background: that is inherited.
fn last(pid: u32) -> Signal {
    const QUIT: u32 = 3;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    match ignored {
        Some(signals) if signals >> (QUIT - 1) & 1 == 1 => Signal::Kill,
        Some(_) | None => Signal::Quit,
    }
}

/// Sends a signal. The shell's own `kill` needs neither a package nor `unsafe`.
pub fn send(pid: u32, signal: Signal) {
    let _ = Command::new("/bin/sh")
        .args(["-c", "kill -s \"$0\" \"$1\" 2>/dev/null", signal.name()])
        .arg(pid.to_string())
        .status();
}

/// Ends every child that still runs and removes its directory: for an end without drops.
pub fn reap_all() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    for (pid, _) in &running {
        send(*pid, last(*pid));
        send(*pid, Signal::Cont);
    }
    for (pid, dir) in running {
        let gone = wait::poll(Duration::from_secs(5), || (!alive(pid)).then_some(()));
        if gone.is_none() {
            send(pid, Signal::Kill);
        }
        let _ = fs::remove_dir_all(dir);
    }
}

/// Whether the process runs: a zombie, which only its parent can collect, does not.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

/// A port that was free a moment ago, at random from below those that the kernel gives to outgoing connections: none of
/// them takes it meanwhile, and this process hands it out once. Another test process still may, so servers try again.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = 10_000 + (RandomState::new().build_hasher().finish() % 22_000) as u16;
        if GIVEN.lock().expect("no holder panics").insert(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A user that a server runs as.
#[derive(Clone, Copy, Debug)]
pub struct User {
    uid: u32,
    gid: u32,
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`; otherwise as whoever runs the tests.
pub fn unprivileged() -> Option<User> {
    let me = fs::metadata("/proc/self").expect("procfs is mounted").uid();
    (me == 0).then(|| User { uid: identity("-u"), gid: identity("-g") })
}

fn identity(flag: &str) -> u32 {
    let out = Command::new("id").args([flag, "postgres"]).output().expect("coreutils has id");
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("there is no user postgres: run tests/setup.sh"))
}

/// Makes `command` run as `user`.
pub fn run_as(command: &mut Command, user: Option<User>) -> &mut Command {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Gives a file or directory to `user`.
pub fn give(path: &Path, user: Option<User>) {
    if let Some(user) = user {
        chown(path, Some(user.uid), Some(user.gid)).expect("root may give files away");
    }
}

/// Where cargo builds: the parent of every directory in the path of the running program.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    // <target>/<profile>/deps/live-… or <target>/<profile>/examples/demo.
    exe.ancestors().nth(3).expect("cargo puts programs three levels below its target directory").to_owned()
}
