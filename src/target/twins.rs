//! Two caches of the configuration that lead to one database: their marks would fight, so the daemon refuses them.
//!
//! A cache is admitted when it answers, ahead of its first mark. A server that says who it is is known by that; where one
//! of two does not, a note that is left by one of them and found by the other tells.

use std::cell::RefCell;
use std::rc::Rc;

use crate::cache::Cache;
use crate::error::{Error, Exit, Result};
use crate::observe::speaker::CacheName;
use crate::random;

/// A cache that answered.
struct Known<C> {
    name: CacheName,
    cache: Rc<C>,
    place: Option<String>,
}

impl<C> Clone for Known<C> {
    fn clone(&self) -> Self {
        let Known { name, cache, place } = self;
        Known { name: CacheName::clone(name), cache: Rc::clone(cache), place: place.clone() }
    }
}

/// The caches that answered so far.
pub struct Twins<C>(RefCell<Vec<Known<C>>>);

impl<C> Default for Twins<C> {
    fn default() -> Self {
        Twins(RefCell::default())
    }
}

impl<C> std::fmt::Debug for Twins<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Twins")
    }
}

impl<C: Cache> Twins<C> {
    /// Admits a cache that answers.
    ///
    /// # Errors
    ///
    /// Definite where it is the database of another one.
    pub async fn admit(&self, name: &CacheName, cache: &Rc<C>) -> Result<()> {
        let (name, cache) = (CacheName::clone(name), Rc::clone(cache));
        let known = Known { place: cache.whereabouts().await?, name, cache };
        // Known before it is compared: of two that come at once, the later one finds the earlier.
        let others: Vec<Known<C>> = {
            let mut all = self.0.borrow_mut();
            all.retain(|other| other.name != known.name);
            let others = all.clone();
            all.push(known.clone());
            others
        };
        for other in others {
            if known.is(&other).await {
                let [one, two] = [&other, &known].map(|known| format!("{} ({})", known.name, known.cache.name()));
                let (what, hint) = match known.cache.is_part() {
                    true => ("one cluster", "Remove one of the two, or let it lead to another cluster."),
                    false => (
                        "one database of one server",
                        "Remove one of the two, or let it lead to another server or database number.",
                    ),
                };
                let message = format!("the caches {one} and {two} are {what}");
                return Err(Error::definite(Exit::Config, message).hint(hint));
            }
        }
        Ok(())
    }
}

impl<C: Cache> Known<C> {
    /// Whether both are one database.
    async fn is(&self, other: &Known<C>) -> bool {
        if let (Some(one), Some(two)) = (&self.place, &other.place) {
            return one == two;
        }
        let note = random::text();
        // A cache that takes no note, or is away now, cannot be told from others.
        let is_left = self.cache.leave_note(&note).await.is_ok();
        is_left && other.cache.find_note().await.is_ok_and(|found| found.as_deref() == Some(note.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::continuity::Lineage;
    use crate::cache::{Deleted, Swap, Swept};
    use crate::keys::KeySet;

    type Shared = Rc<RefCell<Option<String>>>;

    /// A cache that says where it is, or not, and keeps notes in a database.
    struct Noted(Option<&'static str>, Shared);

    impl Cache for Noted {
        async fn delete(&self, _: &[&KeySet]) -> Result<Deleted> {
            Ok(Deleted::default())
        }
        async fn sweep(&self, _: &KeySet) -> Result<Swept> {
            Ok(Swept::default())
        }
        async fn try_out(&self, _: &str, _: &[Vec<u8>]) -> Result<()> {
            Ok(())
        }
        async fn mark(&self, _: &str) -> Result<(Option<Vec<u8>>, Lineage)> {
            Ok((None, Lineage::default()))
        }
        async fn swap_mark(&self, _: &str, _: &[Option<Vec<u8>>], _: &[u8], _: &KeySet) -> Result<Swap> {
            Ok(Swap::Written)
        }
        fn lineage(&self) -> Lineage {
            Lineage::default()
        }
        async fn whereabouts(&self) -> Result<Option<String>> {
            Ok(self.0.map(str::to_owned))
        }
        async fn leave_note(&self, note: &str) -> Result<()> {
            *self.1.borrow_mut() = Some(note.to_owned());
            Ok(())
        }
        async fn find_note(&self) -> Result<Option<Vec<u8>>> {
            Ok(self.1.borrow().clone().map(String::into_bytes))
        }
    }

    #[tokio::test]
    async fn one_database_is_found_by_its_name_and_else_by_a_note() {
        let databases = [Shared::default(), Shared::default()];
        for (one, two, is_refused) in [
            ((Some("a#0"), 0), (Some("a#0"), 0), true),
            ((Some("a#0"), 0), (Some("a#1"), 1), false),
            ((Some("a#0"), 0), (Some("b#0"), 1), false),
            ((None, 0), (Some("a#0"), 0), true),
            ((None, 0), (None, 0), true),
            ((None, 0), (None, 1), false),
            ((None, 0), (Some("a#0"), 1), false),
        ] {
            let twins = Twins::default();
            let cache = |(name, database): (_, usize)| Rc::new(Noted(name, Rc::clone(&databases[database])));
            let (main, dakar) = (CacheName::from("main"), CacheName::from("dakar"));
            twins.admit(&main, &cache(one)).await.expect("it is the only one");
            twins.admit(&main, &cache(one)).await.expect("it is the same one again");
            let admitted = twins.admit(&dakar, &cache(two)).await;
            assert_eq!(admitted.is_err(), is_refused, "{one:?} {two:?}");
            if let Err(error) = admitted {
                assert_eq!(error.exit(), Exit::Config);
                assert!(error.message.contains("main") && error.message.contains("dakar"), "{}", error.message);
            }
        }
    }
}
