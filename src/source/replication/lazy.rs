//! Reading lazily when there is a backlog.
//!
//! A client that empties its socket at once makes the walsender send one packet for each message and wakes both sides
//! each time. While the receive window is closed, the walsender's messages gather in its send buffer instead and travel
//! in large segments. So in a backlog the kernel is told to wake us only when the window is full (`SO_RCVLOWAT` at its
//! upper bound: `tcp_set_rcvlowat` in Linux' `net/ipv4/tcp.c`), the window then stays closed for a few times as long as
//! it took to fill, and everything is read in one go until a read comes back small.
//!
//! What decides is how late the stream is by the server's own clocks: a fresh stream is read at once, a late one waits
//! a fraction of its lateness, and a socket without a window (unix) never waits.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::Result;
use crate::postgres::wire::Wire;
use crate::source::BACKLOG;

/// The longest wait for a full window: the end of a backlog does not fill it.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// The window stays closed this many times as long as it took to fill: most bytes then travel in large segments.
const CLOSED_TIMES: u32 = 3;

/// And at most this long: the walsender's send buffer (`net.ipv4.tcp_wmem`, 4 MB) must not fill and block it.
const CLOSED_MAX: Duration = Duration::from_millis(2);

/// A read of less has emptied the socket.
const LARGE: usize = 16 * 1024;

/// How many bytes the kernel gathers before it wakes us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LowWater {
    /// Any byte.
    Byte,
    /// A full receive window.
    Window,
}

/// What the reader is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Reads what is there.
    Reading,
    /// Waits for a full window, since the socket was emptied.
    Filling { since: Instant },
    /// Lets the walsender gather.
    Closed { until: Instant },
}

/// The reading manner of one connection.
#[derive(Debug)]
pub struct Lazy {
    low_water: LowWater,
    phase: Phase,
}

impl Default for Lazy {
    /// Starts eager.
    fn default() -> Self {
        Lazy { low_water: LowWater::Byte, phase: Phase::Reading }
    }
}

impl Lazy {
    /// Fills the read buffer. `lateness` is `None` while a transaction that is still open is streamed: nobody waits for
    /// it. Cancel-safe: the phase and the low-water mark are kept, and the next call goes on from them.
    pub async fn fill(&mut self, wire: &mut Wire, lateness: Option<Duration>) -> Result<()> {
        let Some(wait) = wait(lateness).filter(|_| wire.has_window()) else {
            self.phase = Phase::Reading;
            self.set(wire, LowWater::Byte);
            return wire.fill().await.map(drop);
        };
        loop {
            match self.phase {
                Phase::Reading => {
                    self.set(wire, LowWater::Byte);
                    if wire.fill().await? < LARGE {
                        self.phase = Phase::Filling { since: Instant::now() };
                    }
                    return Ok(());
                }
                Phase::Filling { since } => {
                    self.set(wire, LowWater::Window);
                    self.phase = match timeout_at(since + wait, wire.readable()).await {
                        Ok(readable) => {
                            readable?;
                            Phase::Closed { until: Instant::now() + closed(since.elapsed()) }
                        }
                        Err(_) => Phase::Reading,
                    };
                }
                Phase::Closed { until } => {
                    sleep_until(until).await;
                    self.phase = Phase::Reading;
                }
            }
        }
    }

    /// From now on every byte counts: the end of the stream.
    pub fn end(&mut self, wire: &Wire) {
        self.set(wire, LowWater::Byte);
    }

    fn set(&mut self, wire: &Wire, low_water: LowWater) {
        if self.low_water != low_water {
            self.low_water = low_water;
            let bytes = match low_water {
                LowWater::Byte => 1,
                LowWater::Window => i32::MAX,
            };
            wire.set_receive_low_water(bytes);
        }
    }
}

/// How long a read may wait for a full window; `None` is not at all.
fn wait(lateness: Option<Duration>) -> Option<Duration> {
    match lateness {
        None => Some(WAIT_MAX),
        Some(late) if late >= BACKLOG => Some((late / 8).min(WAIT_MAX)),
        Some(_) => None,
    }
}

/// How long the window stays closed after it took `filling` to fill.
fn closed(filling: Duration) -> Duration {
    (filling * CLOSED_TIMES).min(CLOSED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_stream_never_waits_and_a_late_one_waits_a_fraction() {
        let ms = Duration::from_millis;
        assert_eq!(wait(Some(ms(19))), None);
        assert_eq!(wait(Some(ms(24))), Some(ms(3)));
        assert_eq!(wait(Some(ms(60_000))), Some(WAIT_MAX));
        assert_eq!(wait(None), Some(WAIT_MAX));
        assert_eq!((closed(Duration::from_micros(100)), closed(ms(2))), (Duration::from_micros(300), CLOSED_MAX));
    }
}
