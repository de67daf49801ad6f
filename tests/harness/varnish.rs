//! A Varnish with xkey, and the receiver that purges it for crieur: both as `docs/guide/varnish.md` has them.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::{self, Process, Signal};
use super::wait;

const PROGRAM: &str = "/usr/sbin/varnishd";

/// How the page names the site.
const SITE: &str = ".port = \"3000\"";

/// A running Varnish; it ends with this value.
pub struct Varnish {
    process: Process,
    port: u16,
    purges: u16,
    /// Goes last.
    _dir: TempDir,
}

impl Varnish {
    /// With this VCL, before the site at this port.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(vcl: &str, site: u16) -> Varnish {
        assert!(
            fs::exists(PROGRAM).unwrap_or(false) && has_xkey(),
            "Varnish or its xkey is not there: run tests/setup.sh"
        );
        assert!(vcl.contains(SITE), "the VCL names the site's port");
        let dir =
            tempfile::Builder::new().prefix("crieur-varnish-").tempdir().expect("the temporary directory is writable");
        fs::write(dir.path().join("vcl"), vcl.replace(SITE, &format!(".port = \"{site}\""))).expect("it is ours");
        process::give(dir.path(), process::unprivileged());
        let started = (0..5).find_map(|_| launch(&dir, process::free_port(), process::free_port()));
        let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        let (process, port, purges) = started.unwrap_or_else(|| panic!("Varnish does not start:\n{}", log()));
        Varnish { process, port, purges, _dir: dir }
    }

    /// Where visitors come.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it takes purges.
    pub fn purges(&self) -> u16 {
        self.purges
    }
}

/// Its worker ends with the first process only when that one is asked.
impl Drop for Varnish {
    fn drop(&mut self) {
        self.process.end(Signal::Term);
    }
}

/// Debian has the modules below the architecture's folder.
fn has_xkey() -> bool {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    folders.map(|folder| folder.path().join("varnish/vmods/libvmod_xkey.so")).any(|file| file.exists())
}

fn launch(dir: &TempDir, port: u16, purges: u16) -> Option<(Process, u16, u16)> {
    let path = |name: &str| dir.path().join(name);
    let log = fs::File::create(path("log")).expect("the directory is ours");
    let mut command = Command::new(PROGRAM);
    command.arg("-F").arg("-n").arg(path("work")).arg("-f").arg(path("vcl")).args(["-T", "none"]);
    command.args(["-a", &format!("http=127.0.0.1:{port}"), "-a", &format!("purge=127.0.0.1:{purges}")]);
    // Small: it serves one test.
    command.args(["-s", "malloc,16m", "-p", "thread_pools=1", "-p", "thread_pool_min=20", "-p", "vsl_space=2m"]);
    command.current_dir("/").stdin(Stdio::null());
    command.stdout(log.try_clone().expect("file descriptors are there")).stderr(log);
    let mut child = Process::start(process::run_as(&mut command, process::unprivileged()), dir.path());
    let is_open = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let up = wait::poll(Duration::from_secs(30), || {
        if is_open(port) && is_open(purges) { Some(true) } else { child.ended().map(|_| false) }
    });
    (up == Some(true)).then_some((child, port, purges))
}

/// A running receiver; it ends with this value.
pub struct Receiver {
    _process: Process,
    dir: TempDir,
}

impl Receiver {
    /// This script, purging these Varnishes for messages with this secret.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start(script: &str, secret: &str, varnishes: &[&Varnish], port: u16) -> Receiver {
        let dir =
            tempfile::Builder::new().prefix("crieur-receiver-").tempdir().expect("the temporary directory is writable");
        let modules = process::target_dir().join("servers/standardwebhooks/node_modules");
        assert!(modules.exists(), "the package standardwebhooks is not there: run tests/setup.sh");
        let linked = std::os::unix::fs::symlink(modules, dir.path().join("node_modules"));
        linked.and_then(|()| fs::write(dir.path().join("purge.mjs"), script)).expect("the directory is ours");
        let urls: Vec<String> = varnishes.iter().map(|one| format!("http://127.0.0.1:{}", one.purges())).collect();
        let log = fs::File::create(dir.path().join("log")).expect("the directory is ours");
        let mut command = Command::new("node");
        command.arg("purge.mjs").current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env("CRIEUR_WEBHOOK_SECRET", secret).env("VARNISH", urls.join(" ")).env("PORT", port.to_string());
        let mut process = Process::start(&mut command, dir.path());
        let up = wait::poll(Duration::from_secs(30), || match std::net::TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => Some(true),
            Err(_) => process.ended().map(|_| false),
        });
        let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        assert_eq!(up, Some(true), "the receiver does not start:\n{}", log());
        Receiver { _process: process, dir }
    }

    /// What it complained of.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}
