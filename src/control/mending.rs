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
use tokio_postgres::error::SqlState;

use crate::catalog::identity::{self, Ground, Indexes, PRIMARY_KEY, probes, wanted_by_all};
use crate::catalog::refusal::{Refusal, RowIdentity, with_ours};
use crate::catalog::{Carrier, Catalog, Table};
use crate::control::{Named, Refused};
use crate::error::{Error, Result};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::rules::about::needs::TableNeeds;

/// How soon relations that are refused are tried again, and relations that may be are judged again.
const AGAIN: Duration = Duration::from_secs(10);

/// How late at the latest, where each try is in vain: each one locks tables for a moment, and the application's writes
/// fail for so long behind the end of what kept us from it.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Readers and writers of the table queue behind a waiting ALTER TABLE; it is tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '300ms'";

/// What was found at the last look.
#[derive(Debug, Default)]
struct Found {
    suspicion: Option<String>,
    judged: Option<Instant>,
    /// Not before this time has passed since, unless the suspicion changes.
    pause: Duration,
    /// The relation at which the last round ended, because somebody holds it.
    held: Option<(String, String)>,
    refused: Vec<Refused>,
}

/// Judges the relations that the server may refuse updates of.
#[derive(Debug)]
pub(crate) struct Mending {
    dsn: Dsn,
    limit: Duration,
    publication: String,
    needs: Vec<TableNeeds>,
    /// Nothing can be altered on this server.
    is_only_told: bool,
    found: RefCell<Found>,
}

impl Mending {
    /// `needs` are those of the tables that the publication sends.
    pub(crate) fn new(dsn: Dsn, limit: Duration, publication: &str, needs: Vec<TableNeeds>) -> Self {
        let publication = publication.to_owned();
        Mending { dsn, limit, publication, needs, is_only_told: false, found: RefCell::default() }
    }

    /// On a standby: the tables are its primary's.
    #[must_use]
    pub(crate) fn only_told(mut self) -> Self {
        self.is_only_told = true;
        self
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
            if found.suspicion.as_ref() == suspicion
                && found.judged.is_some_and(|judged| judged.elapsed() < found.pause)
            {
                return Ok(found.refused.clone());
            }
        }
        let session = Session::connect(&self.dsn, self.limit, "-c statement_timeout=5s").await?;
        let is_suspect = |need: &&TableNeeds| suspects.contains(&(need.schema.clone(), need.table.clone()));
        let needs: Vec<TableNeeds> = self.needs.iter().filter(is_suspect).cloned().collect();
        let catalog = Catalog::read(&session.client, &self.publication, "", &needs).await;
        // The stream goes on without this look; the next one comes.
        let catalog = catalog.map_err(|error| Error::transient(error.chain().to_string()))?;
        let held = self.found.borrow().held.clone();
        let (refused, held) = self.judge(&session.client, &catalog, held.as_ref()).await;
        let left: Vec<Refused> = refused.iter().filter(|refused| !refused.is_mended).cloned().collect();
        let mut found = self.found.borrow_mut();
        let is_in_vain = found.suspicion.as_ref() == suspicion && !left.is_empty() && left.len() == refused.len();
        let pause = pause(found.pause, is_in_vain);
        *found = Found { suspicion: suspicion.cloned(), judged: Some(Instant::now()), pause, held, refused: left };
        Ok(refused)
    }

    /// What is refused now, and the relation that somebody holds. Writers queue behind a lock that waits: one wait is
    /// enough for a round, and the next one begins behind that relation.
    async fn judge(
        &self,
        client: &Client,
        catalog: &Catalog,
        held: Option<&(String, String)>,
    ) -> (Vec<Refused>, Option<(String, String)>) {
        let name = |carrier: &Carrier| (carrier.schema.clone(), carrier.table.clone());
        let mut carriers: Vec<&Carrier> = catalog.tables.iter().flat_map(Table::stored).collect();
        begin_behind(&mut carriers, |carrier| held.is_some_and(|held| *held == name(carrier)));
        let mut out: Vec<Refused> = Vec::new();
        let mut now_held = None;
        for carrier in carriers {
            let table = name(carrier);
            let is_known = out.iter().any(|refused| refused.table == table);
            let Some((refusal, steps)) = decide(catalog, carrier, &self.needs, &self.publication).filter(|_| !is_known)
            else {
                continue;
            };
            let because = refusal.because();
            let (mend, is_mended) = match steps {
                Steps::Ours(steps) if self.is_only_told => (format!("On the primary: {}", steps.join(" ")), false),
                Steps::Ours(steps) if now_held.is_some() => (steps.join(" "), false),
                Steps::Ours(steps) => {
                    let end = mended(client, &steps, carrier).await;
                    now_held = (end == End::NotFree).then(|| table.clone());
                    (steps.join(" "), end == End::Mended)
                }
                Steps::Told(steps) => (steps.join(" "), false),
            };
            out.push(Refused { table, because, mend, is_mended });
        }
        (out, now_held)
    }
}

/// Turns a circle of things so that the one that is meant is the last.
fn begin_behind<T>(circle: &mut [T], is_meant: impl FnMut(&T) -> bool) {
    if let Some(at) = circle.iter().position(is_meant) {
        circle.rotate_left(at + 1);
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
    let refusal = standing.refusal(carrier, &RowIdentity::of(carrier))?;
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

/// The time to the next try behind one that began `last` after the one before it.
fn pause(last: Duration, is_in_vain: bool) -> Duration {
    if is_in_vain { (last * 2).clamp(AGAIN, AGAIN_MAX) } else { AGAIN }
}

/// How statements that mend a relation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Mended,
    /// Somebody holds the relation.
    NotFree,
    Refused,
}

/// Runs the statements; they stay only if the server takes updates behind them. A role that may not, a lock that is not
/// free: what stays refused is told as such, and tried again.
async fn mended(client: &Client, steps: &[String], carrier: &Carrier) -> End {
    let transaction =
        format!("BEGIN READ WRITE; {LOCK_TIMEOUT}; {} {} COMMIT", steps.join(" "), probes(carrier).concat());
    let Err(error) = client.batch_execute(&transaction).await else { return End::Mended };
    let _ = client.batch_execute("ROLLBACK").await; // The next look says what is still refused.
    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) { End::NotFree } else { End::Refused }
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

    #[test]
    fn tries_in_vain_come_ever_more_rarely() {
        let mut last = Duration::ZERO;
        let seconds = [true, true, true, true, true, false, true].map(|is_in_vain| {
            last = pause(last, is_in_vain);
            last.as_secs()
        });
        assert_eq!(seconds, [10, 20, 40, 60, 60, 10, 20]);
    }

    #[test]
    fn a_round_begins_behind_the_relation_that_was_held() {
        for (held, expected) in
            [("a", ["b", "c", "a"]), ("b", ["c", "a", "b"]), ("c", ["a", "b", "c"]), ("d", ["a", "b", "c"])]
        {
            let mut circle = ["a", "b", "c"];
            begin_behind(&mut circle, |name| *name == held);
            assert_eq!(circle, expected, "{held}");
        }
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
