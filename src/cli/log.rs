//! Logs: one line on standard error for each event, for a journal or a terminal; and as news, for whoever reads them later.
//!
//! Where the journal reads standard error it keeps the time of each line itself, and takes the line's priority from a
//! prefix (sd-daemon(3)): `journalctl -p warning` shows what is grave.

use std::fmt::{self, Debug};
use std::io::IsTerminal;
use std::os::fd::AsFd;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::config::environment::{LOG, level};
use crate::config::{LogConfig, LogFormat};
use crate::observe::heard::Heard;
use crate::observe::recent::Recent;

/// Starts logging. `CRIEUR_LOG` wins over the level of the configuration. What carries an id is heard at every level.
pub fn start(config: &LogConfig, recent: Recent) {
    // What is no level has stopped the start.
    let wanted = std::env::var(LOG).ok().filter(|text| !text.trim().is_empty()).unwrap_or(config.level.clone());
    let wanted: LevelFilter = level(&wanted).and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let reader = if is_read_by_the_journal() { Reader::Journal } else { Reader::Other };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // What cannot be written must not end the daemon: it would be said on the same full disk, with a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(Lines::new(reader, config.format));
    let heard = Heard::new(recent).with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(lines.with_filter(wanted)).with(heard).init();
}

/// Whether systemd connected standard error to the journal: `JOURNAL_STREAM` names its device and inode, so that whoever
/// redirects it elsewhere gets lines without prefixes.
pub(crate) fn is_read_by_the_journal() -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let named = named.to_string_lossy().into_owned();
    named_by(std::io::stderr().as_fd()).is_some_and(|ours| ours == named)
}

/// Device and inode, as `JOURNAL_STREAM` has them.
fn named_by(descriptor: std::os::fd::BorrowedFd<'_>) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::File::from(descriptor.try_clone_to_owned().ok()?).metadata().ok()?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// Who reads the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    /// It knows the time, and reads prefixes.
    Journal,
    /// A terminal, a file, a collector.
    Other,
}

/// How a line is written.
struct Lines {
    reader: Reader,
    format: LogFormat,
    timed: Format<Full>,
    timeless: Format<Full, ()>,
}

impl Lines {
    fn new(reader: Reader, format: LogFormat) -> Self {
        let timed = Format::default().with_target(false);
        Lines { reader, format, timeless: timed.clone().without_time(), timed }
    }
}

/// The syslog priority of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.reader == Reader::Journal {
            write!(line, "<{}>", priority(*event.metadata().level()))?;
        }
        match (self.format, self.reader) {
            (LogFormat::Json, _) => writeln!(line, "{}", object(event)?),
            (LogFormat::Text, Reader::Journal) => self.timeless.format_event(context, line, event),
            (LogFormat::Text, Reader::Other) => self.timed.format_event(context, line, event),
        }
    }
}

/// The event as one JSON object.
fn object(event: &Event<'_>) -> Result<Value, fmt::Error> {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    let mut fields = Fields(Map::new());
    fields.0.insert("time".to_owned(), time.into());
    fields.0.insert("level".to_owned(), event.metadata().level().as_str().into());
    event.record(&mut fields);
    Ok(Value::Object(fields.0))
}

/// The fields of a line, each with its own type where JSON has it.
struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::observe::{Id, log};

    /// Takes what is written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panicked").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(reader: Reader, format: LogFormat) -> String {
        let paper = Paper::default();
        let there = paper.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || there.clone())
            .with_ansi(false)
            .event_format(Lines::new(reader, format));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            log!(Id::SlotBehind, hint = "Mend it.", tables = 3_u64, "the slot of \"{}\" is behind", "crieur");
            tracing::debug!("a step");
        });
        String::from_utf8(paper.0.lock().expect("nobody panicked").clone()).expect("lines are text")
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time_and_others_a_time_and_no_priority() {
        let journal = written(Reader::Journal, LogFormat::Text);
        let lines: Vec<&str> = journal.lines().collect();
        assert!(lines[0].starts_with("<4> WARN ") || lines[0].starts_with("<3>ERROR "), "{journal}");
        assert!(lines[0].contains("the slot of \"crieur\" is behind") && lines[0].contains("tables=3"), "{journal}");
        assert!(lines[1].starts_with("<7>DEBUG a step"), "{journal}");
        let other = written(Reader::Other, LogFormat::Text);
        assert!(other.starts_with("20") && !other.contains("<4>") && other.contains("Z "), "{other}");
    }

    #[test]
    fn a_line_of_json_has_each_field_under_its_name() {
        for reader in [Reader::Journal, Reader::Other] {
            let text = written(reader, LogFormat::Json);
            let line = text.lines().next().expect("a line");
            let line = if reader == Reader::Journal { line.split_once('>').expect("a priority").1 } else { line };
            let object: Value = serde_json::from_str(line).expect("an object");
            assert_eq!(object["message"], "the slot of \"crieur\" is behind");
            assert_eq!((&object["hint"], &object["tables"]), (&Value::from("Mend it."), &Value::from(3)), "{line}");
            assert!(object["id"].is_string() && object["level"].is_string() && object["time"].is_string(), "{line}");
        }
    }

    #[test]
    fn each_level_has_its_priority() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }
}
