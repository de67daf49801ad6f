//! The lines of the log as news: whatever part of the daemon says one, it reaches the readers of [`Recent`].

use std::fmt::{Debug, Write};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::observe::ids::{LIST, Level};
use crate::observe::line::Line;
use crate::observe::news::{News, Said};
use crate::observe::recent::{Recent, TEXT_BYTES_MAX};

/// Hears every line that carries an id.
#[derive(Debug)]
pub struct Heard(Recent);

impl Heard {
    /// Adds them to `recent`.
    pub fn new(recent: Recent) -> Self {
        Heard(recent)
    }
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().fields().field("id").is_none() {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            _ => Level::Info,
        };
        let Some(entry) = LIST.iter().find(|entry| entry.name == words.id) else { return };
        let said = Said { line: Line { id: entry.id, level }, text: words.line().into() };
        self.0.add(&News::Said(said), SystemTime::now());
    }
}

/// What a line says.
#[derive(Default)]
struct Words {
    id: String,
    sentence: String,
    fields: String,
}

impl Words {
    /// The sentence and its fields, not longer than its bound.
    fn line(mut self) -> String {
        self.sentence.push_str(&self.fields);
        let end = (0..=TEXT_BYTES_MAX.min(self.sentence.len())).rev().find(|at| self.sentence.is_char_boundary(*at));
        self.sentence.truncate(end.unwrap_or(0));
        self.sentence
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A String takes it all.
        let _ = match field.name() {
            "id" => write!(self.id, "{value:?}"),
            "message" => write!(self.sentence, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::prelude::*;

    use super::*;
    use crate::observe::recent::Read;
    use crate::observe::{Id, log};

    #[test]
    fn a_line_of_the_log_is_heard_with_its_id_its_level_and_its_fields_and_nothing_else_is() {
        let recent = Recent::of_at_most(10);
        let subscriber = tracing_subscriber::registry().with(Heard::new(recent.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("of no id");
            log!(Id::SlotBehind, hint = "Mend it.", tables = 3, "the slot of {} is behind", "crieur");
            log!(Id::CacheFailing.lasting(), hint = None::<&str>, "é{}", "x".repeat(2 * TEXT_BYTES_MAX));
        });
        let mut reader = recent.reader();
        let said: Vec<Said> = std::iter::from_fn(|| reader.read())
            .map(|read| match read {
                Read::Entry(entry) => match entry.news {
                    News::Said(said) => said,
                    other => panic!("nobody told {other:?}"),
                },
                Read::Lost(count) => panic!("{count} are lost"),
            })
            .collect();
        let [behind, failing] = &said[..] else { panic!("two lines have an id: {said:?}") };
        assert_eq!(behind.line, Line::from(Id::SlotBehind));
        assert_eq!(&*behind.text, "the slot of crieur is behind hint=\"Mend it.\" tables=3");
        assert_eq!(failing.line, Id::CacheFailing.lasting());
        assert!(failing.text.starts_with("éx") && failing.text.len() == TEXT_BYTES_MAX, "{}", failing.text.len());
    }
}
