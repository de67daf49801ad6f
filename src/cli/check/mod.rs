//! `crieur check`: what is ready, what is wrong, and the statement or command that mends it.
//!
//! Changes nothing. Each decision is a pure function from what was read to [`Finding`]s; this file runs them in the
//! order in which a person mends things, and prints.

use std::io::Write;
use std::path::PathBuf;

use tokio_postgres::Client;

use crate::cache::probe::Examined;
use crate::catalog::Catalog;
use crate::cli::finding::{Finding, Grade, Shown, print};
use crate::cli::origin::Origin;
use crate::cli::{trial, verify};
use crate::config::{CacheConfig, Mode};
use crate::error::{Exit, Result};
use crate::rules::about::needs::TableNeeds;

mod arguments;
pub mod cache;
pub mod constraints;
pub mod lookups;
pub(crate) mod outbox;
mod pages;
pub mod rules;
mod sentinels;
pub mod server;
mod sinks;
mod standby;
pub mod tables;

/// Checks the servers and the rules; changes nothing.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print only what is wrong, and nothing where nothing is.
    #[arg(long)]
    pub quiet: bool,
}

impl CheckArgs {
    /// What the command line wants to see.
    pub fn shown(&self) -> Shown {
        if self.quiet { Shown::Wrong } else { Shown::All }
    }
}

/// Everything that can be said from the catalog alone, in the order in which it is mended.
pub fn of_catalog(catalog: &Catalog, needs: &[TableNeeds], names: server::ServerNames<'_>) -> Vec<Finding> {
    let mut findings = server::prerequisites(catalog, names);
    let of_server = findings.len();
    findings.extend(tables::publication(catalog, names.publication, needs));
    for need in needs {
        findings.extend(tables::table(catalog, needs, need, names.publication));
    }
    findings.extend(server::findings(catalog, names));
    if names.is_at_standby(catalog) {
        findings[of_server..].iter_mut().for_each(standby::of_primary);
    }
    findings
}

/// Reads the catalog, the lookups and the cache, prints what was found, and says how to exit.
///
/// What was found out about each cache comes as an outcome: a cache that is away is a finding, not the end.
pub async fn run(
    origin: &Origin<'_>,
    postgres: &Client,
    caches: Vec<(&CacheConfig, Result<Examined>)>,
    shown: Shown,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (config, needs) = (origin.config, origin.needs());
    let names = server::ServerNames::of(&config.postgres);
    let catalog = Catalog::read(postgres, names.publication, names.slot, &needs).await?;
    let (mut findings, of_address) = match config.postgres.mode {
        Mode::Outbox => (outbox::findings(postgres, names.slot, &catalog, &needs).await?, None),
        Mode::Replication => {
            let mut findings = of_catalog(&catalog, &needs, names);
            findings.extend(trial::standing(postgres, &catalog, &findings).await?);
            (findings, server::pooler(config.postgres.url.expose()))
        }
    };
    let forbidden = constraints::findings(postgres, &config.rules, config.postgres.lookup_timeout).await?;
    let of_rules = rules::findings(&config.rules, &catalog);
    findings.extend(of_rules.into_iter().filter(|found| forbidden.is_empty() || found.verdict != Grade::Ready));
    findings.extend(forbidden);
    findings.extend(rules::paths(postgres, &config.rules, &catalog, config.postgres.lookup_timeout).await?);
    findings.extend(of_address);
    findings.extend(lookups::findings(postgres, origin, &catalog).await?);
    if !config.verify.is_empty() {
        let wrong = verify::wrong(config).await?;
        let ready =
            Finding::ready("verify", format!("the server takes the sql of all {} [[verify]]", config.verify.len()));
        let none_wrong = wrong.is_empty().then_some(ready);
        findings.extend(wrong.into_iter().map(|(subject, seen)| Finding::wrong(subject, seen)).chain(none_wrong));
    }
    for (cache, examined) in caches {
        findings.extend(cache::of(cache, examined, &config.rules));
    }
    findings.extend(sinks::findings(config).await);
    findings.extend(pages::findings(config));
    print(out, &findings, shown)
}

#[cfg(test)]
pub mod example {
    //! A server on which everything is ready; each test spoils one thing.

    use crate::catalog::{Carrier, Catalog, CatalogColumn, CatalogSlot, Index, Publication, Role, Server, Table};
    use crate::rules::about::needs::{ColumnNeed, ImageNeed, TableNeeds};

    /// A column.
    pub fn column(name: &str, not_null: bool, bytes_max: Option<u32>) -> CatalogColumn {
        let (kind, labels) = ("text".into(), Vec::new());
        CatalogColumn {
            name: name.into(),
            kind,
            labels,
            not_null,
            generated: String::new(),
            bytes_max,
            published: true,
        }
    }

    /// A valid unique index.
    pub fn index(name: &str, columns: &[&str]) -> Index {
        let columns = columns.iter().map(|column| column.to_string()).collect();
        Index { name: name.into(), primary: false, identity: false, valid: true, columns }
    }

    /// `id uuid PRIMARY KEY, owner uuid NOT NULL, rank int NOT NULL, city text NOT NULL, note varchar(20)`, published.
    pub fn carrier(name: &str) -> Carrier {
        Carrier {
            schema: "public".into(),
            table: name.into(),
            kind: "r".into(),
            persistence: "p".into(),
            identity: "d".into(),
            published: true,
            row_filter: false,
            partition: false,
            owner: "crieur".into(),
            owned: true,
            settable: Some("id".into()),
            publications: Vec::new(),
            columns: vec![
                column("id", true, Some(16)),
                column("owner", true, Some(16)),
                column("rank", true, Some(4)),
                column("city", true, None),
                column("note", false, Some(84)),
            ],
            indexes: vec![Index { primary: true, ..index("pkey", &["id"]) }],
        }
    }

    /// One table `public.t` that is ready.
    pub fn catalog() -> Catalog {
        Catalog {
            server: Server {
                version: 150_018,
                version_text: "15.18".into(),
                database: "app".into(),
                in_recovery: false,
                standby_names: String::new(),
                waited_for: Vec::new(),
                wal_level: "logical".into(),
                slots_max: 10,
                slots_used: 1,
                senders_max: 10,
                senders_used: 1,
                triggers: 3,
                triggers_found: 3,
                functions: 3,
                feedback: true,
                upstream_slot: String::new(),
                standby_slots: 0,
                slot_keep_mb: 4096,
                sender_timeout_ms: 60_000,
            },
            role: Role {
                name: "crieur".into(),
                superuser: false,
                replication: true,
                hosted_replication: false,
                may_create: true,
            },
            publication: Some(Publication {
                owner: "crieur".into(),
                owned: true,
                all_tables: false,
                insert: true,
                update: true,
                delete: true,
                truncate: true,
                via_root: false,
                generated: "n".into(),
            }),
            slot: Some(CatalogSlot {
                plugin: Some("pgoutput".into()),
                kind: "logical".into(),
                database: Some("app".into()),
                temporary: false,
                active_pid: None,
                wal_status: Some("reserved".into()),
                safe_wal_bytes: Some(4 << 30),
                held_bytes: Some(1 << 20),
                confirmed: Some("0/1".into()),
                failover: false,
                invalidation: None,
            }),
            tables: vec![Table {
                schema: "public".into(),
                table: "t".into(),
                kind: "r".into(),
                persistence: "p".into(),
                is_partition: false,
                owned: true,
                root_published: true,
                carriers: vec![carrier("t")],
            }],
            others: Vec::new(),
        }
    }

    /// The rules read `columns` of `public.t`, of the old row too.
    pub fn needs(columns: &[&str]) -> TableNeeds {
        let need = ColumnNeed { image: ImageNeed::OldToo, rule: "rule 1".into() };
        let mut needs = TableNeeds::new("public", "t", "rule 1");
        needs.columns = columns.iter().map(|column| (column.to_string(), need.clone())).collect();
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::finding::report;

    #[test]
    fn a_server_on_which_everything_is_ready_has_no_wrong_line() {
        let names = server::ServerNames { publication: "crieur", slot: "crieur", standby: false };
        let findings = of_catalog(&example::catalog(), &[example::needs(&["id"])], names);
        assert!(findings.iter().all(|finding| finding.verdict != Grade::Wrong), "{findings:?}");
        let mut out = Vec::new();
        assert_eq!(report(&mut out, &findings).expect("written"), Exit::Ok);
    }

    #[test]
    fn one_wrong_line_makes_the_command_fail_and_prints_its_way_out() {
        let mut out = Vec::new();
        let wrong = Finding::wrong("slot", "gone\n").mend("SELECT 1;").mend("SELECT 2;");
        assert_eq!(report(&mut out, &[wrong]).expect("written"), Exit::Failed);
        let text = String::from_utf8(out).expect("text");
        assert_eq!(
            text,
            "WRONG slot: gone\\n\n      mend: SELECT 1;\n      mend: SELECT 2;\n0 ok, 0 to note, 1 wrong\n"
        );
    }

    #[test]
    fn what_is_wrong_comes_first_things_of_one_kind_share_a_line_and_quiet_shows_nothing_else() {
        let findings = [
            Finding::ready("table public.a", "published"),
            Finding::note("slot", "in use"),
            Finding::ready("cache, family a:*", "UNLINK is permitted"),
            Finding::wrong("table public.c", "is not published").mend("SELECT 1;"),
            Finding::ready("table public.b", "published"),
            Finding::ready("cache, family b:*", "UNLINK is permitted"),
        ];
        let shown = |shown| {
            let mut out = Vec::new();
            assert_eq!(print(&mut out, &findings, shown).expect("written"), Exit::Failed);
            String::from_utf8(out).expect("text")
        };
        let wrong = "WRONG table public.c: is not published\n      mend: SELECT 1;\n";
        assert_eq!(shown(Shown::Wrong), wrong);
        let others = "note  slot: in use\nok    table public.a, public.b: published\n\
                      ok    cache, family a:*, b:*: UNLINK is permitted\n4 ok, 1 to note, 1 wrong\n";
        assert_eq!(shown(Shown::All), format!("{wrong}{others}"));
    }
}
