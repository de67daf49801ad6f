//! The commands: argv in, exit code out. Edges only; what a command decides lives in pure modules.

pub mod catalog;
pub mod check;
pub mod coverage;
pub mod diff;
pub mod dry;
pub mod explain;
pub mod identity;
pub mod log;
pub(crate) mod outbox;
pub mod progress;
pub mod record;
mod reload;
pub mod replay;
pub mod run;
pub mod setup;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::{Config, Mode, credentials};
use crate::error::{Error, Exit, Result};
use crate::rules::needs::TableNeeds;
use crate::session::Session;
use crate::source::dsn::Dsn;

/// Keeps a Redis-protocol cache coherent with PostgreSQL: a committed row deletes its cache keys.
#[derive(Debug, Parser)]
#[command(name = "crieur", version, disable_help_subcommand = true)]
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
    /// Instead of a change: what NEW's rules delete that OLD's do not, and the contrary.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], requires = "recording")]
    #[arg(conflicts_with_all = ["config", "table", "operation", "old", "new", "types"])]
    diff: Option<Vec<PathBuf>>,
    /// The recording that --diff goes over.
    #[arg(long, value_name = "RECORDING", requires = "diff")]
    recording: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream changes and delete their keys, until stopped.
    Run(run::RunArgs),
    /// Say what is missing on both servers, and what mends it.
    Check(check::CheckArgs),
    /// Say which keys a change of one row invalidates, and by which rule; needs no server.
    Explain(ExplainArgs),
    /// Say which keys of the live cache no rule can delete, and which rules no key was made for; reads only.
    Coverage(coverage::CoverageArgs),
    /// Create publication, slot and replica identity; safe to run twice.
    Setup(setup::SetupArgs),
    /// Write the frames of the live stream, and what is needed to replay them, to a file.
    Record(record::RecordArgs),
    /// Print what a recording's transactions delete.
    Replay(replay::ReplayArgs),
}

/// Runs the command of `argv`.
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print(); // A closed terminal is no reason for another exit code.
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    match arguments.command {
        Command::Run(arguments) if arguments.dry_run => {
            with_config(&arguments.config, |config| report(run::dry(&config)))
        }
        Command::Run(arguments) => with_config(&arguments.config, |config| run::run(config, &arguments.config)),
        Command::Check(arguments) => with_config(&arguments.config, |config| report(check(&config))),
        Command::Explain(ExplainArgs { diff: Some(files), recording: Some(recording), .. }) => diff(&files, &recording),
        Command::Explain(mut arguments) => {
            with_config(&arguments.file.config, |config| report(explain(&config, &mut arguments.change)))
        }
        Command::Coverage(arguments) => with_config(&arguments.config, |config| report(coverage(&config, &arguments))),
        Command::Setup(arguments) => with_config(&arguments.config, |config| report(setup(&config, arguments.mode()))),
        Command::Record(arguments) => with_config(&arguments.config, |config| report(record(&config, &arguments))),
        Command::Replay(arguments) => with_config(&arguments.config, |config| report(replay(&config, &arguments))),
    }
}

/// Loads the configuration, or shows every mistake in it.
fn with_config(file: &Path, command: impl FnOnce(Config) -> Exit) -> Exit {
    let environment = match environment() {
        Ok(environment) => environment,
        Err(error) => return report(Err(error)),
    };
    match Config::load(file, environment.into_iter()) {
        Ok(config) => {
            eprint!("{}", config.warnings);
            command(config)
        }
        Err(mistakes) => {
            eprint!("{mistakes}");
            mistakes.exit()
        }
    }
}

/// The environment, and below it what systemd hands over as credentials. A variable that is not Unicode is none of ours.
pub(crate) fn environment() -> Result<Vec<(String, String)>> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let mut environment: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
    if let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        let found = credentials::from_directory(Path::new(&directory));
        let found = found.map_err(|cause| Error::definite(Exit::NoInput, "read the credentials").because(cause))?;
        for (name, value) in found {
            if !environment.iter().any(|(other, _)| other == name) {
                environment.push((name.to_owned(), value));
            }
        }
    }
    Ok(environment)
}

/// Shows an error of a command that runs and ends.
fn report(result: Result<Exit>) -> Exit {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", error.chain());
        if let Some(hint) = &error.hint {
            eprintln!("hint: {hint}");
        }
        error.exit()
    })
}

/// An ordinary session for a command that runs and ends.
async fn session(config: &Config) -> Result<Session> {
    let (dsn, limit) = (Dsn::parse(config.postgres.url.expose())?, config.postgres.connect_timeout);
    let session = match config.postgres.mode {
        Mode::Replication => Session::connect(&dsn, limit, "").await,
        Mode::Outbox => Session::through_pooler(&dsn, limit).await,
    };
    session.map_err(|error| error.while_doing("log in"))
}

/// The tables whose changes must come. Answers of lookups are kept only where they come in commit order.
fn needs(config: &Config) -> Vec<TableNeeds> {
    match config.postgres.mode {
        Mode::Replication => config.rules.streamed(),
        Mode::Outbox => config.rules.tables(),
    }
}

fn check(config: &Config) -> Result<Exit> {
    runtime()?.block_on(async {
        let session = session(config).await?;
        let cache = crate::cache::redis::RedisCache::new(&config.cache)?.connection().await;
        check::run(config, &session.client, cache, &needs(config), &mut std::io::stdout()).await
    })
}

fn explain(config: &Config, arguments: &mut explain::Args) -> Result<Exit> {
    arguments.fill_from(&mut std::io::stdin())?;
    print!("{}", explain::explain(&config.rules, arguments)?);
    if config.postgres.mode == Mode::Outbox {
        print!("{}", outbox::captured(&config.rules, &arguments.table));
    }
    Ok(Exit::Ok)
}

fn diff(files: &[PathBuf], recording: &Path) -> Exit {
    let [old, new] = files else { return Exit::Usage };
    match diff::rules(old, new) {
        Ok((old, new)) => report(
            crate::source::recording::Recording::open(recording)
                .and_then(|recording| runtime()?.block_on(diff::run(&old, &new, &recording, &mut std::io::stdout()))),
        ),
        Err(mistakes) => {
            eprint!("{mistakes}");
            mistakes.exit()
        }
    }
}

fn coverage(config: &Config, arguments: &coverage::CoverageArgs) -> Result<Exit> {
    runtime()?.block_on(async {
        let mut connection = crate::cache::redis::RedisCache::new(&config.cache)?.connection().await?;
        coverage::run(config, arguments, &mut connection, &mut std::io::stdout()).await
    })
}

fn setup(config: &Config, mode: setup::Mode) -> Result<Exit> {
    let out = &mut std::io::stdout();
    let is_outbox = config.postgres.mode == Mode::Outbox;
    if is_outbox && mode == setup::Mode::Print {
        return outbox::print(&config.rules, out);
    }
    runtime()?.block_on(async {
        let session = session(config).await?;
        if is_outbox {
            return outbox::setup(&config.rules, &session.client, out).await;
        }
        setup::run(config, &session.client, &needs(config), mode, out).await
    })
}

fn record(config: &Config, arguments: &record::RecordArgs) -> Result<Exit> {
    runtime()?.block_on(record::run(config, arguments, &mut std::io::stdout()))
}

fn replay(config: &Config, arguments: &replay::ReplayArgs) -> Result<Exit> {
    let recording = crate::source::recording::Recording::open(&arguments.recording)?;
    runtime()?.block_on(async {
        let cache = arguments.execute.then(|| crate::cache::redis::RedisCache::new(&config.cache)).transpose()?;
        replay::run(config, &recording, cache.as_ref(), &mut std::io::stdout()).await
    })
}

/// The runtime of every command that talks to a server: one thread, because the work is one ordered stream.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|cause| Error::definite(Exit::Os, "start the runtime").because(cause))
}
