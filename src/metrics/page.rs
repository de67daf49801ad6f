//! Prometheus' text format, version 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;
use std::time::Duration;

/// What is written so far. A `String` takes everything, so no write fails.
pub(super) struct MetricsPage(String);

impl MetricsPage {
    pub(super) fn new() -> Self {
        MetricsPage(String::with_capacity(16 * 1024))
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// A series with our prefix: its help and kind, once, ahead of its values.
    pub(super) fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.foreign_head(&format!("crieur_{name}"), help, kind);
    }

    /// The same with whatever name it has everywhere.
    pub(super) fn foreign_head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(super) fn foreign(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.value(name, &[], &value.to_string());
    }

    pub(super) fn seconds(&mut self, name: &str, help: &str, value: Duration) {
        self.head(name, help, "gauge");
        self.value(name, &[], &shown(value));
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.value(name, &[], &value.to_string());
    }

    /// One value of the series that was begun, with its labels.
    pub(super) fn value(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let _ = write!(self.0, "crieur_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"");
            self.escaped(text);
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A table may be called anything.
    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }
}

/// Seconds, as far as anybody reads them.
pub(super) fn shown(value: Duration) -> String {
    format!("{:.3}", value.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_hold_anything() {
        let mut page = MetricsPage::new();
        page.value("x", &[("table", "public.\"a\\b\"\nc"), ("cache", "main")], "1");
        assert_eq!(page.into_text(), "crieur_x{table=\"public.\\\"a\\\\b\\\"\\nc\",cache=\"main\"} 1\n");
    }
}
