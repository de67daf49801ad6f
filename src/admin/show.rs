//! What the page shows now, made once a second for all who look, and the events that bring it to an open page.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::AdminState;
use super::viewers::RENEWAL;
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
        PageView { snapshot, rates, changes, points, warnings: self.warnings() }
    }

    fn warnings(&self) -> Vec<Warning> {
        let entries = self.recent.entries();
        let said = entries.into_iter().rev().filter_map(|entry| match entry.news {
            News::Said(said) if said.line.level != Level::Info => Some(Warning {
                at: entry.at,
                id: LIST.iter().find(|known| known.id == said.line.id).map_or("", |known| known.name),
                level: said.line.level,
                text: said.text.to_string(),
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
