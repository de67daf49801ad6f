//! What the page shows now, made once a second for all who look, and the events that bring it to an open page.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::AdminState;
use super::viewers::RENEWAL;
use crate::observe::Id;
use crate::observe::board::Posted;
use crate::observe::ids::{LIST, Level};
use crate::observe::news::News;
use crate::page::plot::{Point, SECONDS};
use crate::page::words::Language;
use crate::page::{CHANGES_MAX, PagePart, PageView, WARNINGS_MAX, Warning, parts};

/// A viewer that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// An event at least so often, so that a viewer that is gone is noticed.
const BEAT: u32 = 15;

impl AdminState {
    /// What the page shows now.
    pub(super) fn view(&self) -> PageView {
        let (snapshot, now) = (self.snapshot(), SystemTime::now());
        let rates = self.viewers.rates(&snapshot, Instant::now());
        let posted = self.viewers.board.behind(0);
        let points = posted.iter().flat_map(|posted| points(posted, now)).collect();
        let changes = self.viewers.options.changes.then(|| posted.into_iter().rev().take(CHANGES_MAX).collect());
        let mut verified = self.counted_by_verifier();
        if let Some(last) = verified.last_stale.as_mut().filter(|_| !self.viewers.options.changes) {
            last.key = None;
        }
        PageView { snapshot, rates, changes, points, warnings: self.warnings(), verified }
    }

    fn warnings(&self) -> Vec<Warning> {
        let entries = self.recent.entries();
        let said = entries.into_iter().rev().filter_map(|entry| match entry.news {
            News::Said(said) if said.line.level != Level::Info => Some(Warning {
                at: entry.at,
                id: LIST.iter().find(|known| known.id == said.line.id).map_or("", |known| known.name),
                level: said.line.level,
                // The one warning that names a key.
                text: match said.line.id {
                    Id::VerifyStale if !self.viewers.options.changes => {
                        "a cached key is stale: the log names it".to_owned()
                    }
                    _ => said.text.to_string(),
                },
            }),
            _ => None,
        });
        said.take(WARNINGS_MAX).collect()
    }

    /// The parts of the page, made at most once in a renewal.
    fn parts(&self, language: Language) -> Arc<Vec<PagePart>> {
        let index = usize::from(language == Language::French);
        let mut made = self.viewers.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &made[index] {
            Some((at, parts)) if at.elapsed() < RENEWAL / 2 => Arc::clone(parts),
            _ => {
                let parts = Arc::new(parts(&self.view(), language));
                made[index] = Some((Instant::now(), Arc::clone(&parts)));
                parts
            }
        }
    }

    /// Sends what changes, until the viewer goes.
    pub(super) async fn follow(&self, mut socket: TcpStream, language: Language) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n\
                    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n";
        let mut text = head.to_owned();
        let (mut sent, mut silent): (Arc<Vec<PagePart>>, u32) = (Arc::default(), 0);
        loop {
            let newest = self.parts(language);
            for (id, part) in newest.iter().filter(|part| !sent.contains(part)) {
                text.push_str(&format!("event: part\ndata: {id} {part}\n\n"));
            }
            sent = newest;
            silent += 1;
            if text.is_empty() && silent >= BEAT {
                text.push_str(": still here\n\n");
            }
            if !text.is_empty() {
                timeout(PATIENCE, socket.write_all(text.as_bytes()))
                    .await
                    .map_err(|_| std::io::ErrorKind::TimedOut)??;
                (text, silent) = (String::new(), 0);
            }
            sleep(RENEWAL).await;
        }
    }
}

/// The points of a change in the plot: one for each cache that has deleted its keys.
fn points(posted: &Posted, now: SystemTime) -> Vec<Point> {
    let ago = now.duration_since(posted.changed.committed).unwrap_or_default().as_secs_f64();
    if ago > SECONDS {
        return Vec::new();
    }
    posted.gone.iter().map(|(_, after)| Point { ago, age: after.as_secs_f64() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::PageOptions;
    use crate::observe::board::Board;
    use crate::observe::line::Line;
    use crate::observe::news::Said;
    use crate::observe::recent::Recent;
    use crate::page::snapshot::Places;
    use crate::verify::tally::{StaleKey, Verified};

    #[test]
    fn a_stale_key_is_on_the_page_and_told_to_commands_unless_keys_are_kept_off() {
        for changes in [true, false] {
            let recent = Recent::default();
            let said = Said { line: Line::from(Id::VerifyStale), text: "\"detail:7\" is stale".into() };
            recent.add(&News::Said(said), SystemTime::now());
            let options = PageOptions { changes, hosts: Vec::new() };
            let state = AdminState::new(Vec::new(), Places::default(), (recent, Board::default()), options);
            let last_stale = Some(StaleKey {
                at: SystemTime::now(),
                cache: "main".to_owned(),
                key: Some("detail:7".to_owned()),
                place: "crieur.toml:9".to_owned(),
                known_for: Duration::from_secs(1),
                is_mended: false,
            });
            state.verified(Verified { checked: 5, stale: 1, stale_now: 1, last_stale, ..Verified::default() });
            let page = crate::page::page(&state.view(), Language::English, "n");
            let told = state.status().to_string();
            for shown in [&page, &told] {
                assert_eq!(shown.contains("detail:7"), changes, "{shown}");
                assert!(shown.contains("crieur.toml:9") && shown.contains("as the verifier found"), "{shown}");
            }
        }
    }
}
