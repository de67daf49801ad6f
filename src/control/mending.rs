//! Writes that the server refuses because of what we published: seen while the stream runs, and mended where that is ours.
//!
//! A table that our publication sends needs a replica identity that pleases it and every other publication. A new partition
//! has none, an index can be dropped, a column can become a generated one. A write of the application that fails is worse
//! than any stale key, so the identity changes at once, to one that needs no index to be built. What belongs to somebody
//! else, another publication or another role's table, is only told. The looks that find nothing cost no connection.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::catalog::identity::{self, Ground, Indexes, PRIMARY_KEY, probes, wanted_by_all};
use crate::catalog::refusal::{Identity, Refusal, with_ours};
use crate::catalog::{Carrier, Catalog, Table};
use crate::control::{Named, Refused};
use crate::error::{Error, Result};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::rules::about::needs::TableNeeds;

/// How often relations that are refused are tried again, and relations that may be are judged again.
const AGAIN: Duration = Duration::from_secs(10);

/// Readers and writers of the table queue behind a waiting ALTER TABLE; it is tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '300ms'";

/// What was found at the last look.
#[derive(Debug, Default)]
struct Found {
    suspicion: Option<String>,
    judged: Option<Instant>,
    refused: Vec<Refused>,
}

/// Judges the relations that the server may refuse updates of.
#[derive(Debug)]
pub(crate) struct Mending {
    dsn: Dsn,
    limit: Duration,
    publication: String,
    needs: Vec<TableNeeds>,
    found: RefCell<Found>,
}

impl Mending {
    /// `needs` are those of the tables that the publication sends.
    pub(crate) fn new(dsn: Dsn, limit: Duration, publication: &str, needs: Vec<TableNeeds>) -> Self {
        Mending { dsn, limit, publication: publication.to_owned(), needs, found: RefCell::default() }
    }

    /// What the server refuses now, and what was mended in this look. `suspects` are tables of the rules; `suspicion` is
    /// another text when the reasons for it changed.
    pub(crate) async fn look(&self, suspects: &Named, suspicion: Option<&String>) -> Result<Vec<Refused>> {
        if suspects.is_empty() {
            self.found.take();
            return Ok(Vec::new());
        }
        {
            let found = self.found.borrow();
            if found.suspicion.as_ref() == suspicion && found.judged.is_some_and(|judged| judged.elapsed() < AGAIN) {
                return Ok(found.refused.clone());
            }
        }
        let session = Session::connect(&self.dsn, self.limit, "-c statement_timeout=5s").await?;
        let is_suspect = |need: &&TableNeeds| suspects.contains(&(need.schema.clone(), need.table.clone()));
        let needs: Vec<TableNeeds> = self.needs.iter().filter(is_suspect).cloned().collect();
        let catalog = Catalog::read(&session.client, &self.publication, "", &needs).await;
        // The stream goes on without this look; the next one comes.
        let catalog = catalog.map_err(|error| Error::transient(error.chain().to_string()))?;
        let refused = self.judge(&session.client, &catalog).await;
        let left = refused.iter().filter(|refused| !refused.is_mended).cloned().collect();
        *self.found.borrow_mut() = Found { suspicion: suspicion.cloned(), judged: Some(Instant::now()), refused: left };
        Ok(refused)
    }

    async fn judge(&self, client: &Client, catalog: &Catalog) -> Vec<Refused> {
        let mut out: Vec<Refused> = Vec::new();
        for carrier in catalog.tables.iter().flat_map(Table::stored) {
            let table = (carrier.schema.clone(), carrier.table.clone());
            let is_known = out.iter().any(|refused| refused.table == table);
            let Some((refusal, steps)) = decide(catalog, carrier, &self.needs, &self.publication).filter(|_| !is_known)
            else {
                continue;
            };
            let because = refusal.because();
            let (mend, is_mended) = match steps {
                Steps::Ours(steps) => (steps.join(" "), mended(client, &steps, carrier).await),
                Steps::Told(steps) => (steps.join(" "), false),
            };
            out.push(Refused { table, because, mend, is_mended });
        }
        out
    }
}

/// What mends a refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Steps {
    /// Statements that are ours to run.
    Ours(Vec<String>),
    /// Statements or words for somebody else.
    Told(Vec<String>),
}

/// Why the server refuses updates of a relation that our publication sends, and what mends that. Pure.
fn decide(catalog: &Catalog, carrier: &Carrier, needs: &[TableNeeds], ours: &str) -> Option<(Refusal, Steps)> {
    if !carrier.publications.iter().any(|sender| sender.name == ours) {
        return None;
    }
    let version = catalog.server.version;
    let standing = Ground { senders: &carrier.publications, version };
    let refusal = standing.refusal(carrier, &Identity::of(carrier))?;
    // As they will be: ours can send generated columns.
    let senders = with_ours(carrier, ours);
    let wanted = wanted_by_all(catalog, carrier, needs);
    let choice = identity::choose(carrier, &wanted, Ground { senders: &senders, version }, Indexes::AsTheyAre);
    let steps = identity::statements(carrier, &choice);
    if !steps.is_empty() {
        return Some((refusal, Steps::Ours(steps)));
    }
    let steps = match &refusal {
        Refusal::Unsent(publication, _) if publication == ours => Steps::Ours(refusal.mend()),
        Refusal::Missing | Refusal::Virtual(_) => Steps::Told(vec![PRIMARY_KEY.to_owned()]),
        Refusal::List(..) | Refusal::Filter(..) | Refusal::Unsent(..) => Steps::Told(refusal.mend()),
    };
    Some((refusal, steps))
}

/// Runs the statements; they stay only if the server takes updates behind them. A role that may not, a lock that is not
/// free: what stays refused is told as such, and tried again.
async fn mended(client: &Client, steps: &[String], carrier: &Carrier) -> bool {
    let transaction =
        format!("BEGIN READ WRITE; {LOCK_TIMEOUT}; {} {} COMMIT", steps.join(" "), probes(carrier).concat());
    let ran = client.batch_execute(&transaction).await;
    if ran.is_err() {
        let _ = client.batch_execute("ROLLBACK").await; // The next look says what is still refused.
    }
    ran.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Sender;
    use crate::cli::check::example;

    fn sender(name: &str, columns: Option<Vec<String>>) -> Sender {
        let entry = ("public".to_owned(), "t".to_owned());
        Sender { name: name.to_owned(), entry, columns, filter: Vec::new(), generated: "n".to_owned() }
    }

    fn decided(spoil: impl FnOnce(&mut Catalog)) -> Option<Steps> {
        let mut catalog = example::catalog();
        catalog.server.version = 180_000;
        catalog.tables[0].carriers[0].publications = vec![sender("crieur", None)];
        spoil(&mut catalog);
        let needs = [example::needs(&["city"])];
        decide(&catalog, &catalog.tables[0].carriers[0], &needs, "crieur").map(|(_, steps)| steps)
    }

    fn carrier(catalog: &mut Catalog) -> &mut Carrier {
        &mut catalog.tables[0].carriers[0]
    }

    #[test]
    fn only_what_is_ours_is_mended_and_only_where_writes_are_refused() {
        let full = || Some(Steps::Ours(vec!["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY FULL;".to_owned()]));
        let default = || Some(Steps::Ours(vec!["ALTER TABLE \"public\".\"t\" REPLICA IDENTITY DEFAULT;".to_owned()]));
        assert_eq!(decided(|_| ()), None, "an old value less is no refusal");
        assert_eq!(decided(|catalog| carrier(catalog).identity = "n".into()), full());
        assert_eq!(decided(|catalog| carrier(catalog).identity = "i".into()), full(), "its index was dropped");
        let generated = |catalog: &mut Catalog, kind: &str| {
            carrier(catalog).identity = "f".into();
            carrier(catalog).columns[2].generated = kind.into();
        };
        assert_eq!(decided(|catalog| generated(catalog, "v")), default());
        let send = "ALTER PUBLICATION \"crieur\" SET (publish_generated_columns = stored);";
        assert_eq!(decided(|catalog| generated(catalog, "s")), Some(Steps::Ours(vec![send.to_owned()])));
        let listed = |catalog: &mut Catalog, name: &str| {
            carrier(catalog).identity = "f".into();
            carrier(catalog).publications.push(sender(name, Some(vec!["id".into()])));
        };
        assert_eq!(decided(|catalog| listed(catalog, "other")), default());
        let keyless = |catalog: &mut Catalog| {
            listed(catalog, "other");
            carrier(catalog).indexes.clear();
        };
        assert!(matches!(decided(keyless), Some(Steps::Told(steps)) if steps[0].contains("\"other\" DROP TABLE")));
        let unpublished = |catalog: &mut Catalog| {
            carrier(catalog).identity = "n".into();
            carrier(catalog).publications = vec![sender("other", None)];
        };
        assert_eq!(decided(unpublished), None, "we have nothing to do with it");
    }
}
