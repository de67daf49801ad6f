//! The outbox and its triggers: findings of `crieur check` where no replication is used.

use serde::Deserialize;
use tokio_postgres::Client;

use crate::catalog::{Catalog, rows};
use crate::cli::check::tables::{self, Stored};
use crate::cli::finding::Finding;
use crate::control::pooled::refuses;
use crate::error::Result;
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// The oldest server that has transaction numbers of 64 bits (`xid8`).
const VERSION_MIN: u32 = 130_000;

/// `sql/outbox/check.sql`
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct State {
    version: u32,
    notify: bool,
    rows: u64,
    bytes: u64,
    bytes_max: u64,
    oldest: Option<i64>,
    collapsed: u64,
    owners: std::collections::BTreeMap<String, String>,
    may_work: bool,
    role: String,
    tables: Vec<Watched>,
}

/// A watched table.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Watched {
    schema: String,
    table: String,
    columns: Vec<String>,
    ignore: Vec<String>,
    missing: Vec<String>,
    uncovered: Vec<String>,
    stale: bool,
}

/// What is known of a table of the rules without the outbox.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct Exists {
    version: u32,
    version_text: String,
    in_recovery: bool,
    installed: bool,
    /// Whether the outbox can be asked if it takes rows.
    may_ask: bool,
    /// As the server shows it.
    temp_file_limit: String,
}

const EXISTS: &str = "SELECT jsonb_build_object('version', current_setting('server_version_num')::integer, \
     'version_text', current_setting('server_version'), 'in_recovery', pg_is_in_recovery(), \
     'installed', to_regprocedure('crieur.version()') IS NOT NULL AND to_regclass('crieur.outbox') IS NOT NULL \
        AND to_regclass('crieur.collapse') IS NOT NULL, \
     'may_ask', coalesce(has_function_privilege(to_regprocedure('crieur.refuses()'), 'EXECUTE'), false), \
     'temp_file_limit', current_setting('temp_file_limit'))::text";

/// Reads what is there, and judges it.
pub(crate) async fn findings(
    client: &Client,
    slot: &str,
    catalog: &Catalog,
    needs: &[TableNeeds],
) -> Result<Vec<Finding>> {
    let found: Vec<Exists> = rows(client, EXISTS, &[]).await?;
    let mut out: Vec<Finding> = found.iter().flat_map(server).collect();
    out.extend(misnamed(catalog, needs));
    if found.iter().any(|found| found.installed) {
        let states: Vec<State> = rows(client, include_str!("../../../sql/outbox/check.sql"), &[]).await?;
        // Triggers on what is not there are no finding of their own.
        let named: Vec<&TableNeeds> = needs.iter().filter(|need| of_names(catalog, need).is_empty()).collect();
        out.extend(states.iter().flat_map(|state| of(state, slot, &named)));
        if found.iter().any(|found| found.may_ask)
            && let Some(why) = refuses(client).await?
        {
            let seen =
                format!("crieur.outbox takes no rows ({why}): writers go on, and sweeps take the place of changes");
            out.push(Finding::wrong("outbox", seen).mend("crieur setup"));
        }
        if states.is_empty() {
            out.push(Finding::wrong("outbox", "crieur.setting has no row: nobody writes here").mend("crieur setup"));
        }
    } else {
        out.push(Finding::wrong("outbox", "schema crieur is not installed, or not whole").mend("crieur setup"));
    }
    Ok(out)
}

/// What the rules name and the schema does not have: no trigger mends it, and `crieur.watch` refuses it.
pub(crate) fn misnamed(catalog: &Catalog, needs: &[TableNeeds]) -> Vec<Finding> {
    needs.iter().flat_map(|need| of_names(catalog, need)).collect()
}

fn of_names(catalog: &Catalog, need: &TableNeeds) -> Vec<Finding> {
    let Some(table) = catalog.table(need) else { return vec![tables::missing(catalog, need)] };
    // Partitions have the columns of their table.
    let carrier = table.carriers.first();
    carrier.map_or_else(Vec::new, |carrier| {
        tables::columns(carrier, need, Stored::Sent, &format!("table {}", table.name()))
    })
}

fn server(found: &Exists) -> Vec<Finding> {
    let seen = format!("PostgreSQL {}", found.version_text);
    let mut out = vec![match found.version >= VERSION_MIN {
        true => Finding::ready("server", seen),
        false => Finding::wrong("server", format!("{seen}; 13 is the oldest that is supported")),
    }];
    if found.in_recovery {
        let seen = "this is a standby; the outbox is on its primary";
        out.push(Finding::wrong("server", seen).mend("put the primary's host into postgres.url"));
    }
    if found.temp_file_limit != "-1" {
        let seen = format!(
            "temp_file_limit is {}: a statement whose changed rows do not fit into it and work_mem fails",
            found.temp_file_limit
        );
        out.push(Finding::note("server", seen));
    }
    out
}

fn of(state: &State, slot: &str, needs: &[&TableNeeds]) -> Vec<Finding> {
    let role = &state.role;
    let mut out = vec![match state.may_work {
        true => Finding::ready("role", format!("\"{role}\" may read and remove rows")),
        false => Finding::wrong("role", format!("\"{role}\" may not read and remove rows"))
            .mend(format!("SELECT crieur.grant_worker({});", quote::literal(role))),
    }];
    out.extend(size(state));
    out.push(match state.notify {
        true => Finding::note("notify", "on: commits that write watched tables queue at one lock of the server"),
        false => Finding::ready("notify", "off: the daemon looks every 20 ms to 1 s"),
    });
    for (other, owner) in state.owners.iter().filter(|(other, _)| *other != slot) {
        let seen = format!("{owner} reads it for slot \"{other}\": rows that it removes never come here");
        out.push(Finding::wrong("outbox", seen).mend("stop that daemon, or give both the same postgres.slot"));
    }
    out.extend(needs.iter().flat_map(|need| table(state, need)));
    out
}

fn size(state: &State) -> Vec<Finding> {
    let State { rows, bytes, bytes_max, version, .. } = state;
    let late = state.oldest.map_or(String::new(), |seconds| format!(", the oldest of {} s ago", seconds.max(0)));
    let mut out = vec![Finding::ready(
        "outbox",
        format!("version {version}, {rows} rows{late}, {} of {} MB", bytes >> 20, bytes_max >> 20),
    )];
    if state.collapsed > 0 {
        let seen = "it was full: tables wait for a sweep, which crieur run does by itself";
        out.push(Finding::note("outbox", seen));
    }
    out
}

/// Findings on one table of the rules.
fn table(state: &State, need: &TableNeeds) -> Option<Finding> {
    let subject = format!("table {}.{}", need.schema, need.table);
    let wrong = |seen: String| Some(Finding::wrong(&subject, seen).mend("crieur setup").mend(watch(need)));
    let found = state.tables.iter().find(|found| found.schema == need.schema && found.table == need.table);
    let Some(found) = found else { return wrong(format!("is not watched ({})", need.rule)) };
    let lacks: Vec<&str> =
        need.columns.keys().filter(|column| !found.columns.contains(column)).map(String::as_str).collect();
    let deaf: Vec<&str> = found
        .ignore
        .iter()
        .filter(|column| !need.ignorable().any(|name| name == *column))
        .map(String::as_str)
        .collect();
    if !found.missing.is_empty() {
        return wrong(format!("has no column {}: every statement sweeps it", found.missing.join(", ")));
    }
    if !lacks.is_empty() {
        return wrong(format!("its triggers do not capture {}", lacks.join(", ")));
    }
    if !deaf.is_empty() {
        return wrong(format!("its triggers ignore {}, which a rule does not", deaf.join(", ")));
    }
    if !found.uncovered.is_empty() {
        return wrong(format!("triggers are missing or disabled on {}", found.uncovered.join(", ")));
    }
    if found.stale {
        return wrong("changed since it was watched".to_owned());
    }
    Some(Finding::ready(subject, "watched, and every column that the rules read is captured"))
}

/// The call that watches a table with what the rules read of it.
pub(crate) fn watch(need: &TableNeeds) -> String {
    let list = |names: Vec<&String>| {
        let quoted: Vec<String> =
            names.into_iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))).collect();
        quote::literal(&format!("{{{}}}", quoted.join(",")))
    };
    let table = quote::literal(&quote::qualified(&need.schema, &need.table));
    let columns = list(need.columns.keys().collect());
    let ignore: Vec<&String> = need.ignorable().collect();
    match ignore.is_empty() {
        true => format!("SELECT crieur.watch({table}, columns => {columns});"),
        false => format!("SELECT crieur.watch({table}, columns => {columns}, ignore => {});", list(ignore)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;
    use crate::cli::finding::Grade;

    fn ready() -> State {
        let table = Watched {
            schema: "public".into(),
            table: "t".into(),
            columns: vec!["id".into()],
            ignore: Vec::new(),
            missing: Vec::new(),
            uncovered: Vec::new(),
            stale: false,
        };
        State {
            version: 1,
            notify: false,
            rows: 0,
            bytes: 0,
            bytes_max: 1 << 29,
            oldest: None,
            collapsed: 0,
            owners: Default::default(),
            may_work: true,
            role: "app".into(),
            tables: vec![table],
        }
    }

    /// What is wrong when one thing is spoiled.
    fn wrong(spoil: impl FnOnce(&mut State)) -> Vec<String> {
        let mut state = ready();
        spoil(&mut state);
        let found = of(&state, "crieur", &[&example::needs(&["id"])]);
        found.into_iter().filter(|one| one.verdict == Grade::Wrong).map(|one| one.seen).collect()
    }

    #[test]
    fn names_that_the_schema_does_not_have_are_told_with_their_rule() {
        let said = |spoil: fn(&mut Catalog), columns: &[&str], ignored: &str| {
            let mut catalog = example::catalog();
            spoil(&mut catalog);
            let mut need = example::needs(columns);
            need.ignores([ignored.to_owned()].iter());
            let found = misnamed(&catalog, &[need]).into_iter();
            found.map(|finding| (finding.seen, finding.mend.concat())).collect::<Vec<_>>()
        };
        let as_it_is = |_: &mut Catalog| ();
        let virtually = |catalog: &mut Catalog| catalog.tables[0].carriers[0].columns[0].generated = "v".into();
        let correct = "correct the name in the rules file";
        let city = "correct the name in the rules file: did you mean \"city\"?";
        for (found, expected) in [
            (said(as_it_is, &["id"], "city"), None),
            (said(as_it_is, &["ctiy"], "city"), Some(("has no column \"ctiy\" (rule 1)", city))),
            (said(as_it_is, &["id"], "ctiy"), Some(("has no column \"ctiy\", which rules ignore", city))),
            (said(|catalog| catalog.tables.clear(), &["id"], "city"), Some(("does not exist", correct))),
            (said(virtually, &["id"], "city"), Some(("\"id\" is generated", "compute it in a lookup"))),
        ] {
            assert_eq!(found.len(), usize::from(expected.is_some()), "{found:?}");
            let told = |(words, mend): (&str, &str)| found[0].0.contains(words) && found[0].1 == mend;
            assert!(expected.is_none_or(told), "{expected:?}: {found:?}");
        }
    }

    #[test]
    fn each_thing_that_is_wrong_makes_one_line() {
        assert_eq!(wrong(|_| ()), Vec::<String>::new());
        for (found, words) in [
            (wrong(|state| state.may_work = false), "may not read"),
            (wrong(|state| drop(state.owners.insert("b".into(), "7@host/1".into()))), "slot \"b\""),
            (wrong(|state| state.tables.clear()), "is not watched"),
            (wrong(|state| state.tables[0].columns.clear()), "do not capture id"),
            (wrong(|state| state.tables[0].ignore.push("views".into())), "ignore views"),
            (wrong(|state| state.tables[0].missing.push("id".into())), "has no column id"),
            (wrong(|state| state.tables[0].uncovered.push("t_1".into())), "on t_1"),
            (wrong(|state| state.tables[0].stale = true), "changed since"),
        ] {
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
    }
}
