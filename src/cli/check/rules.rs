//! The rules against the live schema: types, labels of enums, JSON paths in real rows, rules that cannot be meant.
//!
//! All but the look at rows is pure. That look reads at most [`ROWS`] rows of a table inside of a transaction that may
//! only read, and counts; no value of a row comes here.

use std::time::Duration;

use tokio_postgres::Client;

use crate::catalog::{Catalog, CatalogColumn};
use crate::cli::finding::Finding;
use crate::error::{Error, Exit, Result};
use crate::postgres::quote;
use crate::postgres::session::NO_PATH;
use crate::rules::Rules;
use crate::rules::about::lint::{Lint, Listed, Reads, Use};
use crate::rules::read::foreign::{Foreign, Sign};

/// Rows of a table in which a JSON path is looked for.
const ROWS: u32 = 1000;

/// What can be said from rules and catalog.
pub fn findings(rules: &Rules, catalog: &Catalog) -> Vec<Finding> {
    let mut out: Vec<Finding> = rules.lints().iter().map(of_lint).collect();
    let mut unknown = 0;
    for reads in rules.reads() {
        match column(catalog, &reads.table, &reads.path.column) {
            Some(column) => out.extend(of_type(&reads, column)),
            None => unknown += 1,
        }
    }
    let constants = rules.constants();
    out.extend(
        constants.iter().filter(|listed| column(catalog, &listed.table, &listed.text).is_some()).map(of_constant),
    );
    out.extend(rules.foreign().iter().filter_map(|foreign| of_foreign(foreign, catalog)));
    if out.is_empty() {
        let types = if unknown == 0 { "every type fits" } else { "types are not known where columns are missing" };
        out.push(Finding::ready("rules", format!("no condition that never holds, no key that another makes, {types}")));
    }
    out
}

/// A column is the same in each partition.
fn column<'c>(catalog: &'c Catalog, (schema, name): &(String, String), column: &str) -> Option<&'c CatalogColumn> {
    let table = catalog.tables.iter().find(|table| (&table.schema, &table.table) == (schema, name))?;
    table.carriers.iter().find_map(|carrier| carrier.column(column))
}

fn of_lint(lint: &Lint) -> Finding {
    match lint {
        Lint::NeverTrue(place) => {
            Finding::wrong(format!("rule {place}"), "no row can meet its condition: it deletes nothing")
                .mend("correct when, or remove the rule")
        }
        Lint::Shadowed((place, key), (by_place, by)) => {
            let seen =
                format!("key \"{key}\" adds nothing: \"{by}\" at {by_place} is deleted with each of its changes");
            Finding::note(format!("rule {place}"), seen).mend("remove one of them")
        }
    }
}

/// A placeholder of another language. Where it names a column that the table has, that is what was meant.
fn of_foreign(foreign: &Foreign, catalog: &Catalog) -> Option<Finding> {
    let Foreign { table, key, place, found } = foreign;
    let is_column = found.column.as_ref().is_some_and(|name| column(catalog, table, name).is_some());
    let subject = format!("rule {place}");
    let seen = format!("\"{}\" in key \"{key}\" is not how a column's value is written", found.written);
    let finding = match (found.sign, is_column) {
        (Sign::AtSight, _) | (Sign::Surely, true) => Finding::wrong(subject, seen),
        (Sign::Perhaps, true) => {
            let column = found.column.as_deref().unwrap_or_default();
            let seen = format!("\"{}\" in key \"{key}\" is text, and a column \"{column}\" exists", found.written);
            Finding::note(subject, seen)
        }
        (Sign::Surely | Sign::Perhaps, false) => return None,
    };
    Some(finding.mend(match &found.meant {
        Some(meant) => format!("write \"{meant}\", if the column's value is meant"),
        None => "write the column in braces, for example {id}".to_owned(),
    }))
}

/// A list whose author may have meant columns.
fn of_constant(listed: &Listed) -> Finding {
    let Listed { text, key, .. } = listed;
    let seen = format!("\"{text}\" in the list of key \"{key}\" is that text, and a column has the name, too");
    let mend = format!("write {{{text}}}, in braces of its own, if the column's value is meant");
    Finding::note(format!("rule {}", listed.place), seen).mend(mend)
}

/// What a rule does with a value that its type does not allow.
fn of_type(reads: &Reads, column: &CatalogColumn) -> Option<Finding> {
    let subject = format!("rule {}", reads.place);
    let (name, kind) = (&reads.path.column, column.kind.as_str());
    let wrong = |seen: String, mend: &str| Some(Finding::wrong(subject.clone(), seen).mend(mend));
    let is_json = matches!(kind, "json" | "jsonb");
    let is_text = matches!(kind, "text" | "character varying" | "character");
    if !reads.path.inside.is_empty() {
        if is_text {
            let seen = format!("column \"{name}\" is {kind}: what is no JSON in it widens its keys to a sweep");
            return Some(Finding::note(subject, seen));
        }
        if !is_json {
            let seen = format!("\"{name}\" is {kind}, which has no fields: each change widens its keys to a sweep");
            return wrong(seen, "name a json or jsonb column, or the column alone");
        }
        return None;
    }
    match &reads.how {
        Use::Plainly => None,
        Use::Dated if is_text => {
            let seen = format!("column \"{name}\" is {kind}: what is no date in it widens its keys to a sweep");
            Some(Finding::note(subject, seen).mend("make it a date or timestamp, or write dates as 2024-03-01 in it"))
        }
        Use::Dated if matches!(kind, "date" | "timestamp with time zone" | "timestamp without time zone") => None,
        Use::Dated => {
            let seen =
                format!("\"{name}\" is {kind}, which has no year and month: each change widens its keys to a sweep");
            wrong(seen, "use year and month of a date or timestamp")
        }
        Use::ComparedWith(text) if !column.labels.is_empty() && !column.labels.contains(text) => {
            let seen = format!("\"{name}\" is never '{text}', which is no label of {kind}");
            wrong(seen, &format!("its labels: {}", column.labels.join(", ")))
        }
        Use::ComparedWith(text) if !may_be(kind, text) => {
            let seen = format!("\"{name}\" is {kind} and cannot be '{text}'");
            wrong(seen, "compare it with a value of its type")
        }
        Use::ComparedWith(_) => None,
    }
}

/// Whether a text is a value of a type, as far as that is plain.
fn may_be(kind: &str, text: &str) -> bool {
    match kind {
        "boolean" => matches!(text, "t" | "f" | "true" | "false"),
        "smallint" | "integer" | "bigint" => text.trim().parse::<i64>().is_ok(),
        "numeric" | "real" | "double precision" => text.trim().parse::<f64>().is_ok(),
        "uuid" => text.bytes().filter(u8::is_ascii_hexdigit).count() == 32,
        _ => true,
    }
}

/// JSON paths that no row has: a field that was renamed, or never was.
pub async fn paths(client: &Client, rules: &Rules, catalog: &Catalog, timeout: Duration) -> Result<Vec<Finding>> {
    let mut out: Vec<Finding> = Vec::new();
    let mut seen = Vec::new();
    for reads in rules.reads() {
        let column = column(catalog, &reads.table, &reads.path.column);
        let is_json = column.is_some_and(|column| matches!(column.kind.as_str(), "json" | "jsonb"));
        let what = (reads.table.clone(), reads.path.clone());
        if reads.path.inside.is_empty() || !is_json || seen.contains(&what) {
            continue;
        }
        seen.push(what);
        let limit = timeout.as_millis().max(1);
        let begin = format!("BEGIN READ ONLY; {NO_PATH}SET LOCAL statement_timeout = {limit}");
        client.batch_execute(&begin).await.map_err(ended)?;
        let counted = client.query_one(&counting(&reads), &[]).await;
        client.batch_execute("ROLLBACK").await.map_err(ended)?;
        let counted = counted.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        out.extend(of_rows(
            &reads,
            counted.map_err(|error| error.as_db_error().map_or(error.to_string(), |e| e.message().to_owned())),
        ));
    }
    Ok(out)
}

fn ended(error: tokio_postgres::Error) -> Error {
    Error::definite(Exit::Unavailable, "look for JSON paths").because(error)
}

/// Rows that were looked at, and those that have the path; JSON null counts as there.
fn counting(reads: &Reads) -> String {
    let column = quote::identifier(&reads.path.column);
    let path = reads.path.inside.iter().map(|step| quote::literal(step)).collect::<Vec<_>>().join(", ");
    let table = quote::qualified(&reads.table.0, &reads.table.1);
    format!(
        "SELECT count(*), count(found) FROM (SELECT {column}::jsonb #> ARRAY[{path}]::text[] AS found \
         FROM {table} WHERE {column} IS NOT NULL LIMIT {ROWS}) AS sample"
    )
}

fn of_rows(reads: &Reads, counted: std::result::Result<(i64, i64), String>) -> Option<Finding> {
    let subject = format!("rule {}", reads.place);
    let path = std::iter::once(&reads.path.column).chain(&reads.path.inside).cloned().collect::<Vec<_>>().join(".");
    match counted {
        Ok((0, _)) => None,
        Ok((rows, 0)) => {
            let seen =
                format!("none of {rows} rows that were looked at has {path}: it makes no key, and meets no condition");
            Some(
                Finding::wrong(subject, seen)
                    .mend("correct the path in the rules file, unless such rows are still to come"),
            )
        }
        Ok(_) => None,
        Err(why) => {
            let grant = format!(
                "GRANT SELECT ON {} TO the role, or ignore this",
                quote::qualified(&reads.table.0, &reads.table.1)
            );
            Some(Finding::note(subject, format!("rows cannot be looked at for {path}: {why}")).mend(grant))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;
    use crate::cli::finding::Grade;
    use crate::rules::read::parse::rules_of;

    /// The findings of one rule over the example's table, whose columns got these types.
    fn found(rule: &str) -> Vec<(Grade, String)> {
        let mut catalog = example::catalog();
        let types = [("id", "uuid"), ("owner", "text"), ("rank", "integer"), ("city", "jsonb"), ("note", "status")];
        for column in &mut catalog.tables[0].carriers[0].columns {
            let kind = types.iter().find(|(name, _)| *name == column.name).map_or("text", |(_, kind)| kind);
            column.kind = kind.to_owned();
            if kind == "status" {
                column.labels = vec!["free".to_owned(), "let".to_owned()];
            }
        }
        let rules = rules_of(&format!("[[rules]]\ntable = 't'\n{rule}\n"));
        findings(&rules, &catalog).into_iter().map(|finding| (finding.verdict, finding.seen)).collect()
    }

    #[test]
    fn each_thing_that_a_type_does_not_allow_makes_one_line() {
        for (rule, verdict, words) in [
            ("keys = ['a:{id}:{city.name}']", Grade::Ready, "every type fits"),
            ("keys = ['a:{rank.x}']", Grade::Wrong, "\"rank\" is integer, which has no fields"),
            ("keys = ['a:{owner.x}']", Grade::Note, "what is no JSON in it widens"),
            ("keys = ['a:{rank|year}']", Grade::Wrong, "has no year and month"),
            ("keys = ['a:{owner|month}']", Grade::Note, "is text: what is no date in it widens"),
            ("keys = ['a']\nwhen = \"note = 'sold'\"", Grade::Wrong, "never 'sold', which is no label of status"),
            ("keys = ['a']\nwhen = \"note in ('free', 'let')\"", Grade::Ready, ""),
            ("keys = ['a']\nwhen = \"rank = 'one'\"", Grade::Wrong, "is integer and cannot be 'one'"),
            ("keys = ['a']\nwhen = \"rank = '1'\"", Grade::Ready, ""),
            ("keys = ['a']\nwhen = \"id != 'x'\"", Grade::Wrong, "is uuid and cannot be 'x'"),
            ("keys = ['a']\nwhen = \"city.x = 'anything'\"", Grade::Ready, ""),
            ("keys = ['a']\nwhen = \"rank = 1 and rank = 2\"", Grade::Wrong, "no row can meet its condition"),
            ("keys = ['a:{owner,x}']", Grade::Note, "\"owner\" in the list of key \"a:{owner,x}\" is that text"),
            ("keys = ['a:{4,8}:{owner}']", Grade::Ready, ""),
            ("keys = ['a:${id}']", Grade::Wrong, "\"${id}\" in key \"a:${id}\" is not how"),
            ("keys = ['a:$id']", Grade::Wrong, "\"$id\" in key"),
            ("keys = ['a:{{id}}']", Grade::Wrong, "\"{{id}}\" in key"),
            ("keys = ['a:<id>']", Grade::Wrong, "\"<id>\" in key"),
            ("keys = ['a::id']", Grade::Wrong, "\":id\" in key"),
            ("keys = ['a:%s']", Grade::Wrong, "\"%s\" in key"),
            ("keys = ['a:#{id}']", Grade::Note, "is text, and a column \"id\" exists"),
            ("keys = ['a:id']", Grade::Note, "is text, and a column \"id\" exists"),
            ("keys = ['a:<nobody>:{{nobody}}:#nobody']", Grade::Ready, ""),
            ("keys = ['a:id:{id}']", Grade::Ready, ""),
            ("keys = ['a:{id}', 'a:*']", Grade::Note, "key \"a:{id}\" adds nothing: \"a:*\""),
        ] {
            let found = found(rule);
            assert_eq!(found.len(), 1, "{rule}: {found:?}");
            assert_eq!(found[0].0, verdict, "{rule}: {found:?}");
            assert!(found[0].1.contains(words), "{rule}: {found:?}");
        }
    }

    #[test]
    fn names_and_paths_are_quoted_in_the_look_at_rows() {
        let rules = rules_of("[[rules]]\ntable = 'app.\"T\"'\nkeys = ['a:{\"j\"\"\".a.0}']\n");
        let reads = rules.reads().pop_first().expect("one value");
        let sql = counting(&reads);
        assert!(sql.contains(r#""j"""::jsonb #> ARRAY['a', '0']::text[]"#) && sql.contains(r#""app"."T""#), "{sql}");
        assert_eq!(of_rows(&reads, Ok((0, 0))), None);
        assert_eq!(of_rows(&reads, Ok((5, 1))), None);
        assert_eq!(of_rows(&reads, Ok((5, 0))).map(|finding| finding.verdict), Some(Grade::Wrong));
    }
}
