//! Locks: taken by a script, renewed in the background, released by token. They fail closed: without an answer nobody
//! works.
//!
//! What a lock of a cache cannot promise stands in the README: a payment needs a constraint of the database besides.

mod held;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use held::{Lock, Lost};

use crate::lease::GIVE_BACK;
use crate::store::{Reply, Store, StoreError};

/// Takes a lock, or says for how long another's stands.
const TAKE: &str = include_str!("../../lua/lock-take.lua");
/// Renews a lock that is still one's own.
const RENEW: &str = include_str!("../../lua/lock-renew.lua");

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How a lock is taken and held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockOptions {
    expires: Duration,
    attempts: u32,
    delay: Duration,
    renew: bool,
    most: Duration,
}

impl Default for LockOptions {
    fn default() -> LockOptions {
        LockOptions::secs(10)
    }
}

impl LockOptions {
    /// The key stands so long without a renewal.
    pub fn secs(seconds: u64) -> LockOptions {
        LockOptions::expires(Duration::from_secs(seconds))
    }

    /// The same.
    pub fn expires(expires: Duration) -> LockOptions {
        let (delay, most) = (Duration::from_millis(200), Duration::from_secs(300));
        LockOptions { expires, attempts: 1, delay, renew: true, most }
    }

    /// Attempts in all; 1, the default, does not wait.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> LockOptions {
        LockOptions { attempts, ..self }
    }

    /// The first pause between attempts, at most; 200 ms unless said.
    #[must_use]
    pub fn delay(self, delay: Duration) -> LockOptions {
        LockOptions { delay, ..self }
    }

    /// Whether the lock renews itself. It does unless said.
    #[must_use]
    pub fn renew(self, renew: bool) -> LockOptions {
        LockOptions { renew, ..self }
    }

    /// The whole holding, renewals included; 300 s unless said.
    #[must_use]
    pub fn most(self, most: Duration) -> LockOptions {
        LockOptions { most, ..self }
    }
}

/// Why there is no lock, or no success.
#[derive(Debug)]
pub enum LockError<V = (), E = StoreError> {
    /// Somebody else has the lock.
    Busy,
    /// Nobody knows who has the lock. The work did not run.
    Unavailable(StoreError),
    /// The lock was lost before the work ended: somebody else may have worked meanwhile. What the work made is here.
    Lost(Result<V, E>),
    /// The work failed under the lock.
    Failed(E),
}

impl<V, E: fmt::Display> fmt::Display for LockError<V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Busy => f.write_str("somebody else has the lock"),
            LockError::Unavailable(error) => write!(f, "nobody knows who has the lock: {error}"),
            LockError::Lost(_) => f.write_str("the lock was lost before the work ended"),
            LockError::Failed(error) => error.fmt(f),
        }
    }
}

impl<V: fmt::Debug, E: Error> Error for LockError<V, E> {}

/// What was done under a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done<V> {
    /// What the work made.
    pub value: V,
    /// The fence of the lock.
    pub fence: u64,
}

/// What locks report. Displayed, it is a line of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LockEvent<'a> {
    /// We have it.
    Acquired {
        /// Without the prefix.
        name: &'a str,
        /// How long it stands without a renewal.
        expires: Duration,
    },
    /// We gave it back.
    Released {
        /// Without the prefix.
        name: &'a str,
    },
    /// It ended before we gave it back.
    Lost {
        /// Without the prefix.
        name: &'a str,
    },
    /// Somebody else has it.
    Busy {
        /// Without the prefix.
        name: &'a str,
    },
}

impl fmt::Display for LockEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockEvent::Acquired { name, expires } => {
                write!(f, "[LOCK]  ACQUIRED | {name} | {}s", expires.as_secs_f64())
            }
            LockEvent::Released { name } => write!(f, "[LOCK]  RELEASED | {name}"),
            LockEvent::Lost { name } => write!(f, "[LOCK]  LOST | {name}"),
            LockEvent::Busy { name } => write!(f, "[LOCK]  BUSY | {name}"),
        }
    }
}

/// Whoever is told.
type Listener = Arc<dyn Fn(&LockEvent<'_>) + Send + Sync>;

/// What all locks of one maker share.
struct Maker {
    store: Arc<dyn Store>,
    prefix: String,
    listener: Option<Listener>,
}

impl Maker {
    async fn send(&self, script: &str, words: &[&str]) -> Result<Reply, StoreError> {
        let words = ["EVAL", script, "1"].iter().chain(words).map(|word| word.as_bytes()).collect::<Vec<_>>();
        self.store.send(&words).await
    }

    fn tell(&self, event: &LockEvent<'_>) {
        if let Some(listener) = &self.listener {
            // A listener that panics loses no lock; the hook of the process has told of it.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(event)));
        }
    }

    /// A take that was given up on may arrive late, and a release may be lost: freed again until the key is gone.
    async fn free_later(self: Arc<Maker>, key: String, token: String, lasts: Duration) {
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            if self.send(GIVE_BACK, &[&key, &token]).await.is_ok_and(|reply| reply.int() == Some(1)) {
                return;
            }
            sleep((lasts / 8).max(Duration::from_millis(50))).await;
        }
    }
}

/// Locks over one store. A clone makes the same locks.
#[derive(Clone)]
pub struct Locks(Arc<Maker>);

impl Locks {
    /// Locks at the keys `lock:NAME`. The daemon leaves them alone with `cache.protect = ["lock:*"]`.
    pub fn new(store: impl Store) -> Locks {
        Locks(Arc::new(Maker { store: Arc::new(store), prefix: "lock:".to_owned(), listener: None }))
    }

    /// The same at other keys.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Locks {
        let Maker { store, listener, .. } = &*self.0;
        Locks(Arc::new(Maker { store: Arc::clone(store), prefix: prefix.into(), listener: listener.clone() }))
    }

    /// Is told what happens. What it panics with changes nothing.
    #[must_use]
    pub fn on(self, listener: impl Fn(&LockEvent<'_>) + Send + Sync + 'static) -> Locks {
        let Maker { store, prefix, .. } = &*self.0;
        let listener: Listener = Arc::new(listener);
        Locks(Arc::new(Maker { store: Arc::clone(store), prefix: prefix.clone(), listener: Some(listener) }))
    }

    /// Takes a lock.
    ///
    /// # Errors
    /// [`LockError::Busy`], or [`LockError::Unavailable`] when nobody knows.
    pub async fn acquire(&self, name: &str, options: LockOptions) -> Result<Lock, LockError> {
        let maker = &self.0;
        let (key, token) = (format!("{}{name}", maker.prefix), crate::random::text());
        let expires = options.expires.min(options.most).max(Duration::from_millis(1));
        let milliseconds = expires.as_millis().to_string();
        let mut delay = options.delay;
        for attempt in 1.. {
            let sent = Instant::now();
            let mut taking = Taking { maker, key: &key, token: &token, expires, is_settled: false };
            let answer = maker.send(TAKE, &[&key, &token, &milliseconds]).await;
            taking.is_settled = true;
            drop(taking);
            let taken = answer.and_then(|answer| taken(&answer).ok_or_else(|| StoreError::new("no answer of a lock")));
            match taken {
                Ok(Taken::Ours(_)) if sent.elapsed() + held::margin(expires) >= expires => {
                    return Err(self.unavailable(key, token, expires, StoreError::new("the answer came too late")));
                }
                Ok(Taken::Ours(fence)) => {
                    maker.tell(&LockEvent::Acquired { name, expires });
                    return Ok(Lock::hold(Arc::clone(maker), name, key, token, fence, sent, options));
                }
                Ok(Taken::Theirs(left)) => {
                    if attempt >= options.attempts {
                        break;
                    }
                    let most = delay.min(PAUSE_MAX).min(left + Duration::from_millis(50));
                    sleep(crate::random::part(most, 0.0)).await;
                    delay = (delay * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(self.unavailable(key, token, expires, error)),
            }
        }
        maker.tell(&LockEvent::Busy { name });
        Err(LockError::Busy)
    }

    fn unavailable(&self, key: String, token: String, expires: Duration, error: StoreError) -> LockError {
        tokio::spawn(Arc::clone(&self.0).free_later(key, token, expires));
        LockError::Unavailable(error)
    }

    /// Works under a lock, and releases it whatever becomes of the work. The work gets the lock's [`Lost`] and its fence
    /// by a handle.
    ///
    /// # Errors
    /// When there is no lock, when it was lost, and when the work failed.
    pub async fn with<V, E, F>(
        &self,
        name: &str,
        options: LockOptions,
        work: impl FnOnce(Lock) -> F,
    ) -> Result<Done<V>, LockError<V, E>>
    where
        F: Future<Output = Result<V, E>>,
    {
        let lock = self.acquire(name, options).await.map_err(|error| match error {
            LockError::Unavailable(error) => LockError::Unavailable(error),
            LockError::Busy | LockError::Lost(_) | LockError::Failed(_) => LockError::Busy,
        })?;
        let (fence, handle) = (lock.fence(), lock.clone());
        let made = work(handle).await;
        match (lock.free().await, made) {
            (Some(false), made) => Err(LockError::Lost(made)),
            (Some(true) | None, Ok(value)) => Ok(Done { value, fence }),
            (Some(true) | None, Err(error)) => Err(LockError::Failed(error)),
        }
    }
}

/// A take under way. Where the caller goes away meanwhile, nobody would hold the key that it takes.
struct Taking<'a> {
    maker: &'a Arc<Maker>,
    key: &'a str,
    token: &'a str,
    expires: Duration,
    is_settled: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        // Without a runtime the key expires.
        if let (false, Ok(runtime)) = (self.is_settled, tokio::runtime::Handle::try_current()) {
            let (key, token) = (self.key.to_owned(), self.token.to_owned());
            runtime.spawn(Arc::clone(self.maker).free_later(key, token, self.expires));
        }
    }
}

/// What the script answers.
#[derive(PartialEq, Eq, Debug)]
enum Taken {
    /// Ours, with its fence.
    Ours(u64),
    /// Somebody else's, which stands for so long.
    Theirs(Duration),
}

fn taken(answer: &Reply) -> Option<Taken> {
    let Reply::Many(both) = answer else { return None };
    let [is_ours, number] = both.as_slice() else { return None };
    match (is_ours.int()?, number.int()?) {
        (1, fence) => Some(Taken::Ours(u64::try_from(fence).ok()?)),
        (_, left) => Some(Taken::Theirs(Duration::from_millis(u64::try_from(left).unwrap_or(1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with one key.
    #[derive(Default)]
    struct Fake {
        held: std::sync::Mutex<Option<Vec<u8>>>,
        /// Scripts that are executed and answered to nobody.
        silent: std::sync::Mutex<Vec<&'static str>>,
        renewals: std::sync::atomic::AtomicUsize,
    }

    impl Fake {
        fn is_free(&self) -> bool {
            self.held.lock().unwrap().is_none()
        }
    }

    impl Store for Fake {
        fn send<'a>(&'a self, command: &'a [&'a [u8]]) -> crate::store::Sending<'a> {
            Box::pin(async move {
                let (script, token) = (std::str::from_utf8(command[1]).unwrap(), command[4].to_vec());
                let silent = {
                    let mut silent = self.silent.lock().unwrap();
                    let place = silent.iter().position(|one| *one == script);
                    place.map(|place| silent.remove(place)).is_some()
                };
                // What nobody hears of is executed late.
                if silent {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let answer = {
                    let mut held = self.held.lock().unwrap();
                    let is_ours = held.as_ref() == Some(&token);
                    match script {
                        TAKE if held.is_none() => {
                            *held = Some(token);
                            Reply::Many(vec![Reply::Int(1), Reply::Int(7)])
                        }
                        TAKE => Reply::Many(vec![Reply::Int(0), Reply::Int(1_000)]),
                        RENEW => {
                            self.renewals.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            Reply::Int(i64::from(is_ours))
                        }
                        _ => {
                            *held = held.take().filter(|_| !is_ours);
                            Reply::Int(i64::from(is_ours))
                        }
                    }
                };
                if silent {
                    std::future::pending::<()>().await;
                }
                Ok(answer)
            })
        }
    }

    fn fake() -> (Arc<Fake>, Locks) {
        let fake = Arc::new(Fake::default());
        (Arc::clone(&fake), Locks::new(fake))
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_at_all_extends_nothing_and_the_lock_renews_itself_as_before() {
        let (fake, locks) = fake();
        let lock = locks.acquire("k", LockOptions::secs(9)).await.unwrap();
        assert!(!lock.extend(Duration::ZERO).await);
        sleep(Duration::from_secs(30)).await;
        assert!(lock.is_held());
        let renewals = fake.renewals.load(std::sync::atomic::Ordering::SeqCst);
        assert!((5..20).contains(&renewals), "{renewals}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_gave_its_lock_back_has_not_lost_it() {
        let (fake, locks) = fake();
        let work = async |lock: Lock| Ok::<_, ()>(lock.release().await);
        assert!(locks.with("k", LockOptions::secs(9), work).await.is_ok_and(|done| done.value));
        let stolen = async |lock: Lock| {
            *fake.held.lock().unwrap() = Some(b"another's".to_vec());
            Ok::<_, ()>(lock.release().await)
        };
        let done = locks.with("k", LockOptions::secs(9), stolen).await;
        assert!(matches!(done, Err(LockError::Lost(Ok(false)))), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_leaves_no_lock_behind() {
        let (fake, locks) = fake();
        *fake.silent.lock().unwrap() = vec![TAKE];
        // It is gone right behind the execution, before an answer.
        let taking = locks.acquire("k", LockOptions::secs(9));
        assert!(tokio::time::timeout(Duration::from_millis(150), taking).await.is_err());
        assert!(!fake.is_free());
        sleep(Duration::from_secs(9)).await;
        assert!(fake.is_free());

        let lock = locks.acquire("k", LockOptions::secs(900).renew(false)).await.unwrap();
        *fake.silent.lock().unwrap() = vec![GIVE_BACK];
        assert!(tokio::time::timeout(Duration::from_millis(50), lock.release()).await.is_err());
        drop(lock);
        assert!(!fake.is_free(), "it is executed late");
        sleep(Duration::from_secs(1)).await;
        assert!(fake.is_free());
    }

    #[test]
    fn the_answer_says_whose_the_lock_is() {
        let text = |text: &str| Reply::Bytes(text.as_bytes().to_vec());
        let both = |first: Reply, second: Reply| Reply::Many(vec![first, second]);
        let cases = [
            (both(Reply::Int(1), text("1795887000123456")), Some(Taken::Ours(1_795_887_000_123_456))),
            (both(Reply::Int(0), Reply::Int(900)), Some(Taken::Theirs(Duration::from_millis(900)))),
            (both(Reply::Int(0), Reply::Int(-1)), Some(Taken::Theirs(Duration::from_millis(1)))),
            (both(text("1"), text("x")), None),
            (Reply::Nil, None),
        ];
        for (answer, expected) in cases {
            assert_eq!(taken(&answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn the_lines_are_those_of_the_strategy() {
        let name = "payment:lease456";
        let lines = [LockEvent::Acquired { name, expires: Duration::from_secs(10) }, LockEvent::Released { name }]
            .map(|event| event.to_string());
        assert_eq!(lines, ["[LOCK]  ACQUIRED | payment:lease456 | 10s", "[LOCK]  RELEASED | payment:lease456"]);
    }
}
