//! `crieur setup` in outbox mode: the schema, and triggers that write what the rules read.
//!
//! The script is the same whether it is printed or run: `sql/install.sql`, then one call of `crieur.watch` for each table
//! of the rules. Run, it leaves alone what is as it should be, because a trigger that is made anew is a gap, and sweeps.

use std::io::Write;

use tokio_postgres::Client;

use crate::catalog::Catalog;
use crate::catalog::FUNCTIONS_SQL;
use crate::cli::check::outbox::{misnamed, watch};
use crate::cli::finding::report;
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

/// Runs what is missing of the script; says what it did and how to exit. Nothing is touched while the rules name what is
/// not there.
pub(crate) async fn setup(rules: &Rules, client: &Client, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let needs = rules.tables();
    let misnamed = misnamed(&Catalog::read(client, "", "", &needs).await?, &needs);
    if !misnamed.is_empty() {
        return report(out, &misnamed);
    }
    writeln!(out, "schema crieur\n    tables, functions: brought to this version")?;
    run(client, INSTALL).await?;
    run(client, FUNCTIONS_SQL).await?;
    let missing = uncovered(client, rules).await?;
    for need in &needs {
        let name = (need.schema.clone(), need.table.clone());
        if !missing.contains(&name) {
            continue;
        }
        let call = watch(need);
        writeln!(out, "{call}\n    triggers on the table and its partitions, for what the rules read")?;
        run(client, &call).await?;
    }
    Ok(Exit::Ok)
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
