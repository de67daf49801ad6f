//! Durations and sizes as people write them: a whole number and a unit.

use std::time::Duration;

/// A whole number and a unit, as in `250ms`, `2s`, `5m`, `1h`; zero needs none.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 0,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// A size: a whole number of bytes, and a unit as in `64MiB` or `64MB`.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// The duration as it would be written in a configuration.
pub fn shown(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    match milliseconds {
        0 => "0s".to_owned(),
        whole if whole % 3_600_000 == 0 => format!("{}h", whole / 3_600_000),
        whole if whole % 60_000 == 0 => format!("{}m", whole / 60_000),
        whole if whole % 1_000 == 0 => format!("{}s", whole / 1_000),
        whole => format!("{whole}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_that_exists() {
        let durations = [
            ("250ms", Some(250)),
            ("2s", Some(2_000)),
            ("1m", Some(60_000)),
            ("0", Some(0)),
            ("5", None),
            ("1d", None),
            ("-1s", None),
            ("", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, milliseconds) in durations {
            assert_eq!(duration(text), milliseconds.map(Duration::from_millis), "{text}");
        }
        let sizes = [
            ("64MiB", Some(64 << 20)),
            ("64MB", Some(64_000_000)),
            ("1 GiB", Some(1 << 30)),
            ("12", Some(12)),
            ("1TB", None),
            ("x", None),
        ];
        for (text, size) in sizes {
            assert_eq!(bytes(text), size, "{text}");
        }
    }
}
