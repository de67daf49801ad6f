//! Two caches, one of which goes away and comes back with old values in it.

use std::time::Instant;

use crate::changes::Change;
use crate::harness::redis::{Data, Redis};
use crate::report::{Mark, milliseconds};
use crate::watch::{Keys, Watch, keys};
use crate::{Promise, Result, Trial};

/// What happens while one of them is away.
const AWAY: Change = Change {
    title: "dakar is killed, then a price changes in Mbour: the cache main loses its keys as before",
    rolled_back: None,
    committed: "UPDATE properties SET price = 91000000 WHERE id = 'a2000000-0000-4000-8000-000000000000'",
    goes: &[
        "properties:all_properties_public",
        "properties:city:Mbour",
        "properties:detail:a2000000-0000-4000-8000-000000000000",
    ],
    near: &["properties:city:Touba"],
};

const BACK: &str = "dakar comes back with the old values of its snapshot, and loses them alone";

impl Trial {
    /// The change while `dakar` is away, and what becomes of `dakar` when it is back.
    pub async fn two_caches(&mut self, client: &tokio_postgres::Client, dakar: &mut Redis) -> Result<()> {
        self.report.step("Two caches, one of which goes away and comes back");
        let goes = keys(AWAY.goes);
        let stays: Keys = &self.all - &goes;
        Watch::new(&dakar.url(), dakar.connection()).store(&self.all).await?;
        let _: () = dakar.ask(&["SAVE"]);
        dakar.kill();
        self.watch.store(&self.all).await?;
        client.batch_execute(AWAY.committed).await?;
        let (near, since) = (keys(AWAY.near), Instant::now());
        let promise =
            Promise { title: AWAY.title, goes: goes.clone(), near: near.clone(), since, moment: "after COMMIT" };
        self.judge(promise).await?;
        let since = Instant::now();
        dakar.restart(Data::Kept);
        let seen = Watch::new(&dakar.url(), dakar.connection()).gone(&goes, &self.all, since)?;
        let lost = &seen.went & &stays;
        if seen.after.is_none() {
            self.broken.push(format!("{BACK}: still there: {}", crate::list(&(&goes - &seen.went))));
        }
        if !lost.is_empty() {
            self.broken.push(format!("{BACK}: went and should have stayed: {}", crate::list(&lost)));
        }
        let mark = if seen.after.is_some() && lost.is_empty() { Mark::Kept } else { Mark::Broken };
        self.report.promise(mark, BACK);
        let after =
            seen.after.map_or("never all".to_owned(), |after| format!("{} after its start", milliseconds(after)));
        self.report.went(&seen.went, &after);
        self.report.stayed(&(&self.all - &seen.went), &near);
        // Behind its only echo a reader stores again what went: nothing may take it any more.
        self.watch.store(&goes).await?;
        Ok(())
    }
}
