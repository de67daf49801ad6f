//! `crieur teardown`: drops what `crieur setup` made, for whoever no longer uses crieur. Asks first.
//!
//! A plan first, then what stands in the way: with anything in the way, nothing is begun. One transaction drops all of it,
//! the slot last, because a slot that was dropped does not come back with a rollback. An identity goes back to the primary
//! key only where that can make the server refuse nobody's write; one that may not be ours stays, and is told.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use serde::Deserialize;
use tokio_postgres::Client;

use crate::catalog::identity::INDEX_PREFIX;
use crate::catalog::{Carrier, Catalog, rows};
use crate::cli::check::server::ServerNames;
use crate::cli::finding::{Finding, report};
use crate::cli::origin::Origin;
use crate::cli::setup::plan::Statement;
use crate::config::Mode;
use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

const UNINSTALL: &str = include_str!("../../sql/uninstall.sql");

/// Readers and writers queue behind a waiting DROP or ALTER: after this long it gives up and may be run again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s';";

/// Drops what `crieur setup` made: slot, publication, identities, triggers, schema. Asks first.
#[derive(Debug, clap::Args)]
pub struct TeardownArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the SQL instead of running it, to read it or to run it with psql.
    #[arg(long, conflicts_with = "yes")]
    pub print: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

/// `sql/teardown.sql`
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
struct Made {
    triggers: Vec<String>,
    functions: Vec<String>,
    schema: bool,
    outbox: bool,
    others: u64,
    slots: Vec<String>,
    holder: Option<Holder>,
}

/// The session that reads from the slot.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Holder {
    pid: i32,
    role: Option<String>,
    application: Option<String>,
    address: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PID {}", self.pid)?;
        self.role.iter().try_for_each(|role| write!(f, ", role {role}"))?;
        self.application.iter().try_for_each(|name| write!(f, ", application {name}"))?;
        self.address.iter().try_for_each(|address| write!(f, ", from {address}"))
    }
}

/// What would be done, what stands in the way, and what is left.
#[derive(Debug, Default)]
struct Plan {
    statements: Vec<Statement>,
    obstacles: Vec<Finding>,
    left: Vec<Finding>,
}

impl Plan {
    fn drops(&mut self, why: impl Into<String>, sql: impl Into<String>) {
        self.statements.push(Statement::new(why, sql));
    }
}

/// Of logical replication. Pure.
fn plan(catalog: &Catalog, made: &Made, names: ServerNames<'_>) -> Plan {
    let mut plan = Plan::default();
    if names.is_at_standby(catalog) {
        return of_standby(catalog, made, names);
    }
    if catalog.server.in_recovery {
        plan.obstacles.push(Finding::wrong("server", "this is a standby: what setup made is dropped on its primary"));
    }
    let publication = quote::identifier(names.publication);
    if let Some(found) = &catalog.publication {
        if !found.owned {
            let why = format!("it belongs to role \"{}\", and only that role may drop it", found.owner);
            plan.obstacles.push(Finding::wrong(format!("publication {publication}"), why));
        }
        plan.drops("the publication", format!("DROP PUBLICATION {publication};"));
    }
    for table in &catalog.tables {
        for carrier in table.stored() {
            identity(&mut plan, carrier, names.publication);
        }
    }
    if made.slots.is_empty() {
        schema(&mut plan, made);
    } else if made.schema {
        let why = format!("it stays, for these slots may be another crieur's: {}", made.slots.join(", "));
        plan.left.push(Finding::note("schema crieur", why).mend("DROP SCHEMA crieur CASCADE;"));
    }
    if let Some(slot) = &catalog.slot {
        drop_slot(&mut plan, slot, made, names.slot);
    }
    plan
}

/// Of a standby only the slot is its own.
fn of_standby(catalog: &Catalog, made: &Made, names: ServerNames<'_>) -> Plan {
    let mut plan = Plan::default();
    let why = "what setup made on the primary stays there: this is a standby";
    let mend = "crieur teardown, with the primary's address in postgres.url, once no other standby has a crieur";
    plan.left.push(Finding::note("primary", why).mend(mend));
    if let Some(slot) = &catalog.slot {
        drop_slot(&mut plan, slot, made, names.slot);
    }
    plan
}

fn drop_slot(plan: &mut Plan, slot: &crate::catalog::CatalogSlot, made: &Made, name: &str) {
    let subject = format!("slot {}", quote::identifier(name));
    if let Some(holder) = &made.holder {
        let mend = "systemctl stop crieur, on each machine that runs it";
        plan.obstacles.push(Finding::wrong(subject, format!("it is active for {holder}")).mend(mend));
    } else if slot.plugin.as_deref() != Some("pgoutput") {
        plan.obstacles.push(
            Finding::wrong(subject, "it is no slot of crieur's: its plugin is another")
                .mend("name crieur's own slot in postgres.slot"),
        );
    }
    let sql = format!("SELECT pg_catalog.pg_drop_replication_slot({});", quote::literal(name));
    plan.drops("the slot, with the WAL that it holds back; changes from now on are told to nobody", sql);
}

/// An index that setup built goes; whoever else needs the identity keeps it.
fn identity(plan: &mut Plan, carrier: &Carrier, publication: &str) {
    let table = carrier.quoted();
    let default = format!("ALTER TABLE {table} REPLICA IDENTITY DEFAULT;");
    let index = carrier.indexes.iter().find(|index| index.identity && index.name.starts_with(INDEX_PREFIX));
    let others = carrier.publications.iter().find(|sender| sender.name != publication);
    match (index, others) {
        (Some(_), Some(sender)) => {
            let why = format!("publication {} sends the table, so its identity stays", quote::identifier(&sender.name));
            plan.left.push(Finding::note(format!("table {table}"), why));
        }
        (Some(index), None) => {
            let dropped = quote::qualified(&carrier.schema, &index.name);
            plan.drops(format!("{table}: old rows are known by the primary key again"), default);
            plan.drops("the index that setup built for it", format!("DROP INDEX {dropped};"));
        }
        (None, _) if carrier.identity == "f" => {
            let why = "its identity is FULL, which setup may have found so: it stays, and costs WAL";
            plan.left.push(Finding::note(format!("table {table}"), why).mend(default));
        }
        (None, _) => {}
    }
}

fn schema(plan: &mut Plan, made: &Made) {
    for trigger in &made.triggers {
        plan.drops("an event trigger", format!("DROP EVENT TRIGGER {};", quote::identifier(trigger)));
    }
    if made.outbox {
        let why = "an outbox is in it, which mode = \"outbox\" made: it stays, with its functions";
        return plan.left.push(Finding::note("schema crieur", why));
    }
    if !made.functions.is_empty() {
        let listed = made.functions.join(", ");
        plan.drops("functions; transactions that call them fail from then on", format!("DROP FUNCTION {listed};"));
    }
    match (made.schema, made.others) {
        (true, 0) => plan.drops("the schema", "DROP SCHEMA crieur;"),
        (true, others) => {
            let why = format!("it stays: it holds {others} objects that setup did not make");
            plan.left.push(Finding::note("schema crieur", why));
        }
        (false, _) => {}
    }
}

/// Of an outbox, which is one for all daemons of the database. Pure.
fn outbox_plan(made: &Made, holders: &[(String, String)]) -> Plan {
    let mut plan = Plan::default();
    for (slot, owner) in holders {
        let subject = format!("outbox position {}", quote::identifier(slot));
        let mend = "systemctl stop crieur, on each machine that runs it";
        plan.obstacles.push(Finding::wrong(subject, format!("it is active for {owner}")).mend(mend));
    }
    if made.schema {
        let sql: Vec<&str> = UNINSTALL.lines().filter(|line| !line.starts_with("--")).collect();
        plan.drops("the outbox with its rows, the triggers on the tables, functions and schema", sql.join("\n"));
    }
    plan
}

/// Whoever reads the outbox now.
async fn holders(client: &Client) -> Result<Vec<(String, String)>> {
    const SQL: &str = "SELECT jsonb_build_array(p.slot, coalesce(p.owner, 'crieur record'))::text \
                       FROM crieur.progress AS p WHERE p.owner_until > clock_timestamp() ORDER BY p.slot";
    rows(client, SQL, &[]).await
}

async fn planned(origin: &Origin<'_>, needs: &[TableNeeds], client: &Client) -> Result<Plan> {
    let postgres = &origin.config.postgres;
    let made = rows(client, include_str!("../../sql/teardown.sql"), &[("slot", &postgres.slot)]).await?;
    let missing = || Error::definite(Exit::Protocol, "read the catalog: the server returned no row");
    let made: Made = made.into_iter().next().ok_or_else(missing)?;
    match postgres.mode {
        Mode::Replication => {
            let names = ServerNames::of(postgres);
            let catalog = Catalog::read(client, names.publication, names.slot, needs).await?;
            Ok(plan(&catalog, &made, names))
        }
        Mode::Outbox if made.outbox => Ok(outbox_plan(&made, &holders(client).await?)),
        Mode::Outbox => Ok(outbox_plan(&made, &[])),
    }
}

/// Drops, or prints, and says how to exit.
pub async fn run(
    origin: &Origin<'_>,
    client: &Client,
    arguments: &TeardownArgs,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let plan = planned(origin, &origin.needs(), client).await?;
    if arguments.print {
        return print(&plan, out);
    }
    if !plan.obstacles.is_empty() {
        let exit = report(out, &plan.obstacles)?;
        writeln!(out, "nothing was changed: teardown begins when none of this is wrong")?;
        return Ok(exit);
    }
    plan.left.iter().try_for_each(|finding| writeln!(out, "{finding}"))?;
    if plan.statements.is_empty() {
        writeln!(out, "nothing to drop")?;
        return Ok(Exit::Ok);
    }
    for Statement { why, sql, .. } in &plan.statements {
        writeln!(out, "{sql}\n    {why}")?;
    }
    if !arguments.yes && !agreed(out)? {
        writeln!(out, "nothing was changed")?;
        return Ok(Exit::Failed);
    }
    drop_all(client, &plan.statements).await?;
    writeln!(out, "all of it is dropped; cached keys stay until their time to live is over, and so does the mark")?;
    Ok(Exit::Ok)
}

/// Whether the person at the terminal types "yes".
fn agreed(out: &mut dyn Write) -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        let error =
            Error::definite(Exit::Usage, "teardown asks before it drops, and nobody is at a terminal to answer");
        return Err(error.hint("Nothing was changed. Read what is printed above, then type it with --yes.").into());
    }
    write!(out, "Type yes to drop all of this: ")?;
    out.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

async fn drop_all(client: &Client, statements: &[Statement]) -> Result<()> {
    let all: Vec<&str> = statements.iter().map(|statement| statement.sql.as_str()).collect();
    let ran = client.batch_execute(&format!("BEGIN; {LOCK_TIMEOUT}\n{}\nCOMMIT;", all.join("\n"))).await;
    if ran.is_err() {
        let _ = client.batch_execute("ROLLBACK").await; // The first error is what matters.
    }
    ran.map_err(|error| refused(&error))
}

fn refused(error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else {
        let text = format!("drop what setup made: {error}");
        return Error::definite(Exit::Unavailable, text).hint("Run `crieur teardown --print` to see what is left.");
    };
    let said = format!("drop what setup made: {} ({})", server.message(), server.code().code());
    match server.code().code() {
        "42501" => Error::definite(Exit::NoPermission, said)
            .hint("Nothing was changed. Have whoever ran `crieur setup` run the output of `crieur teardown --print`."),
        "55P03" => Error::definite(Exit::Unavailable, said)
            .hint("Nothing was changed. A long transaction holds a table; run it again when that has ended."),
        _ => Error::definite(Exit::Unavailable, said).hint("Nothing was changed."),
    }
}

/// A script for psql, what stands in its way or is left as comments.
fn print(plan: &Plan, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let told = plan.obstacles.iter().chain(&plan.left).map(ToString::to_string);
    for line in told.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()) {
        writeln!(out, "-- {line}")?;
    }
    if plan.statements.is_empty() {
        writeln!(out, "-- Nothing to drop.")?;
    } else {
        writeln!(out, "\\set ON_ERROR_STOP on\nBEGIN;\n{LOCK_TIMEOUT}")?;
        for Statement { why, sql, .. } in &plan.statements {
            // A name with a line end would end the comment.
            let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            writeln!(out, "\n-- {why}\n{sql}")?;
        }
        writeln!(out, "\nCOMMIT;")?;
    }
    Ok(if plan.obstacles.is_empty() { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Sender;
    use crate::cli::check::example;

    const NAMES: ServerNames<'static> = ServerNames { publication: "crieur", slot: "crieur", standby: false };

    fn made() -> Made {
        Made {
            triggers: vec!["crieur_ddl".to_owned()],
            functions: vec!["crieur.invalidate(text[])".to_owned()],
            schema: true,
            ..Made::default()
        }
    }

    fn sqls(plan: &Plan) -> Vec<&str> {
        plan.statements.iter().map(|statement| statement.sql.as_str()).collect()
    }

    #[test]
    fn the_slot_is_dropped_last_and_only_where_nobody_reads_from_it() {
        let dropped = plan(&example::catalog(), &made(), NAMES);
        assert!(dropped.obstacles.is_empty(), "{:?}", dropped.obstacles);
        assert_eq!(
            sqls(&dropped),
            [
                "DROP PUBLICATION \"crieur\";",
                "DROP EVENT TRIGGER \"crieur_ddl\";",
                "DROP FUNCTION crieur.invalidate(text[]);",
                "DROP SCHEMA crieur;",
                "SELECT pg_catalog.pg_drop_replication_slot('crieur');",
            ]
        );
        let address = Some("10.0.0.7".to_owned());
        let (role, application) = (Some("crieur".to_owned()), Some("crieur".to_owned()));
        let active = Made { holder: Some(Holder { pid: 7, role, application, address }), ..made() };
        let refused = plan(&example::catalog(), &active, NAMES);
        let said = refused.obstacles[0].to_string();
        assert!(said.contains("active for PID 7, role crieur, application crieur, from 10.0.0.7"), "{said}");
    }

    #[test]
    fn what_may_be_another_s_stays_and_is_told() {
        for (spoil, words) in [
            (Made { slots: vec!["other".to_owned()], ..made() }, "may be another crieur's: other"),
            (Made { outbox: true, others: 9, ..made() }, "an outbox is in it"),
            (Made { others: 2, ..made() }, "2 objects that setup did not make"),
        ] {
            let dropped = plan(&example::catalog(), &spoil, NAMES);
            assert!(!sqls(&dropped).iter().any(|sql| sql.contains("DROP SCHEMA")), "{spoil:?}");
            assert!(dropped.left.iter().any(|finding| finding.to_string().contains(words)), "{:?}", dropped.left);
        }
        let mut catalog = example::catalog();
        catalog.tables[0].carriers[0].identity = "f".to_owned();
        let full = plan(&catalog, &made(), NAMES);
        assert!(!sqls(&full).iter().any(|sql| sql.contains("ALTER TABLE")), "FULL may be another's");
        assert!(full.left.iter().any(|finding| finding.to_string().contains("REPLICA IDENTITY DEFAULT")));
    }

    #[test]
    fn an_identity_of_setup_goes_unless_another_publication_sends_the_table() {
        let mut catalog = example::catalog();
        let carrier = &mut catalog.tables[0].carriers[0];
        carrier.identity = "i".to_owned();
        let mut index = carrier.indexes[0].clone();
        (index.name, index.identity, index.primary) = (format!("{INDEX_PREFIX}t"), true, false);
        carrier.indexes.push(index);
        let ours = plan(&catalog, &made(), NAMES);
        let expected =
            ["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;", "DROP INDEX \"public\".\"crieur_identity_t\";"];
        assert!(expected.iter().all(|sql| sqls(&ours).contains(sql)), "{:?}", sqls(&ours));
        let sender = Sender {
            name: "other".to_owned(),
            entry: ("public".to_owned(), "t".to_owned()),
            columns: None,
            filter: Vec::new(),
            generated: "n".to_owned(),
        };
        catalog.tables[0].carriers[0].publications.push(sender);
        let shared = plan(&catalog, &made(), NAMES);
        assert!(!sqls(&shared).iter().any(|sql| sql.contains("INDEX") || sql.contains("ALTER TABLE")));
    }

    #[test]
    fn an_outbox_goes_whole_unless_somebody_reads_it() {
        assert_eq!(sqls(&outbox_plan(&made(), &[])), ["DROP SCHEMA IF EXISTS crieur CASCADE;"]);
        assert!(sqls(&outbox_plan(&Made::default(), &[])).is_empty());
        let read = outbox_plan(&made(), &[("crieur".to_owned(), "host/7".to_owned())]);
        assert!(read.obstacles[0].to_string().contains("active for host/7"), "{:?}", read.obstacles);
    }
}
