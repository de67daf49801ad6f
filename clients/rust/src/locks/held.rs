//! A lock that is held: renewed until it is released, and told when it is lost, before another can have it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{LockEvent, LockOptions, Maker, RENEW};
use crate::lease::GIVE_BACK;

/// By our clock the lock ends earlier than by the server's: clocks drift, and timers are late.
pub fn margin(expires: Duration) -> Duration {
    expires.mul_f64(0.03) + Duration::from_millis(10)
}

/// Where a lock stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    /// Ours until then, by our clock.
    Until(Instant),
    /// Somebody else may have it.
    Lost,
    /// We give it back.
    Freeing,
    /// We gave it back. Whether it was still ours; `None`: nobody knows.
    Freed(Option<bool>),
}

/// What all handles of one lock share. The last of them to go releases it.
struct Held {
    maker: Arc<Maker>,
    name: String,
    key: String,
    token: String,
    fence: u64,
    /// The end of the whole holding.
    last: Instant,
    renews_for: Mutex<Duration>,
    life: watch::Sender<Life>,
}

/// A lock that is held. A clone is another handle of the same lock; it is released by [`Lock::release`], or when its last
/// handle goes.
#[derive(Clone)]
pub struct Lock(Arc<Held>);

/// Says when a lock is lost, or over. It holds no lock.
#[derive(Clone)]
pub struct Lost(watch::Receiver<Life>);

impl Lost {
    /// Whether the lock was lost: somebody else may have it.
    pub fn is_lost(&self) -> bool {
        match *self.0.borrow() {
            Life::Until(until) => Instant::now() >= until,
            Life::Lost => true,
            Life::Freeing | Life::Freed(_) => false,
        }
    }

    /// Waits until the lock is lost: put it beside the work in a `select!`. A lock that was released is never lost.
    pub async fn wait(&mut self) {
        loop {
            let life = *self.0.borrow_and_update();
            match life {
                Life::Lost => return,
                Life::Freeing | Life::Freed(_) => return std::future::pending().await,
                // The task that watches may be gone with its runtime.
                Life::Until(until) => tokio::select! {
                    () = sleep_until(until) => if self.is_lost() { return },
                    changed = self.0.changed() => if changed.is_err() { return },
                },
            }
        }
    }
}

impl Held {
    fn until(&self) -> Option<Instant> {
        match *self.life.borrow() {
            Life::Until(until) => Some(until),
            Life::Lost | Life::Freeing | Life::Freed(_) => None,
        }
    }

    /// Ends the lock, once.
    fn end(&self, life: Life) -> bool {
        self.life.send_if_modified(|now| {
            let is_held = matches!(now, Life::Until(_));
            if is_held {
                *now = life;
            }
            is_held
        })
    }

    fn lose(&self) {
        if self.end(Life::Lost) {
            self.maker.tell(&LockEvent::Lost { name: &self.name });
        }
    }

    fn is_held(&self) -> bool {
        let is_held = self.until().is_some_and(|until| Instant::now() < until);
        if !is_held {
            self.lose();
        }
        is_held
    }

    /// Begins to give the lock back, once. Whether this call did. A task does the rest: whoever waits may go away.
    fn let_go(self: &Arc<Held>) -> bool {
        let is_first = self.is_held() && self.end(Life::Freeing);
        if is_first {
            tokio::spawn(Arc::clone(self).free());
        }
        is_first
    }

    async fn free(self: Arc<Held>) {
        let freed = match self.maker.send(GIVE_BACK, &[&self.key, &self.token]).await {
            Ok(answer) => Some(answer.int() == Some(1)),
            Err(_) => None,
        };
        if freed == Some(true) {
            self.maker.tell(&LockEvent::Released { name: &self.name });
        }
        self.life.send_replace(Life::Freed(freed));
        if freed.is_none() {
            let (key, token, expires) = (self.key.clone(), self.token.clone(), *self.renews_for());
            Arc::clone(&self.maker).free_later(key, token, expires).await;
        }
    }

    /// What became of giving it back. `None`: it was ours, and nobody knows whether it is free; `Some(false)`: it was not.
    async fn freed(&self) -> Option<bool> {
        let mut life = self.life.subscribe();
        match life.wait_for(|life| matches!(life, Life::Lost | Life::Freed(_))).await.map(|life| *life) {
            Ok(Life::Freed(freed)) => freed,
            _ => Some(false),
        }
    }

    fn renews_for(&self) -> MutexGuard<'_, Duration> {
        self.renews_for.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The key stands for so long, counted from before the command was sent.
    async fn extend(&self, time: Duration) -> bool {
        if !self.is_held() {
            return false;
        }
        let sent = Instant::now();
        let time = time.min(self.last.saturating_duration_since(sent));
        if time < Duration::from_millis(1) {
            return false;
        }
        let answer = self.maker.send(RENEW, &[&self.key, &self.token, &time.as_millis().to_string()]).await;
        match answer.map(|answer| answer.int()) {
            // Nobody knows: the deadline that stands decides.
            Err(_) => return false,
            Ok(Some(1)) => self.life.send_if_modified(|life| {
                let is_held = matches!(life, Life::Until(_));
                if is_held {
                    *life = Life::Until(sent + time.saturating_sub(margin(time)));
                }
                is_held
            }),
            Ok(_) => {
                self.lose();
                false
            }
        };
        self.is_held()
    }
}

/// Renews, and tells of the loss, until the lock is over.
async fn watch(held: std::sync::Weak<Held>, mut life: watch::Receiver<Life>, renew: bool) {
    loop {
        let Life::Until(until) = *life.borrow_and_update() else { return };
        let Some(pause) = held.upgrade().map(|held| *held.renews_for() / 3) else { return };
        let next = Instant::now() + pause;
        tokio::select! {
            changed = life.changed() => if changed.is_err() { return },
            () = sleep_until(until) => match held.upgrade() {
                Some(held) => _ = held.is_held(),
                None => return,
            },
            () = sleep_until(next), if renew && next < until => match held.upgrade() {
                Some(held) => {
                    let time = *held.renews_for();
                    held.extend(time).await;
                }
                None => return,
            },
        }
    }
}

impl Lock {
    pub(super) fn hold(
        maker: Arc<Maker>,
        name: &str,
        key: String,
        token: String,
        fence: u64,
        sent: Instant,
        options: LockOptions,
    ) -> Lock {
        let expires = options.expires.min(options.most);
        let life = watch::Sender::new(Life::Until(sent + expires.saturating_sub(margin(expires))));
        let seen = life.subscribe();
        let (name, renews_for, last) = (name.to_owned(), Mutex::new(expires), sent + options.most);
        let held = Arc::new(Held { maker, name, key, token, fence, last, renews_for, life });
        tokio::spawn(watch(Arc::downgrade(&held), seen, options.renew));
        Lock(held)
    }

    /// Its name, without the prefix.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value of its key.
    pub fn token(&self) -> &str {
        &self.0.token
    }

    /// Grows from holder to holder: `UPDATE … WHERE fence < $1` keeps out who lost the lock without knowing.
    pub fn fence(&self) -> u64 {
        self.0.fence
    }

    /// Whether it is ours now.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Says when it is lost.
    pub fn lost(&self) -> Lost {
        Lost(self.0.life.subscribe())
    }

    /// Lets the lock stand for so long from now, and renews it for so long from then on. False: it does not, or nobody
    /// knows.
    ///
    /// A time below a millisecond is none, and changes nothing.
    pub async fn extend(&self, time: Duration) -> bool {
        if time < Duration::from_millis(1) {
            return false;
        }
        *self.0.renews_for() = time;
        self.0.extend(time).await
    }

    /// Gives the lock back. True: it was still ours, and is free now.
    pub async fn release(&self) -> bool {
        self.0.let_go() && self.0.freed().await == Some(true)
    }

    /// The same, and what it was if it was given back before. `None`: nobody knows; `Some(false)`: it was not ours.
    pub(super) async fn free(&self) -> Option<bool> {
        self.0.let_go();
        self.0.freed().await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.end(Life::Freeing) {
            return;
        }
        // Without a runtime the key expires.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (maker, key, token) = (Arc::clone(&self.maker), self.key.clone(), self.token.clone());
            let name = self.name.clone();
            runtime.spawn(async move {
                if maker.send(GIVE_BACK, &[&key, &token]).await.is_ok_and(|reply| reply.int() == Some(1)) {
                    maker.tell(&LockEvent::Released { name: &name });
                }
            });
        }
    }
}
