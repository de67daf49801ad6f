//! What stands in the way of `crieur setup`: what its plan would leave wrong, and what another role would have to do. Pure.
//!
//! The plan is carried out on the catalog's value, and the result is checked as `check` checks a server.

use crate::catalog::identity::{self, Choice};
use crate::catalog::{Catalog, Publication};
use crate::cli::check;
use crate::cli::check::server::ServerNames;
use crate::cli::finding::{Finding, wrong};
use crate::cli::setup::plan::{Slotting, choices, publishes_generated, publishing, ready};
use crate::postgres::quote;
use crate::rules::about::needs::TableNeeds;

/// The catalog as the plan leaves it: what is wrong in it then, the plan does not mend.
fn planned(catalog: &Catalog, needs: &[TableNeeds], names: ServerNames<'_>, slotting: Slotting) -> Catalog {
    let mut after = catalog.clone();
    let chosen = choices(catalog, needs, names.publication);
    for carrier in after.tables.iter_mut().flat_map(|table| &mut table.carriers) {
        if let Some((_, choice)) = chosen.get(&carrier.quoted()) {
            identity::apply(carrier, choice);
        }
        carrier.published |= chosen.contains_key(&carrier.quoted());
        carrier.publications.retain(|sender| sender.name != names.publication);
    }
    let fresh = Publication::of(&catalog.role.name);
    let found = after.publication.unwrap_or(fresh);
    let is_sent = publishes_generated(catalog, &ready(catalog, needs)) || found.generated == "s";
    let generated = if is_sent { "s" } else { "n" }.to_owned();
    let all = Publication { insert: true, update: true, delete: true, truncate: true, via_root: false, ..found };
    after.publication = Some(Publication { generated, ..all });
    for table in &mut after.tables {
        table.root_published |= table.kind == "p" && table.is_replicable();
    }
    // A slot that is lost is made anew by the daemon. One that is there needs nobody who may make it.
    if let Some(slot) = &mut after.slot {
        (slot.wal_status, slot.invalidation) = (None, None);
    }
    after.role.replication |= slotting == Slotting::Left || after.slot.is_some();
    after
}

/// What stands in the way of the plan: nothing is begun while there is something.
pub fn obstacles(catalog: &Catalog, needs: &[TableNeeds], names: ServerNames<'_>, slotting: Slotting) -> Vec<Finding> {
    let after = planned(catalog, needs, names, slotting);
    let mut out = wrong(check::of_catalog(&after, needs, names));
    // The plan makes it, or the daemon.
    out.retain(|finding| finding.subject != "slot" || after.slot.is_some());
    if let Some(finding) = out.iter_mut().find(|finding| finding.subject == "role") {
        finding.mend.push(
            "or run crieur setup --without-slot: crieur makes its slot at its start, if its own role may".to_owned(),
        );
    }
    out.extend(foreign(catalog, needs, names));
    out
}

/// What belongs to another role, whose statements would be refused.
fn foreign(catalog: &Catalog, needs: &[TableNeeds], names: ServerNames<'_>) -> Vec<Finding> {
    let me = &catalog.role.name;
    let hand_over = |finding: Finding, owner: &str| {
        let role = quote::identifier(owner);
        finding.mend(format!("run crieur setup as {role}, or have {role} run the output of crieur setup --print"))
    };
    let mut out = Vec::new();
    let chosen = choices(catalog, needs, names.publication);
    let changes = |choice: &Choice| !matches!(choice, Choice::Keep | Choice::Impossible(_));
    for (carrier, choice) in chosen.values() {
        if !carrier.owned && (changes(choice) || !carrier.published) {
            let subject = format!("table {}.{}", carrier.schema, carrier.table);
            let seen =
                format!("belongs to \"{}\": only that role may publish it and change it, not \"{me}\"", carrier.owner);
            out.push(hand_over(Finding::wrong(subject, seen), &carrier.owner));
        }
    }
    let touches = !publishing(catalog, &ready(catalog, needs), names.publication).is_empty();
    match &catalog.publication {
        Some(found) if touches && !found.owned => {
            let seen = format!("\"{}\" belongs to \"{}\": \"{me}\" may not alter it", names.publication, found.owner);
            out.push(hand_over(Finding::wrong("publication", seen), &found.owner));
        }
        None if touches && !catalog.role.may_create => {
            let (role, database) = (quote::identifier(me), quote::identifier(&catalog.server.database));
            let seen = format!("\"{me}\" may not make one: that takes CREATE on the database");
            let grant = format!("GRANT CREATE ON DATABASE {database} TO {role};");
            let hand_over = "or have a role that may run the output of crieur setup --print";
            out.push(Finding::wrong("publication", seen).mend(grant).mend(hand_over));
        }
        Some(_) | None => {}
    }
    out
}
