//! Warming: pages are fetched again behind the deletes of their keys (`daemon.rs`), and `crieur warm` fetches a list of
//! them, or all of a family, after a flush or a deployment.

pub mod daemon;
mod fetcher;
mod list;
mod rows;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::fetcher::Fetcher;
use crate::cache::site::SiteAnswer;
use crate::cli::bar::{Bar, blocks};
use crate::cli::origin::Origin;
use crate::cli::output::say;
use crate::cli::process::end_signal;
use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::rules::Rules;
use crate::warm::TRIES_MAX;

/// Between two looks at the progress.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Pages that did not come and are named.
const NAMED_MAX: u64 = 20;
/// Bytes of a list.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which pages are fetched, and how fast.
#[derive(Debug, clap::Args)]
pub struct WarmArgs {
    /// A file of addresses, one a line (- for standard input); or a template of the rules as it is written there, such as
    /// detail:{id}, whose rows are read from PostgreSQL.
    #[arg(value_name = "FILE|FAMILY")]
    pub what: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Fetch at most this many pages in a minute; without it limits.warm_rate of the configuration.
    #[arg(long, value_name = "PAGES", value_parser = clap::value_parser!(u64).range(1..=6_000))]
    rate: Option<u64>,
    /// Fetch at most this many pages.
    #[arg(long, value_name = "PAGES", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    /// Print the addresses; fetch nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Fetches the pages, and says how to exit.
///
/// # Errors
///
/// There is no such file or family, or a server does not answer.
pub async fn run(config: &Config, arguments: &WarmArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let rate = match arguments.rate.unwrap_or(config.limits.warm_rate) {
        0 => {
            let error = Error::definite(Exit::Usage, "limits.warm_rate is 0: no page is fetched");
            return Err(error.hint("Write a rate into the configuration, or add --rate.").into());
        }
        rate => rate,
    };
    let mut bar = Bar::default();
    let (urls, is_cut) = pages(config, arguments, &mut bar).await?;
    bar.clear();
    if is_cut {
        say(format_args!("there are more pages than --limit {}: the others are left out\n", arguments.limit));
    }
    if arguments.dry_run {
        urls.iter().try_for_each(|url| writeln!(out, "{url}"))?;
        return Ok(Exit::Ok);
    }
    let run = FetchRun::new(urls, rate, config.limits.warm_timeout, bar);
    let end = end_signal()?;
    let is_done = tokio::select! {
        biased;
        () = end => false,
        _ = async { tokio::join!(run.work(0), run.work(1)) } => true,
        never = run.draw() => match never {},
    };
    run.bar.borrow_mut().clear();
    let (fetched, failed, all) = (run.fetched.get(), run.failed.get(), run.all);
    let ended = if is_done { "" } else { "; interrupted" };
    writeln!(out, "{fetched} of {all} pages fetched, {failed} failed{ended}")?;
    Ok(if is_done && failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// The addresses, and whether there are more.
async fn pages(config: &Config, arguments: &WarmArgs, bar: &mut Bar) -> anyhow::Result<(Vec<String>, bool)> {
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let what = arguments.what.as_str();
    // A list may be a pipe: crieur warm <(…).
    let path = std::path::Path::new(what);
    if what != "-" && (!path.exists() || path.is_dir()) {
        let listed = rows::listed(&Origin::of(config)?, what, limit, bar).await?;
        return Ok((listed.urls, listed.is_cut));
    }
    let mut urls = list::read(what, &text(what)?, &origins(&config.rules))?;
    let is_cut = urls.len() > limit;
    urls.truncate(limit);
    Ok((urls, is_cut))
}

fn origins(rules: &Rules) -> Vec<&str> {
    let mut origins: Vec<&str> = rules.page_addresses().into_iter().map(|address| address.origin()).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

/// The text of a list.
fn text(what: &str) -> Result<String> {
    let name = if what == "-" { "of standard input" } else { what };
    let unread = || Error::definite(Exit::NoInput, format!("cannot read the list {name}"));
    let mut bytes = Vec::new();
    let read = match what {
        "-" => read_some(std::io::stdin(), &mut bytes),
        path => std::fs::File::open(path).and_then(|file| read_some(file, &mut bytes)),
    };
    read.map_err(|cause| unread().because(cause))?;
    if bytes.len() as u64 > LIST_BYTES_MAX {
        let error = Error::definite(Exit::Data, format!("the list {name} is longer than 64 MiB"));
        return Err(error.hint("Part the list, and warm one part after the other."));
    }
    String::from_utf8(bytes).map_err(|cause| unread().hint("Save the list as UTF-8.").because(cause))
}

/// A byte more than a list may have says that the list has more.
fn read_some(from: impl Read, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    from.take(LIST_BYTES_MAX + 1).read_to_end(bytes)
}

/// Pages on their way.
struct FetchRun {
    fetcher: Fetcher,
    /// Each with the number of times that it was asked for.
    waiting: RefCell<VecDeque<(String, u8)>>,
    all: usize,
    fetched: Cell<u64>,
    failed: Cell<u64>,
    bar: RefCell<Bar>,
    /// Where there is no terminal, the next line.
    line: Cell<Option<Instant>>,
    /// Until when a site wants no request, as far as that was said.
    paused: Cell<Option<Instant>>,
}

impl FetchRun {
    fn new(urls: Vec<String>, rate: u64, timeout: Duration, bar: Bar) -> Self {
        FetchRun {
            fetcher: Fetcher::new(rate, timeout),
            all: urls.len(),
            waiting: RefCell::new(urls.into_iter().map(|url| (url, 0)).collect()),
            fetched: Cell::default(),
            failed: Cell::default(),
            bar: RefCell::new(bar),
            line: Cell::new((!std::io::stderr().is_terminal()).then(|| Instant::now() + LINE_EVERY)),
            paused: Cell::default(),
        }
    }

    /// Fetches one page after the other, until none waits.
    async fn work(&self, lane: usize) {
        loop {
            if self.waiting.borrow().is_empty() {
                if !self.fetcher.is_out() {
                    return;
                }
                // The last one that is out may come again.
                self.fetcher.answered().await;
                continue;
            }
            if !self.fetcher.may_ask().await {
                continue;
            }
            let next = self.waiting.borrow_mut().pop_front();
            let Some((url, tries)) = next else { continue };
            let answer = self.fetcher.fetch(lane, &url).await;
            self.judge(url, tries + 1, answer);
        }
    }

    fn judge(&self, url: String, tries: u8, answer: SiteAnswer) {
        if let SiteAnswer::Later(code, pause) = &answer {
            self.say_pause(*code, *pause);
        }
        let why = match answer {
            SiteAnswer::Came => return self.fetched.set(self.fetched.get() + 1),
            SiteAnswer::Elsewhere(code) => format!("leads elsewhere (HTTP {code}), and crieur does not follow"),
            SiteAnswer::Refused(code) => format!("HTTP {code}"),
            SiteAnswer::Later(..) if tries < TRIES_MAX => {
                return self.waiting.borrow_mut().push_back((url, tries));
            }
            SiteAnswer::Later(code, _) => format!("HTTP {code}"),
            SiteAnswer::Silent(error) => error.chain(),
        };
        self.failed.set(self.failed.get() + 1);
        if self.failed.get() <= NAMED_MAX {
            self.bar.borrow_mut().clear();
            say(format_args!("{url}: {why}\n"));
        }
    }

    /// Says for how long nothing happens. Both requests that are out may say the same.
    fn say_pause(&self, code: u16, pause: Duration) {
        let now = Instant::now();
        if pause < LINE_EVERY || self.paused.get().is_some_and(|until| until > now) {
            return;
        }
        self.paused.set(Some(now + pause));
        self.bar.borrow_mut().clear();
        say(format_args!("the site wants to be asked again in {} s (HTTP {code})\n", pause.as_secs()));
    }

    /// Shows how far the work is, for as long as it lasts.
    async fn draw(&self) -> Infallible {
        loop {
            self.draw_once();
            sleep(DRAW_EVERY).await;
        }
    }

    fn draw_once(&self) {
        let (fetched, failed) = (self.fetched.get(), self.failed.get());
        let done = usize::try_from(fetched + failed).unwrap_or(usize::MAX).min(self.all);
        let percent = done * 100 / self.all.max(1);
        let counts = format!("{done} of {} pages, {failed} failed", self.all);
        self.bar.borrow_mut().draw(&format!("warming: {} {percent:>2} %, {counts}", blocks(percent as u64)));
        if self.line.get().is_some_and(|due| due <= Instant::now()) {
            self.line.set(Some(Instant::now() + LINE_EVERY));
            say(format_args!("warming: {counts}\n"));
        }
    }
}
