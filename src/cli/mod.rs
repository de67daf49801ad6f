//! The commands: argv in, exit code out. Edges only; what a command decides lives in pure modules.

pub mod catalog;
pub mod check;
pub mod identity;
pub mod log;
pub mod progress;
pub mod quote;
pub mod record;
pub mod replay;
pub mod run;
pub mod setup;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::error::{Error, Exit, Result};
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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Stream changes and delete their keys, until stopped.
    Run(ConfigFile),
    /// Say what is missing on both servers, and what mends it.
    Check(check::CheckArgs),
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
        Command::Run(file) => with_config(&file.config, run::run),
        Command::Check(arguments) => with_config(&arguments.config, |config| report(check(&config))),
        Command::Setup(arguments) => with_config(&arguments.config, |config| report(setup(&config, arguments.mode()))),
        Command::Record(arguments) => with_config(&arguments.config, |config| report(record(&config, &arguments))),
        Command::Replay(arguments) => with_config(&arguments.config, |config| report(replay(&config, &arguments))),
    }
}

/// Loads the configuration, or shows every mistake in it.
fn with_config(file: &Path, command: impl FnOnce(Config) -> Exit) -> Exit {
    match Config::load(file, std::env::vars()) {
        Ok(config) => command(config),
        Err(mistakes) => {
            eprint!("{mistakes}");
            mistakes.exit()
        }
    }
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
    let dsn = Dsn::parse(config.postgres.url.expose())?;
    Session::connect(&dsn, config.postgres.connect_timeout, "").await.map_err(|error| error.while_doing("log in"))
}

fn check(config: &Config) -> Result<Exit> {
    runtime()?.block_on(async {
        let session = session(config).await?;
        let cache = crate::cache::redis::RedisCache::new(&config.cache)?.connection().await;
        check::run(config, &session.client, cache, &config.rules.tables(), &mut std::io::stdout()).await
    })
}

fn setup(config: &Config, mode: setup::Mode) -> Result<Exit> {
    runtime()?.block_on(async {
        let session = session(config).await?;
        setup::run(config, &session.client, &config.rules.tables(), mode, &mut std::io::stdout()).await
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
