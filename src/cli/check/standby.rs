//! What a stream from a standby needs of that standby and of its primary. Pure.

use crate::catalog::Server;
use crate::cli::finding::Finding;
use crate::postgres::facts::VERSION_DECODES;

/// A standby that nobody named as one.
pub(super) fn unnamed(server: &Server) -> Option<Finding> {
    server.in_recovery.then(|| {
        Finding::wrong("server", "this is a standby; the stream comes from its primary")
            .mend("put the primary's host into postgres.url, or add target_session_attrs=read-write")
            .mend("or, beside a standby of PostgreSQL 16 or later whose readers fill the cache: standby = true in [postgres]")
    })
}

/// The server of a configuration with `postgres.standby`: the standby, or the primary of its first part of the setup.
pub(super) fn place(server: &Server) -> Vec<Finding> {
    if !server.in_recovery {
        return of_a_primary(server);
    }
    let mut out = vec![match server.version >= VERSION_DECODES {
        true => Finding::ready("standby", "changes are read here, as they are replayed"),
        false => Finding::wrong("standby", "only PostgreSQL 16 and later decode on a standby")
            .mend("run crieur beside the primary: take standby = true out, and name the standby in postgres.replicas"),
    }];
    out.push(match server.feedback {
        true => Finding::ready("hot_standby_feedback", "on"),
        false => Finding::wrong(
            "hot_standby_feedback",
            "off: the primary removes catalog rows that the slot needs, and the slot is lost with the first of them",
        )
        .mend("ALTER SYSTEM SET hot_standby_feedback = on;")
        .mend("SELECT pg_reload_conf();"),
    });
    out.push(match server.upstream_slot.as_str() {
        "" => Finding::note(
            "primary_slot_name",
            "empty: the primary forgets this standby while they are apart, and the slot is lost with the rows that it removes then",
        )
        .mend("on the primary: SELECT pg_create_physical_replication_slot('standby', true);")
        .mend("ALTER SYSTEM SET primary_slot_name = 'standby';")
        .mend("SELECT pg_reload_conf();"),
        name => Finding::ready("primary_slot_name", format!("\"{name}\"")),
    });
    out
}

fn of_a_primary(server: &Server) -> Vec<Finding> {
    let seen =
        "a primary, and postgres.standby is true: this is the first part of crieur setup, or the standby was promoted";
    let mut out = vec![
        Finding::note("standby", seen).mend("crieur runs and is checked with the standby's address in postgres.url"),
    ];
    if server.standby_slots == 0 {
        let seen = "no physical slot: the primary forgets a standby while they are apart, and the slot there is lost";
        out.push(
            Finding::note("standby", seen)
                .mend("SELECT pg_create_physical_replication_slot('standby', true);")
                .mend("on the standby: ALTER SYSTEM SET primary_slot_name = 'standby';"),
        );
    }
    out
}

/// What mends this is done on the primary; the slot and the settings are the standby's own.
pub(super) fn of_primary(finding: &mut Finding) {
    // A setting is one word; tables and columns stand behind the word that says what they are.
    let is_setting = finding.subject.contains('_') && !finding.subject.contains(' ');
    let is_here = finding.subject == "slot" || is_setting;
    if !is_here && !finding.mend.is_empty() {
        finding.mend.insert(
            0,
            "on the primary (crieur setup with its address in postgres.url), and then replayed here:".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::of_primary;
    use crate::catalog::Catalog;
    use crate::cli::check::server::{ServerNames, prerequisites};
    use crate::cli::check::{example, of_catalog};
    use crate::cli::finding::{Finding, Grade};

    const NAMES: ServerNames<'static> = ServerNames { publication: "crieur", slot: "crieur", standby: true };

    fn standby() -> Catalog {
        let mut catalog = example::catalog();
        (catalog.server.version, catalog.server.in_recovery) = (170_001, true);
        catalog.server.upstream_slot = "standby".into();
        catalog
    }

    #[test]
    fn each_thing_that_a_standby_lacks_makes_one_line_with_its_way_out() {
        let odd = |spoil: fn(&mut Catalog)| -> Vec<(Grade, String, String)> {
            let mut catalog = standby();
            spoil(&mut catalog);
            let found = prerequisites(&catalog, NAMES).into_iter();
            let odd = found.filter(|finding| finding.verdict != Grade::Ready);
            odd.map(|finding| (finding.verdict, finding.subject, finding.mend.join(" "))).collect()
        };
        assert_eq!(odd(|_| ()), []);
        for (spoil, verdict, subject, mend) in [
            (
                (|c| c.server.version = 150_004) as fn(&mut Catalog),
                Grade::Wrong,
                "standby",
                "name the standby in postgres.replicas",
            ),
            (|c| c.server.feedback = false, Grade::Wrong, "hot_standby_feedback", "hot_standby_feedback = on;"),
            (
                |c| c.server.upstream_slot.clear(),
                Grade::Note,
                "primary_slot_name",
                "pg_create_physical_replication_slot",
            ),
            (|c| c.server.wal_level = "replica".into(), Grade::Wrong, "wal_level", "wal_level = 'logical'"),
        ] {
            let found = odd(spoil);
            assert_eq!((found.len(), found[0].0, found[0].1.as_str()), (1, verdict, subject), "{found:?}");
            assert!(found[0].2.contains(mend), "{found:?}");
        }
    }

    #[test]
    fn a_standby_is_refused_unless_it_is_named_as_one() {
        let found = prerequisites(&standby(), ServerNames { standby: false, ..NAMES });
        let wrong: Vec<_> = found.iter().filter(|finding| finding.verdict == Grade::Wrong).collect();
        assert!(wrong.len() == 1 && wrong[0].mend.iter().any(|step| step.contains("standby = true")), "{wrong:?}");
    }

    #[test]
    fn what_is_the_primarys_is_mended_there_and_the_slot_here() {
        let mut catalog = standby();
        (catalog.publication, catalog.slot) = (None, None);
        let found = of_catalog(&catalog, &[example::needs(&["id"])], NAMES);
        let of = |subject: &str| found.iter().find(|finding| finding.subject == subject).expect("it is told");
        assert!(of("publication").mend[0].starts_with("on the primary"), "{:?}", of("publication"));
        let mut table = Finding::wrong("table public.order_items", "it is not in the publication").mend("ALTER …");
        of_primary(&mut table);
        assert!(table.mend[0].starts_with("on the primary"), "{table:?}");
        let slot = of("slot");
        assert_eq!(slot.mend, ["SELECT pg_catalog.pg_create_logical_replication_slot('crieur', 'pgoutput');"]);
    }

    #[test]
    fn on_the_primary_no_slot_is_missed() {
        let mut catalog = standby();
        (catalog.server.in_recovery, catalog.slot) = (false, None);
        let found = of_catalog(&catalog, &[example::needs(&["id"])], NAMES);
        assert!(found.iter().all(|finding| finding.verdict != Grade::Wrong), "{found:?}");
    }
}
