//! `crieur explain --cost RECORDING`: what the changes of a recording would have cost in commands, by plan. No server.
//!
//! The transactions of the recording go through the rules as they do in the daemon, and their commit times through the
//! daemon's own pace. A flush is one command, however many keys stand in it; a mark costs what its transport makes of it.
//! The size of the cache is not known: a sweep (one SCAN for each 1,000 keys) is counted, and its commands are not.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use crate::budget::{Budget, MONTH, MarkCost};
use crate::config::{CacheConfig, Config};
use crate::error::Exit;
use crate::source::Source;
use crate::source::recording::{RecordedControl, RecordedSource, Recording};
use crate::tap::{Settled, Tap};
use crate::target::meter::Meter;

/// Commands that the free plan of Upstash has in a month.
const FREE: u64 = 500_000;
/// US dollars for a hundred thousand commands, paid as they are used.
const PER_HUNDRED_THOUSAND: f64 = 0.20;
/// US dollars a month for the smallest plan on which commands are not billed.
const FIXED: f64 = 10.0;

/// How a cache is driven.
#[derive(Clone, Debug)]
struct Driven {
    echo: Vec<Duration>,
    heartbeat: Duration,
    mark: MarkCost,
    budget: Option<Budget>,
}

/// What a time of changes costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cost {
    commands: u64,
    /// How long the change waited for the pace that waited longest. Nothing of a recording says what else a change waits
    /// for, so without a budget there is no such figure.
    greatest: Option<Duration>,
}

/// Without a budget the mark follows deletes at this pace (`target/confirm.rs`).
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// The cost of changes at these times, from the first of them to `end`. Pure.
fn cost(times: &[Duration], end: Duration, driven: &Driven) -> Cost {
    let mut meter = driven.budget.map(|budget| Meter::new(budget, Duration::ZERO));
    let mut echoes: Vec<VecDeque<Duration>> = driven.echo.iter().map(|_| VecDeque::new()).collect();
    let mut total = Cost { greatest: driven.budget.map(|_| Duration::ZERO), ..Cost::default() };
    let mut next = 0;
    let (mut marked, mut carries) = (Duration::ZERO, false);
    loop {
        let fresh = times.get(next).copied();
        let Some(wanted) = echoes.iter().filter_map(|due| due.front().copied()).chain(fresh).min() else { break };
        let at = meter.as_ref().and_then(Meter::due).map_or(wanted, |pace| pace.max(wanted));
        let mut mark = |upto: Duration, carries: &mut bool, meter: &mut Option<Meter<Duration>>| {
            loop {
                let pause = if *carries && driven.budget.is_none() { MARK_INTERVAL } else { driven.heartbeat };
                if marked + pause > upto {
                    return;
                }
                marked += pause;
                let cost = if std::mem::take(carries) { driven.mark.carrying } else { driven.mark.idle };
                total.commands += cost;
                meter.iter_mut().for_each(|meter| meter.spent(cost, marked));
            }
        };
        mark(at, &mut carries, &mut meter);
        if let Some(meter) = &mut meter {
            meter.flushes(at);
            meter.spent(driven.mark.flush, at);
        }
        total.commands += driven.mark.flush;
        carries = true;
        let came = times[next..].iter().take_while(|time| **time <= at).count();
        if came > 0 {
            total.greatest = total.greatest.map(|greatest| greatest.max(at.saturating_sub(times[next])));
            next += came;
        }
        // Each stage follows the one before, by its own distance and a tenth: echoes share what falls together.
        let due: Vec<bool> = echoes.iter().map(|due| due.front().is_some_and(|due| *due <= at)).collect();
        for due in &mut echoes {
            while due.front().is_some_and(|due| *due <= at) {
                due.pop_front();
            }
        }
        for (stage, echo) in driven.echo.iter().enumerate() {
            let is_followed = if stage == 0 { came > 0 } else { due[stage - 1] };
            let before = stage.checked_sub(1).map_or(Duration::ZERO, |before| driven.echo[before]);
            if is_followed {
                let gap = echo.saturating_sub(before);
                echoes[stage].push_back(at + gap + (gap / 10).min(Duration::from_secs(1)));
            }
        }
    }
    let beats = end.saturating_sub(marked).as_secs_f64() / driven.heartbeat.as_secs_f64();
    total.commands += beats as u64 * driven.mark.idle + if carries { driven.mark.carrying } else { 0 };
    total
}

/// What a recording holds that costs.
struct Recorded {
    times: Vec<Duration>,
    patterns: u64,
}

async fn read(config: &Config, recording: &Recording) -> anyhow::Result<Recorded> {
    let bytes_max = config.limits.memory_bytes();
    let mut source = RecordedSource::new(recording);
    let control = RecordedControl::new(recording, config.rules.lookups());
    let mut tap = Tap::new(&config.rules, bytes_max);
    let (mut first, mut recorded) = (None, Recorded { times: Vec::new(), patterns: 0 });
    while let Some(event) = source.take()? {
        let Some(transaction) = tap.event(event, &control).await?.transaction else { continue };
        let settled = Settled::ask(transaction, &config.rules, &control).await?;
        let at = source.committed_at().unwrap_or_default();
        let since = at.saturating_sub(*first.get_or_insert(at));
        let time = Duration::from_micros(since.try_into().unwrap_or(0));
        let last = recorded.times.last().copied().unwrap_or_default();
        recorded.times.push(time.max(last));
        let sweeps = !settled.load.patterns.is_empty() || !settled.found.patterns.is_empty();
        recorded.patterns += u64::from(sweeps);
    }
    Ok(recorded)
}

/// Each way to drive this cache that the figures compare, with its name.
fn ways(cache: &CacheConfig) -> Vec<(String, Driven)> {
    let mark = cache.mark_cost();
    let driven = |echo: &[Duration], budget| Driven { echo: echo.to_vec(), heartbeat: cache.heartbeat, mark, budget };
    let budget = cache.budget().ok().flatten();
    let mut ways = Vec::new();
    if let Some(budget) = budget {
        ways.push((format!("a budget of {} a month", budget.commands()), driven(&cache.echo, Some(budget))));
    }
    ways.push(("without a budget".to_owned(), driven(&cache.echo, None)));
    if !cache.echo.is_empty() {
        ways.push(("without a budget, echo = []".to_owned(), driven(&[], None)));
    }
    ways
}

/// A shorter recording says nothing of a month: one transaction in a second would be millions of commands.
const LASTED_MIN: Duration = Duration::from_secs(60);

/// The lines of one way: the commands, the same for a month, and what the month costs. A month never takes more than its
/// `budget`: a recording may spend what an idle while before it has saved up.
fn lines(way: &str, cost: Cost, lasted: Duration, budget: Option<u64>, out: &mut impl Write) -> std::io::Result<()> {
    let alike = (cost.commands as f64 * MONTH.as_secs_f64() / lasted.as_secs_f64()).ceil();
    let month = budget.map_or(alike, |budget| alike.min(budget as f64));
    let fits = if month <= FREE as f64 { "fits into" } else { "is more than" };
    let free = month / FREE as f64 * 100.0;
    let waits = cost.greatest.map(|greatest| format!("; a change waits for {:.1} s at most", greatest.as_secs_f64()));
    writeln!(out, "  {way}: {} commands{}", cost.commands, waits.unwrap_or_default())?;
    if lasted < LASTED_MIN {
        return Ok(());
    }
    writeln!(out, "    a month like this        {month:.0} commands")?;
    writeln!(out, "    free plan                {fits} {FREE} ({free:.0} %)")?;
    writeln!(out, "    pay as you go            ${:.2}", month / 100_000.0 * PER_HUNDRED_THOUSAND)?;
    writeln!(out, "    fixed plan               ${FIXED:.2}, commands are not billed")
}

/// Prints what the recording would have cost with each cache.
///
/// # Errors
///
/// A recording that cannot be read, an output that cannot be written.
pub async fn run(config: &Config, recording: &Recording, out: &mut impl Write) -> anyhow::Result<Exit> {
    let Recorded { times, patterns } = read(config, recording).await?;
    let lasted = times.last().copied().unwrap_or_default();
    writeln!(
        out,
        "{} transactions in {:.1} s delete something; {patterns} of them need a sweep, whose commands are not counted: one SCAN for each 1,000 keys of the cache",
        times.len(),
        lasted.as_secs_f64()
    )?;
    if lasted < LASTED_MIN {
        writeln!(
            out,
            "the recording is too short for a month: its changes span {:.1} s, and less than {} s say nothing of one; record for longer, with crieur record --for 1h",
            lasted.as_secs_f64(),
            LASTED_MIN.as_secs()
        )?;
    }
    for cache in &config.caches {
        writeln!(out, "{}", cache.called())?;
        for (way, driven) in ways(cache) {
            let budget = driven.budget.map(|budget| budget.commands());
            lines(&way, cost(&times, lasted, &driven), lasted, budget, out)?;
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn driven(echo: &[u64], budget: Option<u64>) -> Driven {
        let (heartbeat, mark) = (S(60), MarkCost::REST);
        let budget = budget.map(|commands| Budget::new(commands, heartbeat, mark).expect("large enough"));
        Driven { echo: echo.iter().map(|ms| Duration::from_millis(*ms)).collect(), heartbeat, mark, budget }
    }

    fn said(cost: Cost, budget: Option<u64>) -> String {
        let mut out = Vec::new();
        lines("x", cost, S(2_592), budget, &mut out).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_lone_change_costs_its_delete_its_echoes_and_its_marks() {
        let lone = |echo: &[u64]| cost(&[Duration::ZERO], Duration::ZERO, &driven(echo, None)).commands;
        assert_eq!(lone(&[]), 1 + 2, "the delete, and a mark that carries it");
        assert_eq!(lone(&[250, 2_000, 30_000]), 4 + 2 * 3, "four deletes; the first two share a mark");
    }

    #[test]
    fn an_hour_of_load_stays_within_the_budget_and_the_bound() {
        let times: Vec<Duration> = (0..72_000).map(|n| Duration::from_millis(n * 50)).collect();
        let paced = driven(&[250, 2_000, 30_000], Some(200_000));
        let budget = paced.budget.expect("it was given");
        let cost_of_hour = cost(&times, S(3_600), &paced);
        assert!(cost_of_hour.commands as f64 <= 200_000.0 / 720.0 + budget.burst(), "{cost_of_hour:?}");
        assert!(cost_of_hour.greatest.is_some_and(|waited| waited <= budget.bound()), "{cost_of_hour:?}");
        assert!(cost(&times, S(3_600), &driven(&[], None)).commands > 72_000);
    }

    #[test]
    fn the_lines_name_each_plan() {
        let cost = Cost { commands: 1_000, greatest: Some(S(3)) };
        let text = said(cost, None);
        for words in ["1000000 commands", "is more than 500000 (200 %)", "$2.00", "$10.00", "3.0 s"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        // What was saved up is spent once in a month.
        let text = said(cost, Some(200_000));
        for words in ["x: 1000 commands", "200000 commands", "fits into 500000 (40 %)", "$0.40"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn without_a_budget_nothing_is_said_of_how_long_a_change_waits() {
        let unpaced = cost(&[Duration::ZERO, S(60)], S(60), &driven(&[], None));
        let text = said(unpaced, None);
        assert!(text.starts_with(&format!("  x: {} commands\n", unpaced.commands)), "{text}");
    }
}
