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

/// So many in so long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// How many, at least one.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

/// So many a second, a minute or an hour, as in `10/s`, `5/min` and `1000/h`.
pub fn rate(text: &str) -> Option<RateLimit> {
    let (count, unit) = text.split_once('/')?;
    let per = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        _ => return None,
    };
    let count = count.trim().parse().ok().filter(|count| (1..=100_000).contains(count))?;
    Some(RateLimit { count, per: Duration::from_secs(per) })
}

/// Commands: a number, perhaps with a decimal point, and `k` or `M`, as in `200k` and `1.5M`.
pub fn commands(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let digits: u32 = match unit.trim() {
        "" => 0,
        "k" | "K" => 3,
        "M" => 6,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Zeros behind the last digit of the part say nothing.
    let length: u32 = part.trim_end_matches('0').len().try_into().ok()?;
    let missing = digits.checked_sub(length)?;
    let part: u64 = part.parse::<u64>().ok()? / 10_u64.checked_pow(u32::try_from(part.len()).ok()? - length)?;
    whole.parse::<u64>().ok()?.checked_mul(10_u64.pow(digits))?.checked_add(part.checked_mul(10_u64.pow(missing))?)
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
    fn a_rate_is_a_number_and_a_time() {
        let of = |count, seconds| Some(RateLimit { count, per: Duration::from_secs(seconds) });
        for (text, expected) in [
            ("5/min", of(5, 60)),
            ("10/s", of(10, 1)),
            (" 1000 / h ", of(1_000, 3_600)),
            ("0/s", None),
            ("5", None),
            ("5/d", None),
            ("-1/s", None),
            ("100001/s", None),
        ] {
            assert_eq!(rate(text), expected, "{text}");
        }
    }

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
        for (text, number) in [
            ("200k", Some(200_000)),
            ("1.5M", Some(1_500_000)),
            ("0.0005 M", Some(500)),
            ("12", Some(12)),
            ("2.50k", Some(2_500)),
            ("1.5", None),
            ("1.0005k", None),
            ("1G", None),
            (".5k", None),
            ("1.k", None),
            ("", None),
            ("99999999999999999999M", None),
        ] {
            assert_eq!(commands(text), number, "{text}");
        }
    }
}
