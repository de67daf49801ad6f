//! `crieur setup` in outbox mode: the schema, and triggers that write what the rules read.
//!
//! The script is the same whether it is printed or run: `sql/install.sql`, then one call of `crieur.watch` for each table
//! of the rules. Run, it leaves alone what is as it should be, because a trigger that is made anew is a gap, and sweeps.

use std::io::Write;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::catalog::Catalog;
use crate::catalog::FUNCTIONS_SQL;
use crate::cli::check::outbox::{misnamed, watch};
use crate::cli::finding::{Finding, report};
use crate::control::pooled::uncovered;
use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::postgres::sqlstate::session_error;
use crate::rules::Rules;
use crate::rules::about::needs::TableNeeds;
use crate::rules::read::name::table_name;

const INSTALL: &str = include_str!("../../../sql/install.sql");
const UNINSTALL: &str = include_str!("../../../sql/uninstall.sql");

/// Writers queue behind a waiting CREATE TRIGGER: after this long it gives up and may be run again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";

/// What the triggers of a table write, for `explain`.
pub(crate) fn captured(rules: &Rules, table: &str) -> String {
    let named = table_name(table);
    let needs = rules.tables();
    let Some(need) = needs.iter().find(|need| named == Some((need.schema.clone(), need.table.clone()))) else {
        return String::new();
    };
    let list =
        |names: Vec<&String>| names.into_iter().map(|name| quote::identifier(name)).collect::<Vec<_>>().join(", ");
    let columns = list(need.columns.keys().collect());
    let columns = if columns.is_empty() { "that the table changed, and no column".to_owned() } else { columns };
    let ignored = list(need.ignorable().collect());
    let ignored = match ignored.is_empty() {
        true => String::new(),
        false => format!("; nothing when an update changes only {ignored}"),
    };
    format!("captured   by the triggers: {columns}{ignored}\n")
}

/// Everything, for psql, an SQL editor or a migration.
fn script(needs: &[TableNeeds]) -> String {
    let calls: Vec<String> = needs.iter().map(watch).collect();
    // As comments: whoever wants it removes them.
    let undo: String = UNINSTALL.lines().map(|line| format!("-- {line}\n")).collect();
    format!(
        "{INSTALL}\n{FUNCTIONS_SQL}\n-- The tables of the rules, with the columns that keys are made of.\n{}\n\n\
         -- If the daemon logs in as another role: SELECT crieur.grant_worker('role');\n\n-- To undo all of it:\n{undo}",
        calls.join("\n")
    )
}

/// Prints the script. It depends on the rules alone, so whoever may not reach the server can hand it on.
pub(crate) fn print(rules: &Rules, out: &mut dyn Write) -> anyhow::Result<Exit> {
    out.write_all(script(&rules.tables()).as_bytes())?;
    Ok(Exit::Ok)
}

/// Runs what is missing of the script; says what it did, when that is done, and how to exit. Nothing is touched while the
/// rules name what is not there, or the role may not do all of it.
pub(crate) async fn setup(rules: &Rules, client: &Client, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let needs = rules.tables();
    let catalog = Catalog::read(client, "", "", &needs).await?;
    let mut obstacles = misnamed(&catalog, &needs);
    if obstacles.is_empty() {
        obstacles = forbidden(client, &catalog).await?;
    }
    if !obstacles.is_empty() {
        let exit = report(out, &obstacles)?;
        writeln!(out, "nothing was changed: setup begins when none of this is wrong")?;
        return Ok(exit);
    }
    run(client, &format!("{INSTALL};\n{FUNCTIONS_SQL}")).await?;
    writeln!(out, "schema crieur\n    tables, functions: brought to this version")?;
    let missing = uncovered(client, rules).await?;
    for need in &needs {
        let name = (need.schema.clone(), need.table.clone());
        if !missing.contains(&name) {
            continue;
        }
        let call = watch(need);
        run(client, &call).await.map_err(half_done)?;
        writeln!(out, "{call}\n    triggers on the table and its partitions, for what the rules read")?;
    }
    Ok(Exit::Ok)
}

/// The tables are done one by one, so that writers of one do not wait for another.
fn half_done(error: Error) -> Error {
    let way = error.hint.clone().unwrap_or_default();
    error.hint(format!("{way} What is printed above is done; crieur setup goes on from there.").trim_start().to_owned())
}

/// What the role may not do, where nothing is installed yet: then all of it is to be done.
async fn forbidden(client: &Client, catalog: &Catalog) -> Result<Vec<Finding>> {
    const INSTALLED: &str = "SELECT (pg_catalog.to_regnamespace('crieur') IS NOT NULL)::text";
    if says(client, INSTALLED).await? {
        return Ok(Vec::new());
    }
    let me = quote::identifier(&catalog.role.name);
    let mut out = Vec::new();
    if !catalog.role.may_create {
        let database = quote::identifier(&catalog.server.database);
        let grant = format!("GRANT CREATE ON DATABASE {database} TO {me};");
        let seen = format!("{me} may not make the schema crieur: that takes CREATE on the database");
        out.push(Finding::wrong("schema crieur", seen).mend(grant).mend(HAND_ON));
    }
    for table in catalog.tables.iter().filter(|table| !table.owned) {
        let seen = format!("belongs to another role, and only its owner may have crieur watch it, not {me}");
        out.push(Finding::wrong(format!("table {}", table.name()), seen).mend(HAND_ON));
    }
    Ok(out)
}

/// Who else may do it.
const HAND_ON: &str =
    "run crieur setup as the owner of the tables, or have that role run the output of crieur setup --print";

/// The answer to a question.
async fn says(client: &Client, question: &str) -> Result<bool> {
    let rows = client.simple_query(question).await.map_err(|error| session_error(&error))?;
    let is_true = |row: &SimpleQueryMessage| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("true"));
    Ok(rows.iter().any(is_true))
}

/// Statements in one transaction; nothing of them stays when one fails.
async fn run(client: &Client, sql: &str) -> Result<()> {
    let sql = format!("BEGIN; {LOCK_TIMEOUT};\n{sql}\n; COMMIT");
    let ran = client.batch_execute(&sql).await;
    if ran.is_err() {
        let _ = client.batch_execute("ROLLBACK").await; // The first error is what matters.
    }
    ran.map_err(|error| refused(&error))
}

/// The server's refusal: what the functions raise names tables and columns, no values.
fn refused(error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else { return session_error(error) };
    let said = format!("install the outbox: {} ({})", server.message(), server.code().code());
    let hint = match server.code().code() {
        "42501" => {
            return Error::definite(Exit::NoPermission, said)
                .hint("Run `crieur setup --print` and have the owner of the tables run its output.");
        }
        "55P03" => "A long transaction holds the table; run `crieur setup` again when it has ended.",
        _ => return Error::definite(Exit::Unavailable, said).hint(server.hint().unwrap_or("See sql/install.sql.")),
    };
    Error::definite(Exit::Unavailable, said).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::about::needs::ImageNeed;

    #[test]
    fn explain_says_what_the_triggers_capture() {
        let file = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
        let text = "[ignore]\nt = [\"views\"]\n[[rules]]\ntable = \"t\"\nkeys = [\"t:{id}\"]\n\
                    [[rules]]\ntable = \"u\"\nkeys = [\"all\"]\n";
        std::fs::write(file.path(), text).expect("the file is ours");
        let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
        let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let rules = crate::config::Config::load(file.path(), urls.into_iter()).expect("valid rules").rules;
        let said = "captured   by the triggers: \"id\"; nothing when an update changes only \"views\"\n";
        assert_eq!(captured(&rules, "public.t"), said);
        assert_eq!(captured(&rules, "u"), "captured   by the triggers: that the table changed, and no column\n");
    }

    #[test]
    fn a_table_is_watched_with_what_the_rules_read_and_all_of_them_ignore() {
        let mut need = TableNeeds::new("public", "it's", "rule 1");
        assert_eq!(watch(&need), r#"SELECT crieur.watch('"public"."it''s"', columns => '{}');"#);
        need.reads("id", ImageNeed::OldToo, "rule 1");
        need.reads("a\"b\\", ImageNeed::OldToo, "rule 1");
        need.ignores(["seen".to_owned(), "views".to_owned()].iter());
        need.ignores(["views".to_owned()].iter());
        assert_eq!(
            watch(&need),
            r#"SELECT crieur.watch('"public"."it''s"', columns => E'{"a\\"b\\\\","id"}', ignore => '{"views"}');"#
        );
        need.ignores([].iter());
        assert!(!watch(&need).contains("ignore"), "a rule that ignores nothing hears of everything");
    }
}
