//! Whether the daemon is silent, by its mark in the cache.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::store::Reply;

/// A reader passes the cache by while the mark of this slot is missing, or older than this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silence {
    pub key: String,
    pub most: Duration,
}

impl Silence {
    pub fn of(slot: &str, most: Duration) -> Silence {
        Silence { key: format!("crieur:mark:{slot}"), most }
    }

    /// Whether nobody seems to delete.
    pub fn is_silent(&self, mark: &Reply) -> bool {
        Mark::read(mark).is_none_or(|mark| mark.silent_for() > self.most.as_secs_f64())
    }
}

/// What the mark says.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Mark {
    /// When the mark was written, in seconds since 1970 by the daemon's clock.
    pub at: f64,
    /// The cache has had every delete up to this position.
    #[serde(default)]
    pub lsn: String,
}

impl Mark {
    /// The mark, if this is one.
    pub fn read(reply: &Reply) -> Option<Mark> {
        match reply {
            Reply::Bytes(text) => serde_json::from_slice(text).ok(),
            Reply::Nil | Reply::Int(_) | Reply::Many(_) => None,
        }
    }

    /// Seconds since the mark was written, by our clock; negative when that clock is behind.
    pub fn silent_for(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() - self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_is_missing_old_or_no_mark_is_silence_and_one_of_tomorrow_is_not() {
        let silence = Silence::of("crieur", Duration::from_secs(20));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs();
        let text = |text: String| Reply::Bytes(text.into_bytes());
        let cases = [
            (Reply::Nil, true),
            (text("{".into()), true),
            (text("{}".into()), true),
            (text("{\"at\":\"1\"}".into()), true),
            (text(format!("{{\"at\":{}}}", now - 30)), true),
            (text(format!("{{\"at\":{},\"lsn\":\"0/1\"}}", now - 10)), false),
            (text(format!("{{\"at\":{}}}", now + 86_400)), false),
        ];
        for (mark, expected) in cases {
            assert_eq!(silence.is_silent(&mark), expected, "{mark:?}");
        }
    }
}
