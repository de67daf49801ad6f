//! The bounds that are promised, each measured on real servers and printed beside its bound: `make bounds`.
//!
//! `CRIEUR` must be a release build, as for the other figures. What is exceeded fails the test behind the table.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::admin::address;
use super::super::daemon::STARTED;
use super::super::harness::process::{Process, Signal};
use super::super::harness::redis::{Redis, Server};
use super::super::harness::wait::PATIENCE;
use super::super::scene::Scene;
use super::company::{config, started};
use super::memory::resident;
use super::paced::{RATE, TELLS, commit_to_gone};
use super::{Spread, at, cpu_seconds, program, rounds};

const BINARY_BYTES_MAX: f64 = 9_000_000.0;
const PAGE_BYTES_MAX: f64 = 60_000.0;
const RESIDENT_BYTES_MAX: f64 = 10_000_000.0;
/// Of one core, in percent.
const CPU_MAX: f64 = 0.3;
const START_MS_MAX: f64 = 200.0;
/// A key is late that goes only when the first echo would have deleted it anyway.
const LATE_MS_MAX: f64 = 250.0;

const IDLE: Duration = Duration::from_secs(20);
const STARTS_EACH_ROUND: usize = 3;
const VIEWERS: usize = 100;
/// What is committed while they look: eight seconds.
const CHANGES: u32 = RATE * 8;

/// What was measured, and what it may be at most.
struct Bound {
    what: &'static str,
    measured: Spread,
    most: f64,
    /// A single measurement counts, and not the median.
    is_strict: bool,
}

impl Bound {
    fn judged(&self) -> f64 {
        at(if self.is_strict { 1.0 } else { 0.5 }, self.measured.0.clone())
    }

    fn holds(&self) -> bool {
        self.judged() <= self.most
    }

    fn line(&self) -> String {
        let measured = match &self.measured.0[..] {
            [one] if one.fract() == 0.0 => one.to_string(),
            [one] => format!("{one:.2}"),
            _ => self.measured.to_string(),
        };
        let verdict = if self.holds() { "" } else { "  EXCEEDED" };
        format!("{:<46} {measured:>36}  at most {}{verdict}", self.what, self.most)
    }
}

/// A daemon whose log is read as it comes.
struct Started {
    process: Process,
    took: Duration,
    log: std::thread::JoinHandle<String>,
}

impl Started {
    /// Starts the program, and returns when its stream runs.
    fn start(file: &Path) -> Started {
        let (log, end) = std::io::pipe().expect("file descriptors are there");
        let mut command = Command::new(program());
        command.arg("run").arg("--config").arg(file).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(end);
        let begun = Instant::now();
        let process = Process::start(&mut command, file.parent().expect("a file is in a folder"));
        drop(command); // It holds an end of the pipe.
        let (tell, told) = mpsc::channel();
        let log = std::thread::spawn(move || {
            let mut all = String::new();
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if line.contains(STARTED) {
                    let _ = tell.send(Instant::now()); // Whoever does not wait any more has failed already.
                }
                all += &line;
                all.push('\n');
            }
            all
        });
        let at = told.recv_timeout(PATIENCE).expect("it streams");
        Started { process, took: at - begun, log }
    }

    /// Ends it; it said nothing that a person must look at.
    fn stop(mut self) {
        self.process.signal(Signal::Term);
        let status = self.process.wait(PATIENCE).expect("it ends");
        let log = self.log.join().expect("it reads to the end");
        assert!(status.success() && !log.contains(" WARN ") && !log.contains("ERROR "), "{log}");
    }
}

/// A request for `path`; the answer is read when somebody reads it.
fn asking(address: SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the daemon listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit above zero");
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).expect("the daemon reads");
    socket
}

fn answer(mut socket: TcpStream) -> String {
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers to the end");
    answer
}

/// Starts that find their mark, and what the daemon takes while nothing happens.
fn starts_and_idles(file: &Path) -> [Bound; 3] {
    let (mut start, mut cpu, mut size) = (Spread::default(), Spread::default(), Spread::default());
    for _ in 0..rounds(5) {
        for _ in 1..STARTS_EACH_ROUND {
            let daemon = Started::start(file);
            start.push(daemon.took.as_secs_f64() * 1000.0);
            daemon.stop();
        }
        let daemon = Started::start(file);
        start.push(daemon.took.as_secs_f64() * 1000.0);
        // What the start itself took is no idling.
        std::thread::sleep(Duration::from_secs(5));
        let (before, begun) = (cpu_seconds(daemon.process.pid()), Instant::now());
        std::thread::sleep(IDLE);
        let used = cpu_seconds(daemon.process.pid()) - before;
        cpu.push(used / begun.elapsed().as_secs_f64() * 100.0);
        size.push(resident(daemon.process.pid()) * 1024.0);
        daemon.stop();
    }
    let bound = |what, measured, most, is_strict| Bound { what, measured, most, is_strict };
    [
        bound("resident memory, idle, one cache, bytes", size, RESIDENT_BYTES_MAX, true),
        bound("CPU, idle, percent of a core", cpu, CPU_MAX, false),
        bound("start to streaming, ms", start, START_MS_MAX, false),
    ]
}

/// Opens the page and its stream of events so many times, and reads no event. What each was answered.
fn crowd(address: SocketAddr) -> Vec<TcpStream> {
    let open = |_| {
        let page = answer(asking(address, "/"));
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        asking(address, "/events")
    };
    (0..VIEWERS).map(open).collect()
}

/// The size of the page when it is full, and the delay of keys while a hundred look.
async fn the_page(scene: &Scene, address: SocketAddr, file: &Path) -> [Bound; 2] {
    let daemon = Started::start(file);
    let (mut quiet, mut looked_at, mut slowest) = (Spread::default(), Spread::default(), Spread::default());
    let (mut size, mut first, mut shown) = (Spread::default(), 1, Spread::default());
    for _ in 0..rounds(5) {
        let took = commit_to_gone(&scene.postgres.url(), scene.cache.port(), first, CHANGES);
        quiet.push(at(0.99, took));
        first += CHANGES;
        let coming = std::thread::spawn(move || crowd(address));
        let took = commit_to_gone(&scene.postgres.url(), scene.cache.port(), first, CHANGES);
        slowest.push(at(1.0, took.clone()));
        looked_at.push(at(0.99, took));
        first += CHANGES;
        let pages = ["/", "/?lang=fr"].map(|path| answer(asking(address, path)).len());
        size.push(pages.into_iter().max().expect("two pages") as f64);
        shown.push(coming.join().expect("each page is answered").into_iter().map(status).sum());
    }
    println!("\np99 from COMMIT to the key gone, ms: {quiet} with nobody, {looked_at} with {VIEWERS} viewers");
    println!("of these {shown} were shown what changes, the others were refused");
    daemon.stop();
    let bound = |what, measured, most| Bound { what, measured, most, is_strict: true };
    [
        bound("the page, full, bytes", size, PAGE_BYTES_MAX),
        bound("slowest key while 100 look, COMMIT to gone, ms", slowest, LATE_MS_MAX),
    ]
}

/// 1 for a viewer who is shown the events, 0 for one who is refused; there is no third.
fn status(mut viewer: TcpStream) -> f64 {
    let mut status = [0; 12];
    viewer.read_exact(&mut status).expect("each one is answered");
    match &status {
        b"HTTP/1.1 200" => 1.0,
        b"HTTP/1.1 503" => 0.0,
        other => panic!("{}", String::from_utf8_lossy(other)),
    }
}

#[tokio::test]
#[ignore = "make bounds"]
async fn the_bounds_hold() {
    let mut scene = Scene::start().await;
    scene.cache = Redis::start(&Server::System, &[TELLS]);
    let address = address();
    let file = tempfile::tempdir().expect("a temporary folder");
    let text = format!("[admin]\nlisten = \"{address}\"\n{}", config(&scene, "crieur", &[scene.cache.url()]));
    // The first start sweeps, and writes the mark that the others find.
    let mut first = started(&text, "crieur", &[&scene.cache]).await;
    scene.confirmed(&first).await;
    assert_eq!(first.stop(), Some(0));
    let file = file.path().join("crieur.toml");
    std::fs::write(&file, text).expect("the folder is ours");
    let bytes = std::fs::metadata(program()).expect("cargo built the program").len() as f64;
    let binary =
        Bound { what: "the program, bytes", measured: Spread(vec![bytes]), most: BINARY_BYTES_MAX, is_strict: true };
    let mut bounds = vec![binary];
    bounds.extend(starts_and_idles(&file));
    bounds.extend(the_page(&scene, address, &file).await);
    let table: Vec<String> = bounds.iter().map(Bound::line).collect();
    println!("\n{}\nmedian (least to most)\n", table.join("\n"));
    let exceeded: Vec<&str> = bounds.iter().filter(|bound| !bound.holds()).map(|bound| bound.what).collect();
    assert!(exceeded.is_empty(), "more than is promised: {}", exceeded.join("; "));
}
