//! `crieur verify`: once over every cached value of `[[verify]]`.

use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::amount::duration;
use crate::cache::Cache as _;
use crate::cache::inspect::Inspect;
use crate::cli::bar::Bar;
use crate::cli::verify::ask::Asker;
use crate::cli::verify::eyes::{Eyes, TOGETHER, ValueLook};
use crate::cli::verify::judge::{Suspect, judge};
use crate::cli::verify::position::committed;
use crate::config::Config;
use crate::error::{Error, Exit, Result};
use crate::shown::{quoted, shown};

/// Between two looks at suspects.
const PAUSE: Duration = Duration::from_millis(500);

/// Keys that are named one by one.
const NAMED_MAX: usize = 200;

/// Compares every cached value of `[[verify]]` with the database; changes nothing.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// Wait no longer than this for deletes that are on their way, behind what the database contradicts.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = time)]
    timeout: Duration,
}

fn time(text: &str) -> std::result::Result<Duration, String> {
    duration(text).ok_or_else(|| "write a number with its unit: 500ms, 30s, 5m".into())
}

/// What was found in one cache of one `[[verify]]`.
#[derive(Debug, Default)]
struct Found {
    checked: u64,
    unclear: u64,
}

/// Looks at all, and says how to exit.
///
/// # Errors
///
/// Those of the configuration and of the servers.
pub async fn run(config: &Config, arguments: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    if config.verify.is_empty() {
        let error = Error::definite(Exit::Config, "the configuration has no [[verify]]");
        let hint = "Write [[verify]] with keys = \"product:{id}\" and sql = \"SELECT … WHERE id = $1\".";
        return Err(error.hint(hint).into());
    }
    let eyes = Eyes::of(config)?;
    let asker = eyes.open().await?;
    let (mut progress, mut suspects, mut found) = (Bar::default(), Vec::new(), Vec::new());
    for cache in 0..eyes.caches.len() {
        for of in 0..eyes.verifications.len() {
            found.push(((cache, of), first(&eyes, &asker, (cache, of), &mut suspects, &mut progress).await?));
        }
    }
    let (mut stale, by) = (Vec::new(), Instant::now() + arguments.timeout);
    while !suspects.is_empty() && Instant::now() < by {
        progress.draw(&format!("{} values are looked at again when their deletes are done", suspects.len()));
        stale.extend(judge(&eyes, &asker, &mut suspects, &|_| true).await?.stale);
        tokio::time::sleep(PAUSE).await;
    }
    progress.clear();
    let billed = eyes.caches.iter().map(|looked| looked.cache.billed()).sum();
    let report = Report { eyes: &eyes, found: &found, stale: &stale, late: &suspects, billed };
    if arguments.json {
        report.json(out)?
    } else {
        report.text(out)?
    }
    Ok(if stale.is_empty() && suspects.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// The first look at every key; what the database contradicts becomes a suspect.
async fn first(
    eyes: &Eyes,
    asker: &Asker,
    (cache, of): (usize, usize),
    suspects: &mut Vec<Suspect>,
    progress: &mut Bar,
) -> Result<Found> {
    let (looked, verification) = (&eyes.caches[cache], &eyes.verifications[of]);
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut each = |key: &[u8]| {
        if looked.is_value(verification, key) {
            keys.push(key.to_vec());
            progress.draw(&format!("looking for {}: {} keys so far", verification.keys.text(), keys.len()));
        }
        std::ops::ControlFlow::Continue(())
    };
    looked.cache.keys(&verification.keys.glob(), &mut each).await?;
    keys.sort_unstable();
    keys.dedup(); // SCAN may give a key twice.
    let mut found = Found::default();
    for (chunk, part) in keys.chunks(TOGETHER).enumerate() {
        progress.draw(&format!("verifying {}: {} of {} keys", verification.keys.text(), chunk * TOGETHER, keys.len()));
        let looks = eyes.look(asker, (cache, of), part).await?;
        let mut next = None;
        for (key, look) in part.iter().zip(looks) {
            found.checked += u64::from(look != ValueLook::Absent);
            match look {
                ValueLook::Absent | ValueLook::Same => {}
                ValueLook::Unclear => found.unclear += 1,
                ValueLook::Contradicted(value) => {
                    let committed = match &next {
                        Some(committed) => Rc::clone(committed),
                        None => Rc::new(committed(&asker.session, &eyes.access).await?),
                    };
                    next = Some(Rc::clone(&committed));
                    suspects.push(Suspect::new((cache, of), key.clone(), value, committed));
                }
            }
        }
    }
    Ok(found)
}

/// What is said in the end.
struct Report<'a> {
    eyes: &'a Eyes,
    found: &'a [((usize, usize), Found)],
    stale: &'a [Suspect],
    /// Contradicted, and the mark does not say that their deletes are done.
    late: &'a [Suspect],
    billed: u64,
}

impl Report<'_> {
    fn count(of: (usize, usize), suspects: &[Suspect]) -> usize {
        suspects.iter().filter(|suspect| suspect.of == of).count()
    }

    fn text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let several = self.eyes.caches.len() > 1;
        let place = |of: (usize, usize)| {
            if several { format!(" in cache {}", self.eyes.caches[of.0].settings.name) } else { String::new() }
        };
        let kinds = [("STALE", self.stale, "the database says otherwise"), ("LATE ", self.late, LATE)];
        for (kind, suspects, what) in kinds {
            for suspect in suspects.iter().take(NAMED_MAX) {
                let age = suspect.since.elapsed().as_secs();
                writeln!(out, "{kind} {}{}: {what}, for at least {age} s", quoted(&suspect.key), place(suspect.of))?;
            }
            if suspects.len() > NAMED_MAX {
                writeln!(out, "{kind} … and {} more keys", suspects.len() - NAMED_MAX)?;
            }
        }
        for (of, Found { checked, unclear }) in self.found {
            let (keys, stale, late) = (self.eyes.verifications[of.1].keys.text(), self.stale, self.late);
            let (stale, late) = (Report::count(*of, stale), Report::count(*of, late));
            writeln!(out, "{keys}{}: {checked} checked, {stale} stale, {late} late, {unclear} undecided", place(*of))?;
        }
        if self.billed > 0 {
            writeln!(out, "{} commands were billed", self.billed)?;
        }
        Ok(())
    }

    fn json(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let name = |of: (usize, usize)| self.eyes.caches[of.0].settings.name.as_str();
        let keys = |of: (usize, usize)| self.eyes.verifications[of.1].keys.text();
        let list = |suspects: &[Suspect]| -> Vec<serde_json::Value> {
            let one = |suspect: &Suspect| {
                let (key, age) = (shown(&suspect.key), suspect.since.elapsed().as_secs());
                serde_json::json!({ "cache": name(suspect.of), "key": key, "age_seconds": age })
            };
            suspects.iter().map(one).collect()
        };
        let of = |(of, Found { checked, unclear }): &((usize, usize), Found)| {
            serde_json::json!({
                "cache": name(*of), "keys": keys(*of), "checked": checked, "undecided": unclear,
                "stale": Report::count(*of, self.stale), "late": Report::count(*of, self.late),
            })
        };
        let checked: u64 = self.found.iter().map(|(_, found)| found.checked).sum();
        let result = serde_json::json!({
            "checked": checked, "verify": self.found.iter().map(of).collect::<Vec<_>>(),
            "stale": list(self.stale), "late": list(self.late), "billed": self.billed,
        });
        writeln!(out, "{result}")
    }
}

const LATE: &str =
    "the database says otherwise, and the mark does not say that crieur deleted all since: is it running?";
