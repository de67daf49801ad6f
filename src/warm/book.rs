//! Which pages are to be fetched again, and when: the decisions of warming. Pure.
//!
//! A page stands in the book once, however many keys and caches had it. It is *held* by each cache and sink that still
//! deletes: until the last echo of a key was answered, what is fetched would be deleted again, or worse, be stale. When
//! nobody holds a page any more and one of its keys existed when it was deleted, the page is queued. A newer change holds it
//! again, whether it is queued or out; what is out then may be stale, so it is fetched once more behind that change.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Pages that are held or wait; a page that comes besides is dropped.
pub const PAGES_MAX: usize = 10_000;
/// How often a page is asked for that its site wants to be asked for later.
pub const TRIES_MAX: u8 = 3;

/// What was done so far, and what waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WarmTally {
    /// Pages that were fetched.
    pub fetched: u64,
    /// Pages that were asked for and did not come as they should.
    pub failed: u64,
    /// Pages that were not asked for: too many, not to be told, or let go. One that several caches leave out counts for
    /// each.
    pub dropped: u64,
    /// Pages that are to be fetched.
    pub waiting: u64,
}

impl WarmTally {
    /// As Prometheus reads it.
    pub fn series(&self) -> String {
        let WarmTally { fetched, failed, dropped, waiting } = self;
        let pages = [("fetched", fetched), ("failed", failed), ("dropped", dropped)];
        let row = |(result, count): (&str, &u64)| format!("crieur_warm_pages_total{{result=\"{result}\"}} {count}\n");
        let rows: String = pages.into_iter().map(row).collect();
        format!(
            "# HELP crieur_warm_pages_total Pages that were fetched again behind the deletes of their keys, by what came of it.\n\
             # TYPE crieur_warm_pages_total counter\n{rows}\
             # HELP crieur_warm_waiting_pages Pages that are to be fetched again.\n\
             # TYPE crieur_warm_waiting_pages gauge\ncrieur_warm_waiting_pages {waiting}\n"
        )
    }
}

/// What became of a page that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageOutcome {
    /// It came.
    Fetched,
    /// It did not, and is not asked for again.
    Failed,
    /// The site wants to be asked later.
    Later,
}

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stand {
    /// Somebody holds it.
    Held,
    /// It waits for its turn, which is the one of this number.
    Queued(u64),
    /// It is being fetched.
    Out,
}

#[derive(Clone, Debug)]
struct Page {
    holds: u32,
    /// One of its keys was there when it was deleted.
    existed: bool,
    stand: Stand,
    tries: u8,
    /// The template of its address, for messages.
    template: Rc<str>,
}

/// All pages.
#[derive(Debug, Default)]
pub struct WarmBook {
    pages: HashMap<Rc<str>, Page>,
    queue: BTreeMap<u64, Rc<str>>,
    turns: u64,
    tally: WarmTally,
}

impl WarmBook {
    /// Somebody deletes a key of the page, and holds it; `None` where there are too many pages.
    pub fn hold(&mut self, url: &str, template: &Rc<str>) -> Option<Rc<str>> {
        if let Some((url, page)) = self.pages.get_key_value(url) {
            let url = Rc::clone(url);
            let out = page.stand == Stand::Out;
            let page = self.pages.get_mut(&url)?;
            page.holds += 1;
            // What is fetched now may hold the old row, and whoever stores it stores it behind the delete.
            page.existed |= out;
            if let Stand::Queued(turn) = page.stand {
                page.stand = Stand::Held;
                self.queue.remove(&turn);
            }
            return Some(url);
        }
        if self.pages.len() >= PAGES_MAX {
            self.tally.dropped += 1;
            return None;
        }
        let url: Rc<str> = Rc::from(url);
        let page = Page { holds: 1, existed: false, stand: Stand::Held, tries: 0, template: Rc::clone(template) };
        self.pages.insert(Rc::clone(&url), page);
        Some(url)
    }

    /// A key of the page was there when it was deleted.
    pub fn existed(&mut self, url: &str) {
        if let Some(page) = self.pages.get_mut(url) {
            page.existed = true;
        }
    }

    /// Somebody who held the page has its last answer.
    pub fn answered(&mut self, url: &str) {
        let Some(page) = self.pages.get_mut(url) else { return };
        page.holds = page.holds.saturating_sub(1);
        if page.holds == 0 && page.stand == Stand::Held {
            self.settle(url);
        }
    }

    /// Somebody who held the page will have no answer: whatever was deleted comes again, or nobody knows.
    pub fn given_up(&mut self, url: &str) {
        if let Some(page) = self.pages.get_mut(url)
            && std::mem::take(&mut page.existed)
        {
            self.tally.dropped += 1;
        }
        self.answered(url);
    }

    /// Nobody holds it.
    fn settle(&mut self, url: &str) {
        let Some((url, page)) = self.pages.get_key_value(url) else { return };
        let (url, existed) = (Rc::clone(url), page.existed);
        if !existed {
            self.pages.remove(&url);
            return;
        }
        self.turns += 1;
        self.queue.insert(self.turns, Rc::clone(&url));
        if let Some(page) = self.pages.get_mut(&url) {
            page.stand = Stand::Queued(self.turns);
        }
    }

    /// Whether a page waits for nothing but its turn.
    pub fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next page, with the template of its address; it is out until [`came`](Self::came).
    pub fn take(&mut self) -> Option<(Rc<str>, Rc<str>)> {
        let (_, url) = self.queue.pop_first()?;
        let page = self.pages.get_mut(&url)?;
        (page.stand, page.existed) = (Stand::Out, false);
        page.tries += 1;
        Some((Rc::clone(&url), Rc::clone(&page.template)))
    }

    /// A page that was out came, or did not.
    pub fn came(&mut self, url: &str, outcome: PageOutcome) {
        let Some(page) = self.pages.get_mut(url) else { return };
        page.stand = Stand::Held;
        let outcome =
            if outcome == PageOutcome::Later && page.tries >= TRIES_MAX { PageOutcome::Failed } else { outcome };
        match outcome {
            PageOutcome::Fetched => self.tally.fetched += 1,
            PageOutcome::Failed => self.tally.failed += 1,
            PageOutcome::Later => page.existed = true,
        }
        if outcome != PageOutcome::Later {
            page.tries = 0;
        }
        if page.holds == 0 {
            self.settle(url);
        }
    }

    /// Pages that were never noted.
    pub fn dropped(&mut self, pages: u64) {
        self.tally.dropped += pages;
    }

    /// Forgets what is to be fetched: other addresses are in force. What is out is not asked for again.
    pub fn forget(&mut self) {
        for url in std::mem::take(&mut self.queue).into_values() {
            self.pages.remove(&url);
            self.tally.dropped += 1;
        }
        for page in self.pages.values_mut() {
            self.tally.dropped += u64::from(std::mem::take(&mut page.existed));
            if page.stand == Stand::Out {
                page.tries = TRIES_MAX;
            }
        }
    }

    /// The counts so far.
    pub fn tally(&self) -> WarmTally {
        let waiting = self.pages.values().filter(|page| page.existed || page.stand == Stand::Out).count();
        WarmTally { waiting: waiting as u64, ..self.tally }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a list of words makes of the page `p`: what is queued behind each of them.
    fn told(words: &str) -> (Vec<bool>, WarmTally) {
        let (mut book, template) = (WarmBook::default(), Rc::from("t"));
        let mut queued = Vec::new();
        for word in words.split_whitespace() {
            match word {
                "hold" => _ = book.hold("p", &template),
                "existed" => book.existed("p"),
                "answered" => book.answered("p"),
                "lost" => book.given_up("p"),
                "take" => assert!(book.take().is_some(), "{words}"),
                "fetched" => book.came("p", PageOutcome::Fetched),
                "failed" => book.came("p", PageOutcome::Failed),
                "later" => book.came("p", PageOutcome::Later),
                "forget" => book.forget(),
                other => panic!("{other}"),
            }
            queued.push(book.has_next());
        }
        (queued, book.tally())
    }

    fn queued(words: &str) -> bool {
        told(words).0.last().copied().unwrap_or_default()
    }

    #[test]
    fn a_page_is_fetched_when_it_existed_and_nobody_holds_it() {
        for (words, expected) in [
            ("hold answered", false),
            ("hold existed", false),
            ("hold existed answered", true),
            // Two caches: it waits for both, and one that had it is enough.
            ("hold hold existed answered", false),
            ("hold hold existed answered answered", true),
            ("hold hold answered existed answered", true),
            // A newer change while it is held, and while it waits for its turn.
            ("hold existed hold answered", false),
            ("hold existed hold answered answered", true),
            ("hold existed answered hold", false),
            ("hold existed answered hold answered", true),
            // What came while it was out: once more, behind the newer change.
            ("hold existed answered take hold", false),
            ("hold existed answered take hold fetched", false),
            ("hold existed answered take hold fetched answered", true),
            ("hold existed answered take hold answered", false),
            ("hold existed answered take hold answered fetched", true),
            ("hold existed answered take fetched", false),
            ("hold existed answered take failed", false),
            ("hold existed answered take later", true),
            ("hold existed answered take later take later take later", false),
            // Whoever held it will never know.
            ("hold existed lost", false),
            ("hold hold existed lost answered", false),
            ("hold existed lost hold existed answered", true),
            ("hold existed answered forget", false),
            ("hold existed forget answered", false),
            ("hold existed answered take forget later", false),
            ("hold existed forget hold existed answered answered", true),
        ] {
            assert_eq!(queued(words), expected, "{words}");
        }
    }

    #[test]
    fn everything_is_counted_once_and_nothing_is_left_behind() {
        let of = |words: &str| told(words).1;
        let tally = |fetched, failed, dropped, waiting| WarmTally { fetched, failed, dropped, waiting };
        assert_eq!(of("hold existed"), tally(0, 0, 0, 1));
        assert_eq!(of("hold answered"), tally(0, 0, 0, 0));
        assert_eq!(of("hold existed answered take"), tally(0, 0, 0, 1));
        assert_eq!(of("hold existed answered take hold fetched answered take fetched"), tally(2, 0, 0, 0));
        assert_eq!(of("hold existed answered take later take later take later"), tally(0, 1, 0, 0));
        assert_eq!(of("hold hold existed lost lost"), tally(0, 0, 1, 0));
        assert_eq!(of("hold existed answered forget"), tally(0, 0, 1, 0));
    }

    #[test]
    fn pages_past_the_bound_are_dropped_and_those_that_are_known_are_not() {
        let (mut book, template) = (WarmBook::default(), Rc::from("t"));
        (0..PAGES_MAX).for_each(|page| assert!(book.hold(&page.to_string(), &template).is_some()));
        assert!(book.hold("more", &template).is_none() && book.hold("7", &template).is_some());
        assert_eq!(book.tally().dropped, 1);
        book.answered("8");
        assert!(book.hold("more", &template).is_some());
    }

    #[test]
    fn pages_leave_in_the_order_in_which_they_were_ready() {
        let (mut book, template) = (WarmBook::default(), Rc::from("t"));
        for page in ["a", "b", "c"] {
            book.hold(page, &template);
            book.existed(page);
        }
        ["b", "c", "a"].iter().for_each(|page| book.answered(page));
        book.hold("b", &template);
        book.answered("b");
        let order: Vec<Rc<str>> = std::iter::from_fn(|| book.take()).map(|(url, _)| url).collect();
        assert_eq!(order.iter().map(|url| &**url).collect::<Vec<_>>(), ["c", "a", "b"]);
    }
}
