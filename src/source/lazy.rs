//! Reading lazily when there is a backlog.
//!
//! A client that empties its socket at once makes the walsender send one packet for each message and wakes both sides
//! each time. When the receive window is closed instead, the walsender's messages gather in its send buffer and travel
//! in large segments. So in a backlog the kernel is told to wake us only when the window is full (`SO_RCVLOWAT` at its
//! upper bound: `tcp_set_rcvlowat` in Linux' `net/ipv4/tcp.c`). What decides is how late the stream is by the server's
//! own clocks; a fresh stream is read at once, and a late one waits at most a fraction of its lateness.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::Result;
use crate::source::wire::Wire;

/// A stream that is later than this is draining a backlog.
const BACKLOG: Duration = Duration::from_millis(20);

/// The longest wait for a full window: the end of a backlog does not fill it.
const WAIT_MAX: Duration = Duration::from_millis(5);

/// How many bytes the kernel gathers before it wakes us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LowWater {
    /// Any byte.
    Byte,
    /// A full receive window.
    Window,
}

/// The reading manner of one connection.
#[derive(Debug)]
pub struct Lazy {
    low_water: LowWater,
}

impl Lazy {
    /// Starts eager.
    pub fn new(_wire: &Wire) -> Self {
        Lazy { low_water: LowWater::Byte }
    }

    /// Fills the read buffer: at once when fresh, by the window when late. `lateness` is `None` while a transaction
    /// that is still open is streamed: nobody waits for it.
    ///
    /// Cancel-safe: the socket keeps its low-water mark, and the next call goes on from it.
    pub async fn fill(&mut self, wire: &mut Wire, lateness: Option<Duration>) -> Result<()> {
        match wait(lateness) {
            Some(wait) => {
                self.set(wire, LowWater::Window);
                if let Ok(filled) = timeout_at(Instant::now() + wait, wire.fill()).await {
                    return filled;
                }
                self.set(wire, LowWater::Byte);
            }
            None => self.set(wire, LowWater::Byte),
        }
        wire.fill().await
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
