//! PostgreSQL: whether it answers, what it keeps for us, and how long that may go on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::page::{MetricsPage, shown};
use crate::lsn::Lsn;
use crate::observe::news::ServerSeen;

/// The rate of WAL is that of so long.
const RATE_OVER: Duration = Duration::from_secs(60);

/// What is known of the server.
#[derive(Debug, Default)]
pub(super) struct ServerView {
    /// Streams that began.
    streams: u64,
    seen: Option<ServerSeen>,
    /// How far its WAL was at the looks of the last minute.
    ends: VecDeque<(Instant, Lsn)>,
}

impl ServerView {
    /// A stream began.
    pub(super) fn streams(&mut self) {
        self.streams += 1;
    }

    /// The server was looked at.
    pub(super) fn saw(&mut self, seen: ServerSeen, now: Instant) {
        self.seen = Some(seen);
        let Some(flushed) = seen.flushed else { return };
        // Another server has other positions.
        if self.ends.back().is_some_and(|(_, last)| *last > flushed) {
            self.ends.clear();
        }
        self.ends.push_back((now, flushed));
        while self.ends.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_OVER) {
            self.ends.pop_front();
        }
    }

    /// What was seen is old.
    pub(super) fn lost(&mut self) {
        self.seen = None;
        self.ends.clear();
    }

    /// WAL that the server writes, in bytes a second; `None` before it was looked at twice.
    fn rate(&self) -> Option<f64> {
        let ((first, from), (last, to)) = (self.ends.front()?, self.ends.back()?);
        let time = last.duration_since(*first).as_secs_f64();
        (time > 0.0).then(|| (to.0 - from.0) as f64 / time)
    }

    /// How long the WAL that may still be written lasts, should the position stand still.
    fn seconds_to_loss(&self) -> Option<String> {
        let (safe, rate) = (self.seen?.safe_bytes?, self.rate()?);
        Some(if rate > 0.0 { shown(Duration::from_secs((safe as f64 / rate) as u64)) } else { "+Inf".to_owned() })
    }

    /// What was seen last, and how long the slot lasts, in seconds; infinite at a quiet server.
    pub(super) fn shown(&self) -> (ServerSeen, Option<f64>) {
        (self.seen.unwrap_or_default(), self.seconds_to_loss().and_then(|seconds| seconds.parse().ok()))
    }

    pub(super) fn write(&self, page: &mut MetricsPage, is_up: bool, confirmed: Lsn) {
        let seen = self.seen.unwrap_or_default();
        let help = "1 while PostgreSQL answers: the stream runs, or another daemon has it.";
        page.gauge("postgres_up", help, u64::from(is_up));
        let help = "Streams that began behind the first; a reload begins one, too.";
        page.counter("postgres_reconnects_total", help, self.streams.saturating_sub(1));
        let behind = seen.held_bytes.and(seen.flushed).map(|flushed| flushed.0.saturating_sub(confirmed.0));
        let [rows, used, most] = seen.outbox.map_or([None; 3], |outbox| outbox.map(Some));
        let whole = |number: Option<u64>| number.map(|number| number.to_string());
        let values = [
            (
                "slot_held_bytes",
                "WAL that the server keeps for the slot; nothing while that is not known, or in outbox mode.",
                whole(seen.held_bytes),
            ),
            (
                "slot_behind_bytes",
                "WAL between the position confirmed last and the server's end.",
                whole(behind.filter(|_| confirmed.0 > 0)),
            ),
            (
                "slot_safe_bytes",
                "WAL that may be written until the slot can be lost; nothing where max_slot_wal_keep_size is -1.",
                whole(seen.safe_bytes),
            ),
            (
                "slot_seconds_to_loss",
                "How long crieur_slot_safe_bytes lasts at the rate of WAL of the last minute, should the position stand still.",
                self.seconds_to_loss(),
            ),
            ("outbox_rows", "Rows in the outbox, about; nothing in replication mode.", whole(rows)),
            ("outbox_bytes", "What the outbox takes on disk.", whole(used)),
            ("outbox_max_bytes", "What the outbox may take on disk until it overflows.", whole(most)),
        ];
        for (name, help, value) in values {
            page.head(name, help, "gauge");
            value.iter().for_each(|value| page.value(name, &[], value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(flushed: u64) -> ServerSeen {
        ServerSeen { flushed: Some(Lsn(flushed)), held_bytes: Some(50), safe_bytes: Some(1_000), outbox: None }
    }

    #[test]
    fn the_time_to_loss_is_what_may_be_written_at_the_rate_of_the_last_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut server = ServerView::default();
        server.saw(seen(1_000), at(0));
        assert_eq!(server.seconds_to_loss(), None, "one look has no rate");
        server.saw(seen(1_000), at(2));
        assert_eq!(server.seconds_to_loss().as_deref(), Some("+Inf"));
        server.saw(seen(1_040), at(4));
        assert_eq!(server.seconds_to_loss().as_deref(), Some("100.000"));
        // A burst an hour ago is no rate.
        (6..200).for_each(|second| server.saw(seen(1_040), at(second)));
        assert_eq!(server.seconds_to_loss().as_deref(), Some("+Inf"));
        server.saw(ServerSeen { safe_bytes: None, ..seen(1_100) }, at(200));
        assert_eq!(server.seconds_to_loss(), None, "it is never lost");
        server.saw(seen(10), at(202));
        assert_eq!(server.seconds_to_loss(), None, "another server");
        server.lost();
        assert_eq!(server.seconds_to_loss(), None);
    }
}
