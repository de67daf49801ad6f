//! What systemd hears from the daemon over its socket: that it is up, that its loop turns, and what a reload comes to.

use std::fs;
use std::os::unix::net::UnixDatagram;

use super::daemon::Daemon;
use super::harness::postgres::Shutdown;
use super::harness::process::Signal;
use super::harness::wait::{self, PATIENCE};
use super::scene::Scene;

/// The socket of a unit.
struct Socket {
    socket: UnixDatagram,
    dir: tempfile::TempDir,
    all: String,
}

impl Socket {
    fn new() -> Socket {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("the directory is ours");
        socket.set_nonblocking(true).expect("a socket can");
        Socket { socket, dir, all: String::new() }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").to_str().expect("a plain name").to_owned()
    }

    fn read(&mut self) {
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            self.all.push_str(&String::from_utf8_lossy(&message[..length]));
            self.all.push_str("\n--\n");
        }
    }

    /// Waits until what came since the last call holds `text`, and gives it.
    fn hears(&mut self, text: &str, times: usize) -> String {
        let found = wait::poll(PATIENCE, || {
            self.read();
            (self.all.matches(text).count() >= times).then_some(())
        });
        assert!(found.is_some(), "systemd does not hear {text:?} {times} times: {}", self.all);
        std::mem::take(&mut self.all)
    }
}

/// A daemon of a unit whose watchdog waits for `within` microseconds.
fn daemon(scene: &Scene, socket: &Socket, within: &str) -> Daemon {
    Daemon::start(&scene.config(), &[("NOTIFY_SOCKET", &socket.path()), ("WATCHDOG_USEC", within)])
}

#[tokio::test]
async fn the_watchdog_is_fed_by_the_loop_whatever_is_away_and_by_nothing_else() {
    let mut scene = Scene::start().await;
    let mut socket = Socket::new();
    let mut daemon = daemon(&scene, &socket, "300000");
    daemon.allow_failing_cache();
    ["id=stream.interrupted", "id=session.failing", "failed to"].into_iter().for_each(|text| daemon.allow(text));
    socket.hears("STATUS=streaming", 1);
    socket.hears("WATCHDOG=1", 5);
    scene.cache.kill();
    socket.hears("STATUS=the cache does not answer", 1);
    socket.hears("WATCHDOG=1", 10);
    scene.postgres.stop(Shutdown::Immediate);
    socket.hears("STATUS=reading from PostgreSQL is interrupted", 1);
    socket.hears("WATCHDOG=1", 10);
    daemon.signal(Signal::Stop);
    // What was said before it was stopped.
    wait::poll(PATIENCE, || {
        socket.read();
        std::mem::take(&mut socket.all).is_empty().then_some(())
    });
    std::thread::sleep(std::time::Duration::from_millis(600));
    socket.read();
    assert_eq!(socket.all, "", "a process that stands still feeds no watchdog");
    daemon.signal(Signal::Cont);
    socket.hears("WATCHDOG=1", 1);
}

#[tokio::test]
async fn a_unit_without_a_watchdog_hears_nothing_of_one() {
    let scene = Scene::start().await;
    let mut socket = Socket::new();
    let mut daemon = Daemon::start(&scene.config(), &[("NOTIFY_SOCKET", &socket.path())]);
    let mut all = socket.hears("STATUS=streaming", 1);
    assert_eq!(daemon.stop(), Some(0));
    all.push_str(&socket.hears("STOPPING=1", 1));
    assert!(all.contains("READY=1") && !all.contains("WATCHDOG"), "{all}");
}

#[tokio::test]
async fn a_reload_is_announced_with_its_time_and_ends_when_the_rules_are_in_force_or_refused() {
    let scene = Scene::start().await;
    let mut socket = Socket::new();
    let mut daemon = daemon(&scene, &socket, "30000000");
    daemon.allow("id=reload.refused");
    socket.hears("STATUS=streaming", 1);
    let announced = |said: &str| {
        let began = said.split("--").find(|message| message.contains("RELOADING=1")).map(str::to_owned);
        let began = began.unwrap_or_else(|| panic!("no reload is announced: {said}"));
        let time = began.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{began}");
        let (before, _) = said.split_once("READY=1").expect("the reload ends");
        assert!(before.contains("RELOADING=1"), "{said}");
    };
    let good = fs::read_to_string(daemon.config_path()).expect("the file is ours");
    // The same again, a mistake, other rules.
    daemon.signal(Signal::Hup);
    announced(&socket.hears("READY=1", 1));
    fs::write(daemon.config_path(), format!("{good}\n[nonsense]\n")).expect("the file is ours");
    daemon.signal(Signal::Hup);
    let mut said = socket.hears("READY=1", 1);
    announced(&said);
    if !said.contains("STATUS=the configuration file is wrong") {
        said = socket.hears("STATUS=the configuration file is wrong and was not taken, for ", 1);
    }
    assert!(said.contains("was not taken"), "{said}");
    let rule = "\n[[rules]]\ntable = \"public.properties\"\nkeys = [\"another:{id}\"]\n";
    fs::write(daemon.config_path(), format!("{good}{rule}")).expect("the file is ours");
    daemon.signal(Signal::Hup);
    announced(&socket.hears("READY=1", 1));
    assert!(daemon.log().contains("id=reload.taken"), "READY=1 comes behind it:\n{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}
