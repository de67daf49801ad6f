//! `make demo`: the main job on real servers, change by change.
//!
//! A throwaway PostgreSQL and two throwaway caches, the release binary with the shipped configuration and Dousell's rules,
//! and every change of Dousell's invalidation table. After each one the whole cache is compared with what it must hold: not
//! one key too few, not one too many. Then the second cache goes away and comes back. Exit 0 when everything was as
//! promised, 1 otherwise; nothing is left running.
//!
//! `make servers`: the two servers alone, for the quick start of the documentation, until Ctrl-C.

#[path = "../harness/mod.rs"]
mod harness;

mod changes;
mod daemon;
mod report;
mod two;
mod watch;

use std::error::Error;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use changes::{CHANGES, Change, ROLLED_BACK, STALE, STAYS, TABLES};
use daemon::{ECHO, Installation};
use harness::postgres::{Options, Postgres};
use harness::process::reap_all;
use harness::redis::{Redis, Server};
use report::{Mark, Report, milliseconds};
use watch::{Keys, Watch, keys};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How late the slow reader is: between its SELECT and its SET.
const SLOW_READER: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    // Every temporary directory of the servers is made in this one, so that no end can leave one behind.
    let everyone_enters = Permissions::from_mode(0o755);
    let work = tempfile::Builder::new().prefix("crieur-demo-").permissions(everyone_enters).tempdir();
    let work = work.expect("the temporary directory is writable");
    tempfile::env::override_temp_dir(work.path()).expect("nothing has asked for it before");
    end_without_drops(work.path().to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = Report::new();
    let only_servers = std::env::args().nth(1).is_some_and(|word| word == "servers");
    let work = async || if only_servers { servers(report).await } else { demo(report).await };
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(work())) {
        Ok(broken) if broken.is_empty() => {
            report.promise(Mark::Kept, "everything was as promised");
            ExitCode::SUCCESS
        }
        Ok(broken) => {
            report.step("not as promised:");
            broken.iter().for_each(|reason| report.promise(Mark::Broken, reason));
            ExitCode::FAILURE
        }
        Err(error) => {
            wait_for_end();
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A signal came: what fails from here on fails because the servers end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// After a signal, the thread that cleans up ends the program.
fn wait_for_end() {
    while ENDING.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

/// A panic aborts in the release profile, and a signal ends the program: the servers end first.
fn end_without_drops(work: PathBuf) {
    let clean = move || {
        reap_all();
        let _ = std::fs::remove_dir_all(&work); // There is nobody left to tell.
    };
    let (say, clean_too) = (std::panic::take_hook(), clean.clone());
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        clean_too();
        std::process::exit(1);
    }));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads can be made");
        let code = runtime.block_on(async {
            let listen = |kind| signal(kind).expect("these signals can be caught");
            let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
            let mut hangup = listen(SignalKind::hangup());
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hangup.recv() => 129,
            }
        });
        ENDING.store(true, Ordering::Relaxed);
        clean();
        std::process::exit(code);
    });
}

/// Two throwaway servers and their addresses. Only a signal ends them.
async fn servers(report: Report) -> Result<Vec<String>> {
    let (postgres, cache) = (Postgres::start(Options::default()), Redis::start(&Server::System, &[]));
    report.step("Two throwaway servers run. Type these lines in another terminal:");
    println!("export DATABASE_URL='{}'\nexport REDIS_URL='{}'", postgres.url(), cache.url());
    report.step("Ctrl-C ends both and removes what they hold.");
    std::future::pending().await
}

/// Returns what was not as promised.
async fn demo(report: Report) -> Result<Vec<String>> {
    report.step("Servers");
    let (postgres, cache) = (Postgres::start(Options::default()), Redis::start(&Server::System, &[]));
    let mut dakar = Redis::start(&Server::System, &[]);
    let client = postgres.client().await;
    let watch = Watch::new(&cache.url(), cache.connection());
    let version: String = client.query_one("SHOW server_version", &[]).await?.get(0);
    let (database, main, second) = (postgres.port(), cache.port(), dakar.port());
    report.lines(&format!(
        "PostgreSQL {version} on port {database}, the caches main and dakar on ports {main} and {second}"
    ));
    client.batch_execute(TABLES).await?;

    let installation = Installation::new(postgres.url(), [cache.url(), dakar.url()])?;
    report.step("crieur setup");
    report.lines(&installation.command("setup")?);
    report.step("crieur check");
    report.lines(&installation.command("check")?);

    report.step("crieur run");
    report.lines("systemd/crieur.toml and systemd/dousell.rules.toml as shipped,");
    report.lines(&format!("but one echo after {ECHO} instead of three until 30 s: you would have to wait for them"));
    let (stale, stays) = (keys(STALE), keys(STAYS));
    watch.store(&stale).await?;
    watch.store(&stays).await?;
    let started = Instant::now();
    let mut daemon = installation.run()?;
    let mut trial = Trial { report, watch, all: &stale | &stays, echoes: Vec::new(), broken: Vec::new() };
    let title = "first start: the cache may hold anything, so every key of the rules goes";
    trial.judge(Promise { title, goes: stale, near: Keys::new(), since: started, moment: "after its start" }).await?;

    report.step("Changes");
    trial.all = CHANGES.iter().fold(&stays | &keys(ROLLED_BACK), |all, change| &all | &keys(change.goes));
    for change in CHANGES {
        trial.change(&client, change).await?;
        if daemon.has_ended() {
            trial.broken.push("crieur run ended by itself; what follows was not tried".to_owned());
            break;
        }
    }
    if !daemon.has_ended() {
        trial.two_caches(&client, &mut dakar).await?;
    }
    trial.echoes();
    let memory = resident_kilobytes(daemon.pid());
    let log = daemon.log();
    if let Err(reason) = daemon.stop() {
        trial.broken.push(reason);
    }
    trial.remaining(&stays)?;
    if !trial.broken.is_empty() {
        eprintln!("what crieur run said:\n{log}");
    }
    report.step("End");
    if let Some(kilobytes) = memory {
        report
            .lines(&format!("crieur run used {:.1} MB of memory and stopped by itself at SIGTERM", kilobytes / 1024.0));
    }
    Ok(trial.broken)
}

/// Which keys must go, and since when that is waited for.
struct Promise<'a> {
    title: &'a str,
    goes: Keys,
    /// Keys that stay and are shown.
    near: Keys,
    since: Instant,
    /// What happened at `since`, for the reader.
    moment: &'a str,
}

/// The cache, what it must hold, and what was found.
struct Trial {
    report: Report,
    watch: Watch,
    /// Every key that is there before each change.
    all: Keys,
    /// For each change: from its delete until the slow reader's value was gone.
    echoes: Vec<Duration>,
    broken: Vec<String>,
}

impl Trial {
    async fn change(&mut self, client: &tokio_postgres::Client, change: &Change) -> Result<()> {
        self.watch.store(&self.all).await?;
        if let Some(sql) = change.rolled_back {
            client.batch_execute(&format!("BEGIN; {sql}; ROLLBACK")).await?;
        }
        client.batch_execute(&format!("BEGIN; {}", change.committed)).await?;
        let early = &self.all - &self.watch.keys()?;
        if !early.is_empty() {
            self.broken.push(format!("{}: went before COMMIT: {}", change.title, list(&early)));
        }
        client.batch_execute("COMMIT").await?;
        let (goes, near) = (keys(change.goes), keys(change.near));
        self.judge(Promise { title: change.title, goes, near, since: Instant::now(), moment: "after COMMIT" }).await
    }

    /// Waits for the keys to go, and once more after a slow reader stored them again; nothing else may go.
    async fn judge(&mut self, promise: Promise<'_>) -> Result<()> {
        let Promise { title, goes, near, since, moment } = promise;
        let first = self.watch.gone(&goes, &self.all, since)?;
        let deleted = Instant::now();
        if first.after.is_some() {
            std::thread::sleep(SLOW_READER);
            self.watch.store(&goes).await?;
        }
        let echo = self.watch.gone(&goes, &self.all, deleted)?;
        let mut reasons = Vec::new();
        if first.after.is_none() || echo.after.is_none() {
            let (when, left) = if first.after.is_none() { ("", &first) } else { ("after the echo ", &echo) };
            reasons.push(format!("{title}: {when}still there: {}", list(&(&goes - &left.went))));
        }
        let extra = &(&first.went | &echo.went) - &goes;
        if !extra.is_empty() {
            reasons.push(format!("{title}: went and should have stayed: {}", list(&extra)));
        }
        self.report.promise(if reasons.is_empty() { Mark::Kept } else { Mark::Broken }, title);
        let after = first.after.map_or("never all".to_owned(), |after| format!("{} {moment}", milliseconds(after)));
        self.report.went(&first.went, &after);
        self.report.stayed(&(&self.all - &echo.went), &near);
        self.echoes.extend(echo.after);
        self.broken.append(&mut reasons);
        Ok(())
    }

    /// What happened to the slow reader's values.
    fn echoes(&self) {
        self.report.step("Slow readers");
        let text = format!(
            "Each time a slow reader stored the old values again {} after the delete.",
            milliseconds(SLOW_READER)
        );
        self.report.lines(&text);
        if let (Some(least), Some(most)) = (self.echoes.iter().min(), self.echoes.iter().max()) {
            let text = format!(
                "The echo deleted them again, {} to {} after the delete.",
                milliseconds(*least),
                milliseconds(*most)
            );
            self.report.lines(&text);
        }
    }

    /// After the daemon's end: every key that no change should have deleted is still there.
    fn remaining(&mut self, stays: &Keys) -> Result<()> {
        let lost = &(stays | &keys(ROLLED_BACK)) - &self.watch.keys()?;
        if !lost.is_empty() {
            self.broken.push(format!("gone at the end and should have stayed: {}", list(&lost)));
        }
        Ok(())
    }
}

fn list(keys: &Keys) -> String {
    keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The daemon's memory, where procfs tells it.
fn resident_kilobytes(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}
