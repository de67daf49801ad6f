//! The commands: argv in, exit code out. Edges only; what a command decides lives in pure modules.

mod ask;
mod bar;
mod beside;
mod caches;
pub mod check;
mod cost;
pub mod coverage;
pub mod deletes;
pub mod diff;
pub mod dry;
pub mod explain;
pub mod finding;
pub mod init;
pub mod log;
pub mod manual;
mod origin;
mod other;
mod output;
mod paint;
mod process;
pub mod progress;
pub mod record;
pub mod reference;
mod reload;
pub mod replay;
pub mod run;
pub mod setup;
mod standing;
pub mod status;
pub mod sweep;
pub mod tail;
pub mod teardown;
pub mod terminal;
mod told;
pub mod trial;
pub mod ttl;
pub mod verify;
pub mod warm;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cache::any::AnyCache;
use crate::cache::inspect::Inspect;
use crate::cli::finding::Shown;
use crate::cli::origin::Origin;
use crate::cli::output::{LastingOut, say, told};
use crate::cli::paint::PaintedOut;
use crate::cli::process::{block_on, end_signal, environment};
use crate::cli::setup::plan::Slotting;
use crate::config::{Config, Given, Mode};
use crate::error::{Error, Exit, Result};
use crate::mistake::Mistakes;
use crate::postgres::dsn::Dsn;
use crate::source::recording::Recording;
use crate::target::twins::Twins;

/// Deletes the keys of a Redis or Valkey cache when the PostgreSQL rows that they were made of change.
#[derive(Debug, Parser)]
#[command(name = "crieur", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
}

/// A configuration and a change.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    change: explain::Args,
    /// Compare two configuration files over a recording: keys that only NEW's rules delete, and only OLD's.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], requires = "recording")]
    #[arg(conflicts_with_all = ["config", "table", "operation", "old", "new", "types"])]
    diff: Option<Vec<PathBuf>>,
    /// The recording, made by `crieur record`, whose changes --diff puts to both.
    #[arg(long, value_name = "RECORDING", requires = "diff")]
    recording: Option<PathBuf>,
    /// Print what the changes of a recording would have cost where each command is billed, by plan.
    #[arg(long, value_name = "RECORDING")]
    #[arg(conflicts_with_all = ["diff", "table", "operation", "old", "new", "types"])]
    cost: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at both servers and write a configuration and rules to begin with. Changes nothing on the servers.
    Init(init::InitArgs),
    /// Run the daemon: follow committed changes and delete their keys, until it is stopped.
    Run(run::RunArgs),
    /// Look at both servers and at the rules: say what is wrong and what mends it. Changes nothing.
    Check(check::CheckArgs),
    /// Say which keys a change of one row deletes, and by which rule. Needs no server.
    Explain(ExplainArgs),
    /// List cached keys that no rule deletes, and rules without a cached key. Deletes nothing.
    Coverage(coverage::CoverageArgs),
    /// Say what marks and daemon say; with --wait, return when what is committed is deleted in every required cache.
    Status(status::StatusArgs),
    /// Compare cached values with what the database says, as [[verify]] has it. Changes nothing.
    Verify(verify::VerifyArgs),
    /// Follow the changes that the daemon sees, and how long after its commit each is deleted.
    Tail(tail::TailArgs),
    /// Delete every key of a template, or that matches a pattern, through the daemon: asks first.
    Sweep(sweep::SweepArgs),
    /// Fetch pages through the site, of a list or of all rows of a template: after a flush or a deployment.
    Warm(warm::WarmArgs),
    /// Say how long the cached keys of each family live, against [ttl] of the configuration. Deletes nothing.
    Ttl(ttl::TtlArgs),
    /// Create in the database what crieur needs: publication, replica identities and slot, or triggers. Safe to run again.
    Setup(setup::SetupArgs),
    /// Drop what `crieur setup` made, for whoever no longer uses crieur. Asks first.
    Teardown(teardown::TeardownArgs),
    /// Write the changes that are committed from now on to a file, which `crieur replay` reads.
    Record(record::RecordArgs),
    /// Say which keys the transactions of a recording delete; with --execute, delete them.
    Replay(replay::ReplayArgs),
    /// Print a script that makes a shell complete commands and options.
    Completions {
        /// Which shell.
        shell: manual::Shell,
    },
    /// Write the pages for `man` into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        directory: PathBuf,
    },
    /// Print a part of the documentation that is made from the code.
    #[command(hide = true)]
    Reference {
        /// Which part.
        part: reference::ReferencePart,
    },
}

/// Runs the command of `argv`.
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            match other::unknown(&error) {
                Some(text) => say(text),
                None => drop(error.print()), // A closed terminal is no reason for another exit code.
            }
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match arguments.command {
        Command::Init(arguments) => report(init::run(&arguments, |config| check(config, Shown::All))),
        Command::Run(arguments) if arguments.dry_run => {
            with_config(&arguments.config, |config| report(run::dry(&config)))
        }
        Command::Run(arguments) => with_config(&arguments.config, |config| run::run(config, &arguments.config)),
        Command::Check(arguments) => with_config(&arguments.config, |config| report(check(&config, arguments.shown()))),
        Command::Explain(ExplainArgs { diff: Some(files), recording: Some(recording), .. }) => diff(&files, &recording),
        Command::Explain(ExplainArgs { cost: Some(recording), file, .. }) => {
            with_rules(&file.config, |config| report(cost(&config, &recording)))
        }
        Command::Explain(mut arguments) => {
            with_rules(&arguments.file.config, |config| report(explain(&config, &mut arguments.change)))
        }
        Command::Coverage(arguments) => with_config(&arguments.config, |config| report(coverage(&config, &arguments))),
        Command::Status(arguments) => with_config(&arguments.config, |config| report(status(&config, &arguments))),
        Command::Verify(arguments) => with_config(&arguments.config, |config| report(verify(&config, &arguments))),
        Command::Tail(arguments) => {
            report(block_on(async { tail::run(&arguments, end_signal()?, &mut std::io::stdout()).await }))
        }
        Command::Sweep(arguments) if arguments.dry_run => with_config(&arguments.config, |config| {
            report(block_on(sweep::price(&config, &arguments, &mut PaintedOut::stdout())))
        }),
        Command::Sweep(arguments) => report(sweep::run(&arguments, &mut PaintedOut::stdout())),
        Command::Warm(arguments) => with_config(&arguments.config, |config| {
            report(block_on(warm::run(&config, &arguments, &mut PaintedOut::stdout())))
        }),
        Command::Ttl(arguments) => with_config(&arguments.config, |config| {
            report(block_on(ttl::run(&config, &arguments, &mut PaintedOut::stdout())))
        }),
        Command::Setup(arguments) => {
            with_config(&arguments.config, |config| report(setup(&config, (arguments.mode(), arguments.slotting()))))
        }
        Command::Teardown(arguments) => with_config(&arguments.config, |config| report(teardown(&config, &arguments))),
        Command::Record(arguments) => with_config(&arguments.config, |config| report(record(&config, &arguments))),
        Command::Replay(arguments) if arguments.execute => {
            with_config(&arguments.config, |config| report(replay(&config, &arguments)))
        }
        Command::Replay(arguments) => with_rules(&arguments.config, |config| report(replay(&config, &arguments))),
        Command::Completions { shell } => report(completions(shell)),
        Command::Man { directory } => report(manual::write(&directory, Arguments::command()).map(|()| Exit::Ok)),
        Command::Reference { part } => report(print(&reference::text(part, Arguments::command()))),
    }
}

/// Loads the configuration, or shows every mistake in it.
fn with_config(file: &Path, command: impl FnOnce(Config) -> Exit) -> Exit {
    with(file, |file, environment| Config::load(file, environment.into_iter()), command)
}

/// The same for a command that connects to nothing: its configuration needs no addresses.
fn with_rules(file: &Path, command: impl FnOnce(Config) -> Exit) -> Exit {
    with(file, |file, environment| Config::load_unconnected(file, environment.into_iter()), command)
}

fn with(
    file: &Path,
    load: impl FnOnce(&Path, Vec<Given>) -> std::result::Result<Config, Mistakes>,
    command: impl FnOnce(Config) -> Exit,
) -> Exit {
    let environment = match environment() {
        Ok(environment) => environment,
        Err(error) => return report(Err(error.into())),
    };
    match load(file, environment) {
        Ok(config) => {
            say(&config.warnings);
            command(config)
        }
        Err(mistakes) => {
            say(&mistakes);
            mistakes.exit()
        }
    }
}

/// Shows an error of a command that runs and ends. One that is none of ours is of a file, or of standard output.
fn report(result: anyhow::Result<Exit>) -> Exit {
    let error = match result.map_err(|error| error.downcast::<Error>()) {
        Ok(exit) => return exit,
        Err(Ok(error)) => error,
        Err(Err(other)) => {
            let Some(text) = told(&other) else { return Exit::Ok };
            say(format_args!(
                "error: {text}
"
            ));
            return Exit::CantCreate;
        }
    };
    let hint = error.hint.as_ref().map_or_else(String::new, |hint| {
        format!(
            "hint: {hint}
"
        )
    });
    say(format_args!(
        "error: {}
{hint}",
        error.chain()
    ));
    error.exit()
}

fn check(config: &Config, shown: Shown) -> anyhow::Result<Exit> {
    block_on(async {
        for replica in &config.postgres.replicas {
            Dsn::read(replica)?;
        }
        let origin = Origin::of(config)?;
        let session = origin.session().await?;
        let (mut examined, twins) = (Vec::new(), Twins::default());
        for settings in &config.caches {
            let cache = Rc::new(AnyCache::new(settings)?);
            let seen = config.rules.seen_by(&settings.name, &settings.protect);
            let patterns = seen.as_ref().unwrap_or(&config.rules).patterns();
            let mut answers = cache.examine(&config.postgres.slot, &patterns).await;
            if answers.is_ok()
                && let Err(twin) = twins.admit(&settings.name.as_str().into(), &cache).await
            {
                answers = Err(twin);
            }
            examined.push((settings, answers));
        }
        let checked = check::run(&origin, &session.client, examined, shown, &mut PaintedOut::stdout()).await;
        checked.map_err(|error| origin.blamed(error))
    })
}

fn explain(config: &Config, arguments: &mut explain::Args) -> anyhow::Result<Exit> {
    arguments.fill_from(&mut std::io::stdin())?;
    let mut text = explain::explain(&config.rules, arguments)?;
    if config.postgres.mode == Mode::Outbox {
        text.push_str(&setup::outbox::captured(&config.rules, &arguments.table));
    }
    print(&text)
}

fn print(text: &str) -> anyhow::Result<Exit> {
    LastingOut::stdout().write_all(text.as_bytes())?;
    Ok(Exit::Ok)
}

fn completions(shell: manual::Shell) -> anyhow::Result<Exit> {
    LastingOut::stdout().write_all(&manual::completions(shell, Arguments::command()))?;
    Ok(Exit::Ok)
}

fn diff(files: &[PathBuf], recording: &Path) -> Exit {
    let [old, new] = files else { return Exit::Usage };
    match diff::rules(old, new) {
        Ok((old, new)) => {
            report(block_on(async { diff::run(&old, &new, &recorded(recording)?, &mut std::io::stdout()).await }))
        }
        Err(mistakes) => {
            say(&mistakes);
            mistakes.exit()
        }
    }
}

fn coverage(config: &Config, arguments: &coverage::CoverageArgs) -> anyhow::Result<Exit> {
    let caches = config.caches.iter().map(|cache| Ok((cache, AnyCache::new(cache)?))).collect::<Result<Vec<_>>>()?;
    block_on(coverage::run(config, arguments, &caches, &mut PaintedOut::stdout()))
}

fn status(config: &Config, arguments: &status::StatusArgs) -> anyhow::Result<Exit> {
    block_on(status::run(config, arguments, &mut PaintedOut::stdout()))
}

fn verify(config: &Config, arguments: &verify::VerifyArgs) -> anyhow::Result<Exit> {
    block_on(verify::run(config, arguments, &mut PaintedOut::stdout()))
}

fn setup(config: &Config, how: (setup::Doing, Slotting)) -> anyhow::Result<Exit> {
    let out = &mut PaintedOut::stdout();
    if (config.postgres.mode, how.0) == (Mode::Outbox, setup::Doing::Print) {
        return setup::outbox::print(&config.rules, out);
    }
    block_on(async {
        let origin = Origin::of(config)?;
        let session = origin.session().await?;
        let done = match config.postgres.mode {
            Mode::Outbox => setup::outbox::setup(&config.rules, &session.client, out).await,
            Mode::Replication => setup::run(config, &session.client, &origin.needs(), how, out).await,
        };
        done.map_err(|error| origin.blamed(error))
    })
}

fn teardown(config: &Config, arguments: &teardown::TeardownArgs) -> anyhow::Result<Exit> {
    block_on(async {
        let origin = Origin::of(config)?;
        let session = origin.session().await?;
        let done = teardown::run(&origin, &session.client, arguments, &mut PaintedOut::stdout()).await;
        done.map_err(|error| origin.blamed(error))
    })
}

fn record(config: &Config, arguments: &record::RecordArgs) -> anyhow::Result<Exit> {
    block_on(record::run(config, arguments, &mut LastingOut::stdout()))
}

fn replay(config: &Config, arguments: &replay::ReplayArgs) -> anyhow::Result<Exit> {
    let recording = recorded(&arguments.recording)?;
    block_on(replay::run(config, &recording, arguments.execute, &mut std::io::stdout()))
}

fn cost(config: &Config, recording: &Path) -> anyhow::Result<Exit> {
    let recording = recorded(recording)?;
    block_on(cost::run(config, &recording, &mut LastingOut::stdout()))
}

/// A recording, as far as it goes.
fn recorded(path: &Path) -> Result<Recording> {
    let (recording, cut) = Recording::open_cut(path)?;
    if let Some(at) = cut {
        let name = path.display();
        say(format_args!(
            "warning: recording \"{name}\" ends inside of the entry at byte {at}: what is before it is read\n"
        ));
    }
    Ok(recording)
}
