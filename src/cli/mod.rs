//! The commands: argv in, exit code out. Edges only; what a command decides lives in pure modules.

pub mod catalog;
pub mod check;
pub mod identity;
pub mod log;
pub mod progress;
pub mod quote;
pub mod run;
pub mod setup;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::error::Exit;

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
        Command::Run(file) => with_config(&file, run::run),
    }
}

/// Loads the configuration, or shows every mistake in it.
fn with_config(file: &ConfigFile, command: impl FnOnce(Config) -> Exit) -> Exit {
    match Config::load(&file.config, std::env::vars()) {
        Ok(config) => command(config),
        Err(mistakes) => {
            eprint!("{mistakes}");
            mistakes.exit()
        }
    }
}

/// The runtime of every command that talks to a server: one thread, because the work is one ordered stream.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
