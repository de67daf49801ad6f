//! Server, role and slot: findings from the catalog. Pure.

use crate::catalog::{Catalog, CatalogSlot, FUNCTIONS, Role, Server, TRIGGERS, WaitedFor};
use crate::cli::check::standby;
use crate::cli::finding::Finding;
use crate::config::Postgres;
use crate::postgres::dsn::Dsn;
use crate::postgres::facts::counts_as_standby;
use crate::postgres::quote;

/// The oldest server that is supported: the version whose protocol carries binary-free logical messages and streaming.
const VERSION_MIN: u32 = 140_000;

/// The first version whose logical slots can be synchronized to a standby.
pub const VERSION_FAILOVER: u32 = 170_000;

/// Names from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ServerNames<'a> {
    /// `postgres.publication`
    pub publication: &'a str,
    /// `postgres.slot`
    pub slot: &'a str,
    /// `postgres.standby`
    pub standby: bool,
}

impl<'a> ServerNames<'a> {
    /// As the configuration says.
    pub fn of(postgres: &'a Postgres) -> Self {
        ServerNames { publication: &postgres.publication, slot: &postgres.slot, standby: postgres.standby }
    }

    /// Whether this server is the standby that the stream comes from.
    pub fn is_at_standby(&self, catalog: &Catalog) -> bool {
        self.standby && catalog.server.in_recovery
    }
}

/// Findings on the slot, and on what else the server has for us; a slot is of use when there is a publication.
pub fn findings(catalog: &Catalog, names: ServerNames<'_>) -> Vec<Finding> {
    let mut out = vec![match &catalog.slot {
        None if names.standby && !catalog.server.in_recovery => {
            Finding::ready("slot", format!("\"{}\" is to be made on the standby, and this is a primary", names.slot))
        }
        None => Finding::wrong("slot", format!("\"{}\" does not exist", names.slot))
            .mend(create_slot(names.slot, &catalog.server)),
        Some(found) => slot(found, names.slot, &catalog.server),
    }];
    if let Some(found) = &catalog.slot {
        out.extend(slot_activity(found));
    }
    if catalog.slot.as_ref().is_none_or(|slot| slot.failover) {
        out.extend(waited_for(&catalog.server));
    }
    out.extend(limits(&catalog.server));
    out.push(triggers(&catalog.server));
    out.push(functions(&catalog.server));
    out
}

/// The functions with which transactions name keys themselves.
fn functions(server: &Server) -> Finding {
    if server.functions >= FUNCTIONS {
        return Finding::ready("functions", "crieur.invalidate and crieur.invalidate_exact are there");
    }
    Finding::note(
        "functions",
        "crieur.invalidate or crieur.invalidate_exact is missing, of another version or another's than the outbox: a \
         transaction that calls it may fail",
    )
    .mend("run crieur setup")
}

/// The event triggers that announce DDL.
fn triggers(server: &Server) -> Finding {
    if server.triggers >= TRIGGERS {
        return Finding::ready("event triggers", "DDL is announced in the stream");
    }
    let seen = match server.triggers_found {
        0 => {
            "missing: DDL that changes values without changing rows leaves stale keys, or sweeps them only with the \
              next row change"
        }
        _ => {
            "of another version, disabled or not ENABLE ALWAYS: DDL that they do not announce leaves stale keys, and \
              those of an older version sweep at every ALTER TABLE"
        }
    };
    Finding::note("event triggers", seen).mend("run crieur setup as a superuser, or have one run its --print")
}

/// Findings on the server and the role.
pub fn prerequisites(catalog: &Catalog, names: ServerNames<'_>) -> Vec<Finding> {
    let Catalog { server, role, .. } = catalog;
    let seen = format!("PostgreSQL {}", server.version_text);
    let version = match server.version >= VERSION_MIN {
        true => Finding::ready("server", seen),
        false => Finding::wrong("server", format!("{seen}; 14 is the oldest that is supported")),
    };
    let place = match names.standby {
        true => standby::place(server),
        false => standby::unnamed(server).into_iter().collect(),
    };
    let level = match server.wal_level.as_str() {
        "logical" => Finding::ready("wal_level", "logical"),
        other => Finding::wrong("wal_level", format!("{other}, not logical"))
            .mend("ALTER SYSTEM SET wal_level = 'logical';")
            .mend("restart the server"),
    };
    let counted = counts_as_standby(&server.standby_names, "crieur").then(|| {
        let seen = format!("{}: every COMMIT would wait for crieur, and crieur for the commit", server.standby_names);
        Finding::wrong("synchronous_standby_names", seen).mend("name the standbys there instead of *")
    });
    let found = [Some(level), counted, Some(permission(role))].into_iter().flatten();
    let found = std::iter::once(version).chain(place).chain(found);
    found.chain(room(server, catalog.slot.as_ref())).collect()
}

fn permission(role: &Role) -> Finding {
    let name = &role.name;
    match role.superuser || role.replication || role.hosted_replication {
        true => Finding::ready("role", format!("\"{name}\" may replicate")),
        false => Finding::wrong("role", format!("\"{name}\" may not replicate"))
            .mend(format!("ALTER ROLE {} REPLICATION;", quote::identifier(name))),
    }
}

/// Slots and senders that are free, less what the daemon already holds.
fn room(server: &Server, slot: Option<&CatalogSlot>) -> Vec<Finding> {
    let slots_wanted = u32::from(slot.is_none());
    let senders_wanted = u32::from(slot.is_none_or(|slot| slot.active_pid.is_none()));
    let line = |setting: &str, used: u32, max: u32, wanted: u32| {
        let seen = format!("{used} of {max} in use");
        match used + wanted <= max {
            true => Finding::ready(setting, seen),
            false => Finding::wrong(setting, format!("{seen}, none is free"))
                .mend(format!("ALTER SYSTEM SET {setting} = {};", max.max(used) + 5))
                .mend("restart the server"),
        }
    };
    vec![
        line("max_replication_slots", server.slots_used, server.slots_max, slots_wanted),
        line("max_wal_senders", server.senders_used, server.senders_max, senders_wanted),
    ]
}

fn slot(slot: &CatalogSlot, name: &str, server: &Server) -> Finding {
    let subject = "slot";
    let again = || [format!("SELECT pg_drop_replication_slot({});", quote::literal(name)), create_slot(name, server)];
    if slot.kind != "logical" || slot.plugin.as_deref() != Some("pgoutput") {
        let seen = format!("\"{name}\" is {} with plugin {}", slot.kind, slot.plugin.as_deref().unwrap_or("none"));
        return Finding::wrong(subject, seen).mend("choose another name in postgres.slot");
    }
    if slot.database.as_deref() != Some(&server.database) {
        let seen = format!("\"{name}\" decodes database \"{}\"", slot.database.as_deref().unwrap_or(""));
        return Finding::wrong(subject, seen).mend("choose another name in postgres.slot");
    }
    if slot.wal_status.as_deref() == Some("lost") || slot.invalidation.is_some() {
        let why = slot.invalidation.as_deref().unwrap_or("its WAL was removed");
        return Finding::wrong(subject, format!("\"{name}\" is lost ({why}); changes since then were not seen"))
            .mend_all(again());
    }
    if slot.temporary {
        return Finding::wrong(subject, format!("\"{name}\" is temporary"))
            .mend("choose another name in postgres.slot");
    }
    let held = slot.held_bytes.map_or("unknown".to_owned(), bytes);
    let left = slot.safe_wal_bytes.map_or("no limit".to_owned(), bytes);
    let seen = format!("\"{name}\" holds back {held} of WAL, {left} until it can be lost");
    match slot.wal_status.as_deref() {
        Some("unreserved") => Finding::wrong(subject, format!("{seen}: the next checkpoint may take its WAL"))
            .mend("start crieur, or raise max_slot_wal_keep_size"),
        Some("extended") => Finding::note(subject, format!("{seen}: it is behind by more than max_wal_size")),
        Some(_) | None => Finding::ready(subject, seen),
    }
}

/// A failover slot sends nothing that the slots of `synchronized_standby_slots` have not confirmed, and waits without end
/// for one that nobody uses (`StandbySlotsHaveCaughtup`, src/backend/replication/slot.c).
fn waited_for(server: &Server) -> Option<Finding> {
    let setting = "synchronized_standby_slots";
    let fault = |slot: &WaitedFor| match (slot.kind.as_deref(), slot.lost, slot.active) {
        (None, ..) => Some("does not exist"),
        (Some(kind), ..) if kind != "physical" => Some("is no physical slot"),
        (Some(_), Some(true), _) => Some("is lost"),
        (Some(_), _, false) => Some("is used by no standby"),
        (Some(_), _, true) => None,
    };
    let (held, fine): (Vec<&WaitedFor>, Vec<&WaitedFor>) =
        server.waited_for.iter().partition(|slot| fault(slot).is_some());
    if held.is_empty() {
        let names: Vec<&str> = fine.iter().map(|slot| slot.name.as_str()).collect();
        let seen = format!("a standby streams from each slot: {}", names.join(", "));
        return (!fine.is_empty()).then(|| Finding::ready(setting, seen));
    }
    let each: Vec<String> =
        held.iter().map(|slot| format!("slot \"{}\" {}", slot.name, fault(slot).unwrap_or_default())).collect();
    let left = fine.iter().map(|slot| quote::literal(&slot.name)).collect::<Vec<_>>().join(", ");
    let left = if left.is_empty() { "''".to_owned() } else { left };
    let seen = format!("{}: the server holds the stream back until a standby streams from it", each.join(", "));
    Some(
        Finding::wrong(setting, seen)
            .mend("start the standby that streams from it, or take its slot out of the setting:")
            .mend(format!("ALTER SYSTEM SET {setting} = {left};"))
            .mend("SELECT pg_reload_conf();"),
    )
}

fn slot_activity(slot: &CatalogSlot) -> Option<Finding> {
    let pid = slot.active_pid?;
    Some(Finding::note("slot", format!("in use by the WAL sender with pid {pid}: a daemon is running on it")))
}

fn limits(server: &Server) -> Vec<Finding> {
    let keep = match server.slot_keep_mb {
        ..0 => Finding::note("max_slot_wal_keep_size", "-1: a daemon that stays away fills the server's disk with WAL")
            .mend("ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';")
            .mend("SELECT pg_reload_conf();"),
        0..1024 => Finding::note(
            "max_slot_wal_keep_size",
            format!("{} MB: a daemon that stays away while that much is written loses its slot", server.slot_keep_mb),
        ),
        1024.. => Finding::ready("max_slot_wal_keep_size", format!("{} MB", server.slot_keep_mb)),
    };
    let timeout = match server.sender_timeout_ms {
        0 => Finding::note("wal_sender_timeout", "0: the server keeps the slot busy for a client that is gone"),
        1..3000 => Finding::note(
            "wal_sender_timeout",
            format!("{} ms: a short stall of the network ends the stream", server.sender_timeout_ms),
        ),
        3000.. => Finding::ready("wal_sender_timeout", format!("{} ms", server.sender_timeout_ms)),
    };
    vec![keep, timeout]
}

/// The statement that makes the slot. `failover` lets a standby take it over; it needs PostgreSQL 17.
pub fn create_slot(name: &str, server: &Server) -> String {
    let name = quote::literal(name);
    // A standby's own slots are for nobody else.
    match server.version >= VERSION_FAILOVER && !server.in_recovery {
        true => format!("SELECT pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput', failover => true);"),
        false => format!("SELECT pg_catalog.pg_create_logical_replication_slot({name}, 'pgoutput');"),
    }
}

/// A pooler in front of the server, recognized by the address alone: it cannot carry the replication protocol.
pub fn pooler(url: &str) -> Option<Finding> {
    let step = Dsn::parse(url).ok()?.pooler_hint()?;
    Some(Finding::wrong("postgres.url", "the address is a pooler's, which does not carry replication").mend(step))
}

/// Bytes for people.
fn bytes(count: i64) -> String {
    match count {
        ..1_048_576 => format!("{count} bytes"),
        1_048_576..1_073_741_824 => format!("{} MB", count >> 20),
        1_073_741_824.. => format!("{:.1} GB", count as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::example;
    use crate::cli::finding::Grade;

    /// Spoils one thing and expects exactly one line that is not ready, with these words and these steps.
    fn check(spoil: impl FnOnce(&mut Catalog), verdict: Grade, words: &str, steps: &[&str]) {
        let mut catalog = example::catalog();
        spoil(&mut catalog);
        let names = NAMES;
        let found: Vec<_> = prerequisites(&catalog, names).into_iter().chain(findings(&catalog, names)).collect();
        let odd: Vec<_> = found.iter().filter(|finding| finding.verdict != Grade::Ready).collect();
        assert_eq!(odd.len(), 1, "{words}: {odd:?}");
        assert_eq!((odd[0].verdict, odd[0].mend.iter().map(String::as_str).collect()), (verdict, steps.to_vec()));
        assert!(odd[0].seen.contains(words), "{words}: {:?}", odd[0]);
    }

    const NAMES: ServerNames<'static> = ServerNames { publication: "crieur", slot: "crieur", standby: false };
    const RESTART: &str = "restart the server";
    const CREATE: &str = "SELECT pg_catalog.pg_create_logical_replication_slot('crieur', 'pgoutput');";
    const OTHER: &str = "choose another name in postgres.slot";

    #[test]
    fn each_thing_that_is_wrong_makes_one_line_with_its_way_out() {
        use Grade::{Note, Wrong};
        check(|c| c.server.version = 130_010, Wrong, "14 is the oldest", &[]);
        check(
            |c| c.server.wal_level = "replica".into(),
            Wrong,
            "replica, not logical",
            &["ALTER SYSTEM SET wal_level = 'logical';", RESTART],
        );
        check(
            |c| c.server.standby_names = "ANY 1 (*)".into(),
            Wrong,
            "every COMMIT would wait",
            &["name the standbys there instead of *"],
        );
        check(|c| c.role.replication = false, Wrong, "may not replicate", &["ALTER ROLE \"crieur\" REPLICATION;"]);
        check(|c| c.server.senders_used = 10, Wrong, "10 of 10", &["ALTER SYSTEM SET max_wal_senders = 15;", RESTART]);
        check(|c| c.slot = None, Wrong, "does not exist", &[CREATE]);
        check(|c| spoil_slot(c).plugin = Some("wal2json".into()), Wrong, "wal2json", &[OTHER]);
        check(|c| spoil_slot(c).database = Some("other".into()), Wrong, "other", &[OTHER]);
        check(|c| spoil_slot(c).temporary = true, Wrong, "temporary", &[OTHER]);
        let drop = "SELECT pg_drop_replication_slot('crieur');";
        check(|c| spoil_slot(c).wal_status = Some("lost".into()), Wrong, "is lost", &[drop, CREATE]);
        check(|c| spoil_slot(c).wal_status = Some("extended".into()), Note, "behind", &[]);
        check(|c| spoil_slot(c).active_pid = Some(7), Note, "pid 7", &[]);
        let older = "run crieur setup as a superuser, or have one run its --print";
        check(|c| c.server.triggers = 2, Note, "of another version", &[older]);
        check(|c| (c.server.triggers, c.server.triggers_found) = (0, 0), Note, "missing: DDL", &[older]);
        let standby = |name: &str, kind: Option<&str>, active, lost| WaitedFor {
            name: name.into(),
            kind: kind.map(str::to_owned),
            active,
            lost,
        };
        let used = standby("b", Some("physical"), true, Some(false));
        for (held, words) in [
            (standby("a", None, false, None), "slot \"a\" does not exist"),
            (standby("a", Some("logical"), true, Some(false)), "slot \"a\" is no physical slot"),
            (standby("a", Some("physical"), false, Some(true)), "slot \"a\" is lost"),
            (standby("a", Some("physical"), false, None), "slot \"a\" is used by no standby"),
        ] {
            let spoil = |c: &mut Catalog| {
                spoil_slot(c).failover = true;
                c.server.waited_for = vec![held, used.clone()];
            };
            let out = "start the standby that streams from it, or take its slot out of the setting:";
            let steps = [out, "ALTER SYSTEM SET synchronized_standby_slots = 'b';", "SELECT pg_reload_conf();"];
            check(spoil, Wrong, words, &steps);
        }
        check(|c| c.server.slot_keep_mb = 512, Note, "512 MB", &[]);
        check(|c| c.server.sender_timeout_ms = 0, Note, "client that is gone", &[]);
    }

    fn spoil_slot(catalog: &mut Catalog) -> &mut CatalogSlot {
        catalog.slot.as_mut().expect("the example has a slot")
    }

    #[test]
    fn a_running_daemon_needs_no_further_sender_and_a_slot_that_exists_no_further_slot() {
        let mut catalog = example::catalog();
        catalog.server.slots_used = 10;
        catalog.server.senders_used = 10;
        spoil_slot(&mut catalog).active_pid = Some(7);
        let found = prerequisites(&catalog, NAMES);
        assert!(found.iter().all(|finding| finding.verdict != Grade::Wrong), "{found:?}");
    }

    #[test]
    fn a_slot_survives_failover_where_the_server_can_do_it() {
        let mut server = example::catalog().server;
        server.version = 170_002;
        assert!(create_slot("it's", &server).ends_with("('it''s', 'pgoutput', failover => true);"));
    }

    #[test]
    fn poolers_are_known_by_their_address() {
        for (url, known) in [
            ("postgres://postgres.ref:p@aws-0-eu-west-3.pooler.supabase.com:5432/postgres", true),
            ("postgres://postgres:p@db.ref.supabase.co:6543/postgres", true),
            ("host=db.ref.supabase.co port=6543 user=postgres", true),
            ("postgres://postgres:p@db.ref.supabase.co:5432/postgres", false),
            ("postgres://127.0.0.1:5432/app", false),
        ] {
            assert_eq!(pooler(url).is_some(), known, "{url}");
        }
    }
}
