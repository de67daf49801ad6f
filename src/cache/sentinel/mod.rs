//! Sentinels: who the primary is, asked at each connect and watched in between.
//!
//! A primary that was deposed may go on answering `+OK` for ten seconds; what it acknowledges meanwhile is lost. So
//! all Sentinels are asked at once, and the word of a majority counts (`verdict.rs`). Between connects their channel
//! `+switch-master` is a hint and a question each half heartbeat is the measure; when a majority names another primary, what
//! is under way at the old one is given up, and no mark is written there (`standing.rs`).

mod seat;
pub mod standing;
pub mod verdict;

use std::cell::RefCell;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::seat::SentinelSeat;
use self::standing::{Permit, PrimaryTurn, Standing};
use self::verdict::{SentinelSaid, SentinelVerdict, SentinelWord, majority, verdict};
use super::address::Address;
use super::forms::SentinelAddress;
use super::health::Health;
use super::link::CacheLink;
use super::place::{HostPort, NodeLogin};
use super::reply;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::failpoints::{Guard, without};
use crate::observe::{Id, log};
use crate::outage::{Outage, Say, span};
use crate::random;

/// How soon Sentinels that do not agree are asked again: they tell each other within a tenth of a second.
const AGREEMENT: Duration = Duration::from_millis(50);

/// The longest pause before the primary is looked for again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long those are waited for who answer behind a majority.
const MOMENT: Duration = Duration::from_millis(100);

/// How often the Sentinels are asked at least.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// For how long they are asked so soon.
const SOON_FOR: Duration = Duration::from_secs(3);

/// How long one Sentinel may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Whether whoever asks waits for those who answer late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// Until a majority has named a primary.
    Majority,
    /// And a moment longer, so that the connections to the others live on.
    Moment,
    /// Until each has answered, or has had its time.
    All,
}

/// What `crieur check` says of Sentinels.
#[derive(Debug)]
pub struct SentinelReport {
    /// What the primary is called.
    pub name: String,
    /// Each Sentinel, and what it said.
    pub said: Vec<(String, SentinelSaid)>,
    /// What they say together.
    pub verdict: SentinelVerdict,
}

impl SentinelReport {
    /// The words of those that answered.
    pub fn words(&self) -> impl Iterator<Item = &SentinelWord> {
        self.said.iter().filter_map(|(_, said)| match said {
            SentinelSaid::Word(word) => Some(word),
            SentinelSaid::NoSuchName(_) | SentinelSaid::Failed(_) => None,
        })
    }
}

/// The Sentinels of one primary.
pub(super) struct Sentinels {
    seats: Vec<SentinelSeat>,
    name: String,
    primary: NodeLogin,
    heartbeat: Duration,
    timeout: Duration,
    standing: RefCell<Standing>,
    /// Tells how often another primary was named.
    turned: watch::Sender<u64>,
    outage: RefCell<Outage>,
    health: Arc<Health>,
}

impl Sentinels {
    pub(super) fn new(address: SentinelAddress, heartbeat: Duration, timeout: Duration, health: Arc<Health>) -> Self {
        let SentinelAddress { sentinels, name, primary, sentinel } = address;
        let seat = |place: &HostPort| SentinelSeat::new(Address::of_node(&sentinel, "the Sentinel", place), timeout);
        Sentinels {
            seats: sentinels.iter().map(seat).collect(),
            name,
            primary,
            heartbeat,
            timeout,
            standing: RefCell::default(),
            turned: watch::Sender::default(),
            outage: RefCell::default(),
            health,
        }
    }

    /// For messages: what is followed, and where that was written.
    pub(super) fn server(&self) -> String {
        format!("the cache that Sentinels call \"{}\"{}", self.name, self.primary.written)
    }

    /// The user that logs in at the primary; `None` is `default`.
    pub(super) fn user(&self) -> Option<&str> {
        self.primary.user.as_deref()
    }

    /// How often another primary than before was named.
    pub(super) fn turns(&self) -> u64 {
        if without(Guard::Sentinels) {
            return 0;
        }
        self.standing.borrow().turns()
    }

    /// Resolves when another primary is named than after so many `turns`, by whoever asks meanwhile.
    pub(super) async fn turned(&self, turns: u64) {
        if without(Guard::Sentinels) {
            pending().await
        }
        let mut turned = self.turned.subscribe();
        // The sender lives as long as we do.
        if turned.wait_for(|now| *now != turns).await.is_err() {
            pending().await
        }
    }

    /// A connection to the primary, by the word that its Sentinels give now. Tried again with short pauses for as long as an
    /// answer may take: during a failover there is no primary for some seconds.
    pub(super) async fn connect(&self, open: impl AsyncFn(&Address) -> Result<CacheLink>) -> Result<CacheLink> {
        let (started, mut backoff) = (Instant::now(), Backoff::new(AGREEMENT, PAUSE_MAX));
        loop {
            let error = match self.attempt(&open).await {
                Err(error) if error.is_transient() => error,
                ended => return ended,
            };
            // Where nobody ever named a primary there is none to wait for.
            if started.elapsed() >= self.timeout || self.standing.borrow().named().is_none() {
                return Err(error);
            }
            sleep(backoff.next(random::fraction())).await;
        }
    }

    async fn attempt(&self, open: &impl AsyncFn(&Address) -> Result<CacheLink>) -> Result<CacheLink> {
        let said = self.ask(Wait::Majority).await;
        let (place, turns) = {
            let standing = self.standing.borrow();
            let Some(place) = standing.named() else { return Err(self.unnamed(&said)) };
            (place.clone(), standing.turns())
        };
        let address = Address::of_node(&self.primary, "the primary", &place);
        // A primary that hangs is left as soon as another is named.
        let opened = tokio::select! {
            opened = open(&address) => opened.map_err(|error| unreached(error, &place, &address)),
            () = self.until_turned(turns) => Err(another().at(&address.server)),
        };
        let mut link = opened?;
        if !link.is_primary().await? {
            return Err(reply::demoted().at(&address.server));
        }
        if self.turns() == turns { Ok(link) } else { Err(another().at(&address.server)) }
    }

    /// Asks until another primary is named.
    async fn until_turned(&self, turns: u64) {
        while self.turns() == turns {
            sleep(self.interval()).await;
            self.ask(Wait::Majority).await;
        }
    }

    /// Follows the Sentinels until another primary is named than after so many `turns`.
    pub(super) async fn watch(&self, turns: u64) {
        let mut hints: FuturesUnordered<_> = self.seats.iter().map(|seat| seat.hint(&self.name)).collect();
        // One Sentinel knows before the others do: they are asked again soon until they agree.
        let (mut soon_until, mut was_divided) = (Instant::now(), false);
        while self.turns() == turns {
            let asked = Instant::now();
            let is_soon = asked < soon_until;
            self.ask(if is_soon { Wait::Majority } else { Wait::Moment }).await;
            let is_divided = self.is_divided();
            if is_divided && !was_divided {
                soon_until = asked + SOON_FOR;
            }
            was_divided = is_divided;
            let next = if asked < soon_until { Instant::now() + AGREEMENT } else { asked + self.interval() };
            tokio::select! {
                () = sleep_until(next) => {}
                Some(seat) = hints.next() => {
                    hints.push(seat.hint(&self.name));
                    soon_until = Instant::now() + SOON_FOR;
                }
                () = self.turned(turns) => {}
            }
        }
    }

    /// How often they are asked: a word must not be older than a heartbeat when a mark is written.
    fn interval(&self) -> Duration {
        INTERVAL_MAX.min(self.heartbeat / 2)
    }

    fn is_divided(&self) -> bool {
        self.standing.borrow().is_divided()
    }

    /// Whether the primary that the present connections lead to may be given a mark: a look into memory while the last
    /// word is young. Sentinels that do not agree are asked until they do.
    pub(super) async fn permits_mark(&self) -> Result<()> {
        let started = Instant::now();
        if without(Guard::Sentinels) || self.standing.borrow().permit(started, self.heartbeat) == Permit::Given {
            return Ok(());
        }
        loop {
            self.ask(Wait::Majority).await;
            if !self.is_divided() {
                return Ok(()); // The word was given while we waited for it.
            }
            if started.elapsed() >= self.timeout {
                return Err(divided().at(&self.server()));
            }
            sleep(AGREEMENT).await;
        }
    }

    /// Asks all of them at once. What a majority says is taken as soon as it says so.
    async fn ask(&self, wait: Wait) -> Vec<(usize, SentinelSaid)> {
        let asked = Instant::now();
        let limit = self.timeout.min(ANSWER_MAX);
        let mut asking: FuturesUnordered<_> =
            self.seats.iter().enumerate().map(async |(at, seat)| (at, seat.ask(&self.name, limit).await)).collect();
        let mut said: Vec<(usize, SentinelSaid)> = Vec::with_capacity(self.seats.len());
        let mut last = asked + limit + MOMENT;
        while let Ok(Some(answer)) = timeout_at(last, asking.next()).await {
            said.push(answer);
            let found = verdict(said.iter().map(|(_, said)| said), self.seats.len());
            if matches!(found, SentinelVerdict::Named { .. }) {
                self.take(found, asked, &said);
                match wait {
                    Wait::Majority => return said,
                    Wait::Moment => last = last.min(Instant::now() + MOMENT),
                    Wait::All => {}
                }
            }
        }
        let found = verdict(said.iter().map(|(_, said)| said), self.seats.len());
        self.take(found, asked, &said);
        said
    }

    fn take(&self, verdict: SentinelVerdict, asked: Instant, said: &[(usize, SentinelSaid)]) {
        self.tell(&verdict, said);
        let turn = self.standing.borrow_mut().take(verdict, asked);
        let PrimaryTurn::Another(before) = turn else { return };
        let (now, epoch) = {
            let standing = self.standing.borrow();
            (standing.named().map(ToString::to_string).unwrap_or_default(), standing.epoch())
        };
        log!(
            Id::SentinelTurned,
            server = self.server(),
            epoch,
            "the Sentinels name another primary: {now}, and no longer {before}"
        );
        self.turned.send_replace(self.turns());
    }

    /// Says that they are silent, and that they are not any more.
    fn tell(&self, verdict: &SentinelVerdict, said: &[(usize, SentinelSaid)]) {
        let is_silent = *verdict == SentinelVerdict::Silent;
        self.health.note_sentinels(!is_silent);
        let mut outage = self.outage.borrow_mut();
        if !is_silent {
            if let Some(lasted) = outage.over(Instant::now()) {
                log!(Id::SentinelsAnswer, server = self.server(), after = span(lasted), "the Sentinels answer again");
            }
            return;
        }
        let what = self.silence(said);
        let hint = match self.standing.borrow().named() {
            Some(_) => {
                "Start the Sentinels, or correct their addresses. Deletes and marks go on at the primary that was named \
                 last: a failover needs a majority of these Sentinels."
            }
            None => {
                "Start the Sentinels, or correct in the address of this cache where they are and what they call the primary. \
                 Nothing is deleted before a majority of them has named a primary."
            }
        };
        match outage.failed(&what, Instant::now()) {
            Say::First => log!(Id::SentinelsSilent, hint, server = self.server(), "{what}"),
            Say::Still(_) => log!(Id::SentinelsSilent.lasting(), hint, server = self.server(), "{what}"),
            Say::Nothing => {}
        }
    }

    /// Why there is no word of a majority.
    fn silence(&self, said: &[(usize, SentinelSaid)]) -> String {
        let unknown = said.iter().filter(|(_, said)| matches!(said, SentinelSaid::NoSuchName(_))).count();
        if unknown >= majority(self.seats.len()) {
            return format!("the Sentinels know no primary \"{}\"", self.name);
        }
        let mut text = format!("fewer than a majority of {} Sentinels answer", self.seats.len());
        let mut sorted: Vec<_> = said.iter().collect();
        sorted.sort_by_key(|(at, _)| *at);
        for (at, said) in sorted {
            let server = self.seats[*at].server();
            match said {
                SentinelSaid::Failed(error) => text.push_str(&format!("; {}", error.chain())),
                SentinelSaid::NoSuchName(_) => {
                    text.push_str(&format!("; {server}: it knows no primary \"{}\"", self.name))
                }
                SentinelSaid::Word(word) if word.tilt => text.push_str(&format!("; {server}: its clock jumped (TILT)")),
                SentinelSaid::Word(_) => {}
            }
        }
        text
    }

    /// The error where no majority has ever named a primary.
    fn unnamed(&self, said: &[(usize, SentinelSaid)]) -> Error {
        let known = said.iter().find_map(|(_, said)| match said {
            SentinelSaid::NoSuchName(names) => Some(names.join(", ")),
            SentinelSaid::Word(_) | SentinelSaid::Failed(_) => None,
        });
        let words = said.iter().filter(|(_, said)| matches!(said, SentinelSaid::Word(_))).count();
        let all = self.seats.len();
        if words >= majority(all) && self.is_divided() {
            return divided().at(&self.server());
        }
        let error = Error::transient(self.silence(said)).at(&self.server());
        match (known, said.iter().find_map(|(_, said)| hint_of(said))) {
            (Some(names), _) if names.is_empty() => error.hint("The Sentinels watch no primary at all: SENTINEL MONITOR adds one."),
            (Some(names), _) => error.hint(format!(
                "The Sentinels know these names: {names}. Write one of them behind the hosts: redis+sentinel://host:port/NAME."
            )),
            (None, Some(hint)) => error.hint(hint),
            (None, None) => error.hint("Start the Sentinels, or correct their addresses."),
        }
    }

    /// What each says, for `crieur check`.
    pub(super) async fn report(&self) -> SentinelReport {
        let mut said = self.ask(Wait::All).await;
        said.sort_by_key(|(at, _)| *at);
        let verdict = verdict(said.iter().map(|(_, said)| said), self.seats.len());
        let said = said.into_iter().map(|(at, said)| (self.seats[at].server().to_owned(), said)).collect();
        SentinelReport { name: self.name.clone(), said, verdict }
    }
}

fn hint_of(said: &SentinelSaid) -> Option<&str> {
    match said {
        SentinelSaid::Failed(error) => error.hint.as_deref(),
        SentinelSaid::Word(_) | SentinelSaid::NoSuchName(_) => None,
    }
}

fn divided() -> Error {
    Error::transient("the Sentinels do not agree on which server is the primary").hint(
        "No mark is written meanwhile. SENTINEL MASTER at each of them tells; SENTINEL RESET mends one that is behind.",
    )
}

fn another() -> Error {
    Error::transient("the Sentinels named another primary meanwhile")
}

/// The primary cannot be reached where the Sentinels say that it is.
fn unreached(error: Error, place: &HostPort, address: &Address) -> Error {
    let is_connect = error.message.contains("cannot connect") || error.message.starts_with("no answer within");
    if !is_connect {
        return error;
    }
    error
        .hint(format!(
            "The Sentinels say that the primary is at {place}. Until they have chosen another one this may be so; if it lasts, \
             servers and Sentinels know each other by addresses that lead nowhere from here (Docker, NAT): map them, \
             nodes = {{ \"{place}\" = \"host:port\" }}, or let them announce an address that does (replica-announce-ip)."
        ))
        .at(&address.server)
}
