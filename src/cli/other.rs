//! Commands that crieur does not have, under the names that other programs have for them: what to type instead. Pure.
//!
//! clap proposes whatever looks alike. `set` looks like `setup`, which writes into the database.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::mistake::suggestion;

/// Every command, for a list.
const COMMANDS: [&str; 14] = [
    "run",
    "check",
    "explain",
    "coverage",
    "status",
    "tail",
    "sweep",
    "ttl",
    "setup",
    "teardown",
    "record",
    "replay",
    "completions",
    "help",
];

/// Names, and what to type for them.
const OTHERS: &[(&[&str], &str)] = &[
    (
        &["health", "healthz", "ready", "info", "state", "show", "ps", "metrics", "stats"],
        "`crieur status` says up to where each cache has its deletes; `systemctl status crieur` says how the daemon does, and GET \
         /readyz at admin.listen; `crieur check` looks at both servers",
    ),
    (&["logs", "log", "journal"], "`journalctl -u crieur` shows the log"),
    (
        &["start", "serve", "server", "daemon", "up", "stream", "listen"],
        "`crieur run` runs the daemon; under systemd `systemctl start crieur`",
    ),
    (&["watch", "follow", "monitor"], "`crieur tail` follows the changes that the daemon sees"),
    (&["stop", "down", "kill", "quit"], "`systemctl stop crieur`, or SIGTERM"),
    (&["restart"], "`systemctl restart crieur`"),
    (&["reload", "hup"], "`systemctl reload crieur`, or SIGHUP, reads the rules again"),
    (
        &["validate", "test", "verify", "lint", "doctor", "diagnose", "config", "checks", "ping"],
        "`crieur check` looks at the configuration, the rules and both servers, and changes nothing",
    ),
    (
        &["init", "install", "create", "migrate", "migration", "bootstrap", "initialize"],
        "`crieur setup --print` shows what `crieur setup` would create on the PostgreSQL server",
    ),
    (
        &["uninstall", "remove", "clean", "cleanup", "drop"],
        "`crieur teardown --print` shows what undoes `crieur setup`",
    ),
    (
        &["flush", "invalidate", "purge", "delete", "clear", "evict"],
        "`crieur sweep PATTERN` deletes every key that matches; SQL names keys: SELECT crieur.invalidate('pattern:*')",
    ),
    (&["diff", "compare"], "`crieur explain --diff OLD.toml NEW.toml --recording FILE`"),
    (&["dry-run", "dryrun", "simulate", "plan", "preview"], "`crieur run --dry-run` prints what would be deleted"),
    (&["version"], "`crieur --version`"),
    (&["completion", "complete"], "`crieur completions bash`, `zsh` or `fish`"),
    (&["manual", "docs"], "`man crieur`, where the package is installed; `crieur help`"),
];

/// What to say of a command that does not exist; `None` for every other mistake.
pub(super) fn unknown(error: &clap::Error) -> Option<String> {
    let name = match (error.kind(), error.get(ContextKind::InvalidSubcommand)) {
        (ErrorKind::InvalidSubcommand, Some(ContextValue::String(name))) => name,
        _ => return None,
    };
    Some(format!("error: there is no command \"{name}\"\n  = {}\n", instead(name)))
}

fn instead(name: &str) -> String {
    let wanted = name.to_ascii_lowercase();
    let found = OTHERS.iter().find(|(names, _)| names.contains(&wanted.as_str()));
    found.map_or_else(|| suggestion(name, COMMANDS), |(_, text)| (*text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slip_of_the_pen_means_a_command_that_writes() {
        let setup = "did you mean \"setup\"?";
        for (name, expected) in [
            ("setpu", setup),
            ("Setup", setup),
            ("set-up", setup),
            ("state", "crieur status"),
            ("start", "crieur run"),
            ("stop", "systemctl stop"),
            ("validate", "crieur check"),
            ("chekc", "did you mean \"check\"?"),
            ("relpay", "did you mean \"replay\"?"),
            ("stats", "systemctl status"),
            ("startup", "allowed here: "),
            ("st", "allowed here: "),
        ] {
            let said = instead(name);
            assert!(said.starts_with(expected) || said.contains(expected), "{name}: {said}");
            assert_eq!(said.contains(setup), expected == setup, "{name}: {said}");
        }
    }
}
