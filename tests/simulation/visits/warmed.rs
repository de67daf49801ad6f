//! The rules of the strategy with the addresses of its pages, and who fetches these pages again.

use std::future::poll_fn;
use std::rc::Rc;

use crieur::config::rules_of_file;
use crieur::rules::Rules;
use crieur::warm::pace::{PagePace, PageTurn};
use crieur::warm::{PageOutcome, Warming};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::server::WAY;
use super::{MINUTE, Site};

/// The rules of `systemd/dousell.rules.toml`, one for each page. No page is fetched for a key of a lookup.
const RULES: &str = r#"
[[rules]]
table = "public.properties"
namespace = "properties"
keys = ["all_properties_public"]
warm = "https://site/tout"

[[rules]]
table = "public.properties"
namespace = "properties"
keys = ["detail:{id}"]
warm = "https://site/biens/{id}"

[[rules]]
table = "public.properties"
namespace = "properties"
keys = ["city:{city}"]
warm = "https://site/ville/{city}"

[[rules]]
table = "public.rental_payments"
keys = ["payments:lease:{lease_id}"]
warm = "https://site/baux/{lease_id}"

[[rules]]
table = "public.rental_payments"
keys = ["dashboard:{owner.owner_id}"]
lookup.owner = { sql = "select p.owner_id from leases l join properties p on p.id = l.property_id where l.id = $1", args = ["lease_id"], tables = ["public.leases", "public.properties"] }

[[rules]]
table = "public.visit_bookings"
keys = ["available_slots:{property_id}"]
warm = "https://site/visites/{property_id}"
"#;

/// `limits.warm_rate`, by default.
const PER_MINUTE: u64 = 60;

pub fn rules() -> Rules {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("rules.toml");
    std::fs::write(&file, RULES).expect("written");
    rules_of_file(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Fetches pages as long as the site stands.
pub async fn fetch(site: Rc<Site>, warming: Warming) {
    let (mut pace, came) = (PagePace::new(PER_MINUTE), Rc::new(Notify::new()));
    let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
    loop {
        poll_fn(|cx| warming.poll_next(0, cx)).await;
        while let Ok(at) = answers.try_recv() {
            pace.answered(at);
        }
        match pace.turn(Instant::now()) {
            PageTurn::At(then) => sleep_until(then).await,
            PageTurn::Behind => came.notified().await,
            PageTurn::Now => {
                let Some((url, _)) = warming.take() else { continue };
                pace.leaves();
                let (site, warming, came, done) = (Rc::clone(&site), warming.clone(), Rc::clone(&came), done.clone());
                tokio::task::spawn_local(async move {
                    site.page(&url).await;
                    warming.came(&url, PageOutcome::Fetched);
                    let _ = done.send(Instant::now());
                    came.notify_one();
                });
            }
        }
    }
}

impl Site {
    /// The page at this address is made for crieur.
    async fn page(&self, url: &str) {
        let path = url.strip_prefix("https://site/").expect("an address of the site");
        let (kind, id) = path.split_once('/').unwrap_or((path, ""));
        let (key, minutes) = match kind {
            "tout" => ("properties:all_properties_public".to_owned(), 5),
            "biens" => (format!("properties:detail:{id}"), 60),
            "ville" => (format!("properties:city:{id}"), 10),
            "baux" => (format!("payments:lease:{id}"), 30),
            "visites" => (format!("available_slots:{id}"), 2),
            other => panic!("the rules have no page {other}"),
        };
        self.count(|counts| counts.warmed += 1);
        sleep(WAY).await;
        if !matches!(self.look(&key), Some(Ok(_))) {
            self.fill(&key, minutes * MINUTE).await;
        }
    }
}
