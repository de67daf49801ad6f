//! `crieur init`: looks at both servers, and writes a configuration and rules to begin with.
//!
//! It asks at a terminal and takes flags elsewhere. It reads the catalog, the names of cached keys, and whether columns hold
//! values that stand in these names; it changes nothing on either server. What it writes has been read by crieur's own
//! parser before, and is written whole or not at all.

mod look;
mod propose;
mod text;
mod write;

use std::io::{BufRead as _, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use crate::cache::any::AnyCache;
use crate::catalog::Catalog;
use crate::cli::coverage::families::{Families, general};
use crate::cli::init::look::SeenTable;
use crate::cli::init::propose::{Family, Holders, Proposal, is_value, suits};
use crate::cli::init::text::InitFacts;
use crate::cli::init::write::{NewFile, Over};
use crate::cli::output::{LastingOut, say};
use crate::cli::process::{block_on, environment};
use crate::config::{Config, Given, Mode};
use crate::error::{Error, Exit, Result};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::shown::quoted;

/// Questions to the database about values in keys.
const QUESTIONS_MAX: usize = 200;

/// Writes a configuration to begin with.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The configuration file to write; the rules and crieur.env are written beside it.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    config: PathBuf,
    /// The address of PostgreSQL; without it: DATABASE_URL. Other users see the arguments of a command.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The address of the cache; without it: REDIS_URL.
    #[arg(long, value_name = "URL")]
    cache: Option<String>,
    /// How changes are read; without it: what the server is ready for.
    #[arg(long, value_name = "MODE", value_parser = ["replication", "outbox"])]
    mode: Option<String>,
    /// A table that gets a rule, for each; without any: all tables.
    #[arg(long = "table", value_name = "TABLE")]
    tables: Vec<String>,
    /// Ask nothing.
    #[arg(long)]
    yes: bool,
    /// Replace files that exist.
    #[arg(long)]
    force: bool,
}

/// What was seen.
struct Seen {
    catalog: Catalog,
    /// Through no pooler that refuses settings of a session.
    is_direct: bool,
    tables: Vec<SeenTable>,
    proposal: Proposal,
    saw_cache: bool,
}

/// Runs the command; in the end `check` looks at both servers.
///
/// # Errors
///
/// Addresses that are missing or wrong, a database that does not answer, files that cannot be written.
pub fn run(arguments: &InitArgs, check: impl FnOnce(&Config) -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    let asks = !arguments.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let out = &mut LastingOut::stdout();
    let names = Names::of(&arguments.config);
    if !arguments.force {
        names.are_free()?;
    }
    let env = addresses(arguments, asks)?;
    let seen = block_on(look(&env, arguments, out))?;
    let proposed = mode(&seen.catalog, seen.is_direct);
    let mode = match arguments.mode.clone().or_else(|| asks.then(|| ask("How are changes read?", word(proposed.0)))) {
        Some(chosen) if chosen == "outbox" => chosen_mode(Mode::Outbox, &proposed),
        Some(chosen) if chosen == "replication" => chosen_mode(Mode::Replication, &proposed),
        Some(other) => {
            let error = Error::definite(Exit::Usage, format!("\"{other}\" is no way to read changes"));
            return Err(error.hint("Write replication or outbox.").into());
        }
        None => proposed,
    };
    writeln!(out, "mode {}: {}", word(mode.0), mode.1)?;
    let known =
        InitFacts { mode, rules_file: names.rules_name(), env_file: names.env_name(), saw_cache: seen.saw_cache };
    let (config, rules) =
        (text::config(&known), text::rules(&seen.tables, &seen.proposal, &known, |rule| refused(rule, &env)));
    if let Err(mistakes) = read(&without_rules_file(&config, &rules), &env) {
        say(&mistakes);
        let error = Error::definite(Exit::Config, "what would be written is no configuration; nothing was written");
        return Err(error
            .hint("See above: a table that crieur can write a rule for is missing, or an address is wrong.")
            .into());
    }
    if asks && !agreed(&format!("Write {} and what is beside it?", names.config.display())) {
        writeln!(out, "nothing was written")?;
        return Ok(Exit::Failed);
    }
    names.write(config, rules, &env, arguments.force, out)?;
    writeln!(out, "\ncrieur check --config {} says:", names.config.display())?;
    match Config::load(&names.config, env.into_iter()) {
        Ok(config) => drop(check(&config)?),
        Err(mistakes) => say(&mistakes),
    }
    let file = names.config.display();
    writeln!(
        out,
        "\nLook at the rules in {}. Then, with the two addresses in the environment:",
        names.rules.display()
    )?;
    writeln!(
        out,
        "    crieur setup --config {file}\n    crieur check --config {file}\n    crieur run --config {file}"
    )?;
    Ok(Exit::Ok)
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Replication => "replication",
        Mode::Outbox => "outbox",
    }
}

fn chosen_mode(chosen: Mode, proposed: &(Mode, String)) -> (Mode, String) {
    if chosen == proposed.0 {
        proposed.clone()
    } else {
        (chosen, format!("As it was asked for. crieur init saw: {}", proposed.1))
    }
}

/// Asks at the terminal; an empty line takes what is proposed.
fn ask(question: &str, proposed: &str) -> String {
    typed(question, proposed).filter(|line| !line.is_empty()).unwrap_or_else(|| proposed.to_owned())
}

/// Whether the person agrees: a terminal that ends says no.
fn agreed(question: &str) -> bool {
    typed(question, "yes").is_some_and(|line| line.is_empty() || line.starts_with(['y', 'Y', 'o', 'O']))
}

/// What is typed; `None` at the end of the input.
fn typed(question: &str, proposed: &str) -> Option<String> {
    say(format_args!("{question} [{proposed}] "));
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.is_ok_and(|bytes| bytes > 0).then(|| line.trim().to_owned())
}

/// The files.
struct Names {
    config: PathBuf,
    rules: PathBuf,
    env: PathBuf,
}

impl Names {
    fn of(config: &Path) -> Self {
        let stem = config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let rules = config.with_file_name(format!("{stem}.rules.toml"));
        Names { rules, env: config.with_file_name(format!("{stem}.env")), config: config.to_owned() }
    }

    fn rules_name(&self) -> String {
        self.rules.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn env_name(&self) -> String {
        self.env.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Before anything is asked.
    fn are_free(&self) -> Result<()> {
        match [&self.config, &self.rules].into_iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => {
                Err(Error::definite(Exit::CantCreate, format!("\"{}\" exists; nothing was written", path.display()))
                    .hint("Write another file with --config FILE, or replace it with --force."))
            }
        }
    }

    /// All files, or none. Addresses that somebody wrote down already stay.
    fn write(
        &self,
        config: String,
        rules: String,
        env: &[Given],
        force: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let over = if force { Over::Existing } else { Over::Nothing };
        let file = |path: &PathBuf, text: String, mode| NewFile { path: path.clone(), text, mode, over };
        let mut files = vec![file(&self.rules, rules, 0o640), file(&self.config, config, 0o640)];
        let found = if force { None } else { std::fs::read_to_string(&self.env).ok() };
        let keeps = !force && self.env.exists() && found.as_deref().is_none_or(sets_a_variable);
        if !keeps {
            // The package's file has comments alone: they stay above the addresses.
            let over = if found.is_some() { Over::Existing } else { over };
            let text = found.unwrap_or_default() + &env_text(env);
            files.push(NewFile { over, ..file(&self.env, text, 0o600) });
        }
        write::all(&files)?;
        for NewFile { path, mode, .. } in &files {
            writeln!(out, "wrote {} (mode {mode:o})", path.display())?;
        }
        if keeps {
            writeln!(out, "{} exists and stays: it must hold the two addresses", self.env.display())?;
        }
        Ok(())
    }
}

/// Variables that hold the address of a cache, or a part of it.
const OF_CACHES: [&str; 4] = ["REDIS_URL", "CRIEUR__CACHE__URL", "UPSTASH_REDIS_REST_URL", "UPSTASH_REDIS_REST_TOKEN"];

/// Whether a file for systemd sets any variable.
fn sets_a_variable(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with(['#', ';']) && line.contains('='))
}

/// crieur.env: what was given.
fn env_text(env: &[Given]) -> String {
    let mut out = String::from(
        "# Written by crieur init. Read by systemd before crieur starts; for a shell: set -a; . ./crieur.env\n",
    );
    let is_address = |name: &str| OF_CACHES.contains(&name) || matches!(name, "DATABASE_URL" | "CRIEUR__POSTGRES__URL");
    for Given { name, value, .. } in env.iter().filter(|given| is_address(&given.name)) {
        // In single quotes neither a shell nor systemd reads anything but a quote.
        let value = if value.contains("://") { value.replace('\'', "%27") } else { value.replace('\'', "\\'") };
        out.push_str(&format!("{name}='{value}'\n"));
    }
    out
}

/// The environment with the addresses of the command line, or what was asked for.
fn addresses(arguments: &InitArgs, asks: bool) -> Result<Vec<Given>> {
    let mut env = environment()?;
    let has = |env: &[Given], names: &[&str]| {
        env.iter().any(|given| names.contains(&given.name.as_str()) && !given.value.trim().is_empty())
    };
    /// The variable, what the flag gives, other names of it, what it is of, the flag.
    type Wanted<'a> = (&'a str, &'a Option<String>, &'a [&'a str], &'a str, &'a str);
    let wanted: [Wanted<'_>; 2] = [
        ("DATABASE_URL", &arguments.database, &["DATABASE_URL", "CRIEUR__POSTGRES__URL"], "PostgreSQL", "--database"),
        ("REDIS_URL", &arguments.cache, &OF_CACHES, "the cache", "--cache"),
    ];
    for (name, flag, names, what, option) in wanted {
        let answer = match flag {
            Some(given) => Some(given.clone()),
            None if has(&env, names) => None,
            None if asks => Some(ask(&format!("The address of {what}?"), "")).filter(|answer| !answer.is_empty()),
            None => None,
        };
        match answer {
            Some(address) => {
                env.retain(|given| !names.contains(&given.name.as_str()));
                env.push(Given::from((name.to_owned(), address)));
            }
            None if has(&env, names) => {}
            None => {
                let error = Error::definite(Exit::Usage, format!("the address of {what} is not known"));
                return Err(error.hint(format!("Set {name}, or give {option} URL.")));
            }
        }
    }
    Ok(env)
}

/// Reads a configuration that stands nowhere yet.
fn read(text: &str, env: &[Given]) -> std::result::Result<Config, crate::mistake::Mistakes> {
    Config::of_text("crieur.toml", text, env.iter().cloned())
}

fn without_rules_file(config: &str, rules: &str) -> String {
    let lines = config.lines().filter(|line| !line.starts_with("rules_file = "));
    lines.chain([""]).chain(rules.lines()).fold(String::new(), |text, line| text + line + "\n")
}

/// What the parser finds wrong with a rule.
fn refused(rule: &str, env: &[Given]) -> Option<String> {
    read(rule, env).err().map(|mistakes| mistakes.first_message().to_owned())
}

/// How changes should be read, and why.
fn mode(catalog: &Catalog, is_direct: bool) -> (Mode, String) {
    let Catalog { server, role, slot, .. } = catalog;
    let me = &role.name;
    let may = role.superuser || role.replication || role.hosted_replication;
    let outbox = |why: String| (Mode::Outbox, format!("An outbox works over any connection. For replication {why}"));
    if !is_direct {
        outbox("give the server's own address: this one leads to a pooler.".to_owned())
    } else if server.wal_level != "logical" {
        outbox(format!("set wal_level = logical, which is {}, and start PostgreSQL again.", server.wal_level))
    } else if !may {
        outbox(format!("let the role make a slot: ALTER ROLE \"{me}\" REPLICATION."))
    } else if slot.is_none() && server.slots_used >= server.slots_max {
        outbox(format!("raise max_replication_slots: all {} are taken.", server.slots_max))
    } else {
        (Mode::Replication, format!("wal_level is logical, and \"{me}\" may make a slot."))
    }
}

/// Looks at both servers.
async fn look(env: &[Given], arguments: &InitArgs, out: &mut dyn Write) -> anyhow::Result<Seen> {
    let only_rule = "[[rules]]\ntable = 'a'\nkeys = ['a']\n";
    let config = read(only_rule, env).map_err(|mistakes| {
        say(&mistakes);
        Error::definite(Exit::Config, "an address is wrong, as shown above; nothing was written")
    })?;
    let dsn = Dsn::read(&config.postgres.url)?;
    let limit = config.postgres.connect_timeout;
    let (session, is_direct) = match Session::connect(&dsn, limit, "").await {
        Ok(session) => (session, dsn.pooler_hint().is_none()),
        Err(error) => match Session::through_pooler(&dsn, limit).await {
            Ok(session) => (session, false),
            Err(_) => return Err(error.into()),
        },
    };
    let names = (&config.postgres.publication, &config.postgres.slot);
    let catalog = Catalog::read(&session.client, names.0, names.1, &[]).await?;
    if catalog.server.in_recovery {
        let error = Error::definite(Exit::Unavailable, "this server is a standby; nothing was written");
        return Err(error.hint("Give the address of its primary.").into());
    }
    let mut tables = look::tables(&session.client).await?;
    wanted(&mut tables, &arguments.tables)?;
    let server = &catalog.server;
    let (version, database, wal) = (&server.version_text, &server.database, &server.wal_level);
    writeln!(out, "PostgreSQL {version}, database {database}: {} tables, wal_level {wal}", tables.len())?;
    if !catalog.role.may_create {
        let role = &catalog.role.name;
        writeln!(
            out,
            "\"{role}\" may not make a publication: run crieur setup as a role that may, or use its --print"
        )?;
    }
    let mut keys = Vec::new();
    for settings in &config.caches {
        match look::keys(settings, &AnyCache::new(settings)?).await {
            Ok((found, whole)) => {
                let part = if whole { "" } else { ", which are not all" };
                writeln!(out, "cache {}: {} keys{part}", settings.name, found.len())?;
                keys.extend(found);
            }
            Err(error) => writeln!(out, "cache {}: not read: {}", settings.name, error.chain())?,
        }
    }
    let families = families(&keys);
    let holders = holders(&session, &tables, &families, &keys).await?;
    let proposal = propose::propose(&tables, &families, &holders);
    Ok(Seen { catalog, is_direct, tables, proposal, saw_cache: !keys.is_empty() })
}

/// Leaves the tables that were asked for.
fn wanted(tables: &mut Vec<SeenTable>, names: &[String]) -> Result<()> {
    let is = |table: &SeenTable, name: &str| table.name == name || format!("{}.{}", table.schema, table.name) == name;
    if let Some(missing) = names.iter().find(|name| !tables.iter().any(|table| is(table, name))) {
        let error =
            Error::definite(Exit::Usage, format!("the database has no table \"{missing}\"; nothing was written"));
        let some: Vec<String> =
            tables.iter().take(10).map(|table| format!("{}.{}", table.schema, table.name)).collect();
        return Err(error.hint(format!("There are: {}.", some.join(", "))));
    }
    if !names.is_empty() {
        tables.retain(|table| names.iter().any(|name| is(table, name)));
    }
    if tables.is_empty() {
        let error =
            Error::definite(Exit::Unavailable, "the database has no table of an application; nothing was written");
        return Err(error.hint("Is it the right database? Its name is at the end of the address."));
    }
    Ok(())
}

fn families(keys: &[Vec<u8>]) -> Vec<Family> {
    let mut families = Families::default();
    keys.iter().for_each(|key| families.add(key, String::new()));
    let family = |(name, seen): (String, crate::cli::coverage::families::Seen)| Family {
        name,
        count: seen.count,
        example: quoted(&seen.example),
    };
    families.finish().into_iter().map(family).collect()
}

/// Values that stand at a place of a family's keys.
fn values<'k>(keys: &'k [Vec<u8>], family: &str, place: usize) -> Vec<&'k str> {
    let wanted: Vec<&str> = family.split(':').collect();
    let fits = |segments: &[&[u8]]| {
        segments.len() == wanted.len()
            && segments
                .iter()
                .zip(&wanted)
                .all(|(segment, wanted)| *wanted == "*" || wanted.contains(',') || general(segment) == *wanted)
    };
    let mut found: Vec<&str> = Vec::new();
    for key in keys {
        let segments: Vec<&[u8]> = key.split(|byte| *byte == b':').collect();
        if fits(&segments)
            && let Ok(value) = std::str::from_utf8(segments[place])
            && !found.contains(&value)
        {
            found.push(value);
        }
        if found.len() >= 20 {
            break;
        }
    }
    found
}

/// Which columns hold the values in keys, where a text or a UUID tells that: numbers stand in every table.
async fn holders(session: &Session, tables: &[SeenTable], families: &[Family], keys: &[Vec<u8>]) -> Result<Holders> {
    let (mut holders, mut asked) = (Holders::new(), 0);
    for family in families {
        for (place, segment) in family.name.split(':').enumerate() {
            if place == 0 || !is_value(segment) || segment == "{number}" {
                continue;
            }
            let values = values(keys, &family.name, place);
            for (number, table) in tables.iter().enumerate() {
                let is_key = |name: &str| {
                    table.primary.iter().any(|key| key == name) || table.foreign.iter().any(|(key, _)| key == name)
                };
                let may_hold = |(name, kind): &&(String, String)| {
                    suits(segment, kind) && (segment != "{uuid}" || is_key(name) || kind == "uuid")
                };
                for (column, _) in table.columns.iter().filter(may_hold) {
                    asked += 1;
                    if asked > QUESTIONS_MAX || values.is_empty() {
                        break;
                    }
                    let hits = look::hits(&session.client, table, column, &values).await?.unwrap_or(0);
                    // A key may have outlived its row.
                    if hits > 0 && hits * 2 >= values.len() {
                        holders.entry((family.name.clone(), place)).or_default().push((number, column.clone()));
                    }
                }
            }
        }
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;

    #[test]
    fn replication_is_proposed_where_the_server_is_ready_for_it() {
        let said = |spoil: &dyn Fn(&mut Catalog), is_direct| {
            let mut catalog = example::catalog();
            spoil(&mut catalog);
            mode(&catalog, is_direct)
        };
        assert_eq!(said(&|_| (), true).0, Mode::Replication);
        type Case<'a> = (&'a dyn Fn(&mut Catalog), bool, &'a str);
        let cases: [Case<'_>; 4] = [
            (&|_| (), false, "a pooler"),
            (&|catalog| catalog.server.wal_level = "replica".into(), true, "set wal_level = logical"),
            (&|catalog| catalog.role.replication = false, true, "ALTER ROLE \"crieur\" REPLICATION"),
            (
                &|catalog| (catalog.slot, catalog.server.slots_used) = (None, catalog.server.slots_max),
                true,
                "raise max_replication_slots",
            ),
        ];
        for (spoil, is_direct, words) in cases {
            let (mode, why) = said(spoil, is_direct);
            assert!(mode == Mode::Outbox && why.contains(words), "{why}");
        }
    }

    #[test]
    fn every_configuration_that_is_written_passes_the_parser() {
        let env = [("DATABASE_URL", "postgres://a/d"), ("REDIS_URL", "redis://b")];
        let env = env.map(|(name, value)| Given::from((name.to_owned(), value.to_owned())));
        let table = |schema: &str, name: &str, columns: &[&str], primary: &[&str]| SeenTable {
            schema: schema.into(),
            name: name.into(),
            identity: "d".into(),
            columns: columns.iter().map(|name| ((*name).to_owned(), "text".to_owned())).collect(),
            primary: primary.iter().map(|name| (*name).to_owned()).collect(),
            foreign: vec![("owner_id".to_owned(), "users".to_owned())],
        };
        let odd = ["Order", "a\"b", "x\ny", "select", "ünïcode", "a.b", "1st", "a b", "a{b}", "a'b"];
        let mut tables = vec![table("public", "properties", &["id", "city"], &["id"]), table("s", "log", &["t"], &[])];
        tables.extend(odd.iter().map(|name| table("My Schema", name, &[name, "owner_id"], &[name])));
        let families: Vec<Family> = [
            "properties:detail:{uuid}",
            "order:*",
            "a b:{number}",
            "x:{a,b}:*",
            "{text}",
            "1st:page{number}",
            "properties:{a,b c}",
        ]
        .map(|name| Family { name: name.into(), count: 3, example: quoted(b"a\nb\"") })
        .into();
        for families in [&families[..], &families[..1], &[]] {
            let proposal = propose::propose(&tables, families, &Holders::new());
            for mode in [Mode::Replication, Mode::Outbox] {
                let (rules_file, env_file) = ("r.toml".to_owned(), "e.env".to_owned());
                let known = InitFacts {
                    mode: (mode, "why\nnot".into()),
                    rules_file,
                    env_file,
                    saw_cache: !families.is_empty(),
                };
                let rules = text::rules(&tables, &proposal, &known, |rule| refused(rule, &env));
                let whole = without_rules_file(&text::config(&known), &rules);
                let config = read(&whole, &env).unwrap_or_else(|mistakes| panic!("{mistakes}\n{whole}"));
                assert!(config.postgres.mode == mode && config.rules.families().next().is_some(), "{whole}");
            }
        }
    }

    #[test]
    fn addresses_stand_in_quotes_that_hide_nothing() {
        let env = [("DATABASE_URL", "postgres://u:it's@h/d"), ("HOME", "/root"), ("REDIS_URL", "redis://b")];
        let env = env.map(|(name, value)| Given::from((name.to_owned(), value.to_owned())));
        let text = env_text(&env);
        assert!(text.contains("\nDATABASE_URL='postgres://u:it%27s@h/d'\nREDIS_URL='redis://b'\n"), "{text}");
        assert!(sets_a_variable(&text) && sets_a_variable("DATABASE_URL=\n") && !sets_a_variable("# A='b'\n\n; A=b\n"));
    }
}
