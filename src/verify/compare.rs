//! Whether a cached value says what the database says. Pure.
//!
//! A value is stale when it says something else, not when it is written otherwise: programs write `12.50` or `"12.5"` for
//! one number, and `.123Z` or `.123456+00:00` for one moment.

use serde_json::{Map, Value};

/// How a cached value is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// `json`: the whole value.
    Json,
    /// `text`: byte for byte.
    Text,
    /// `path:a.b`: what stands there in the value.
    Path(Vec<String>),
}

/// What the database says of a key.
#[derive(Clone, PartialEq, Debug)]
pub enum DatabaseSays {
    /// There is no row.
    Nothing,
    /// The row, as an object of its columns.
    Row(Map<String, Value>),
    /// For [`Compare::Text`]: the text of the first column; `None` is NULL.
    Text(Option<String>),
}

impl std::fmt::Display for Compare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Compare::Json => f.write_str("json"),
            Compare::Text => f.write_str("text"),
            Compare::Path(path) => write!(f, "path:{}", path.join(".")),
        }
    }
}

/// The fewest bytes of a lease in a key: `L`, and 128 random bits as few letters as may be.
const LEASE_BYTES_MIN: usize = 22;

/// Whether this is a lease in the place of a value, as the readers' protocol writes one: `L` and a long random text.
pub fn is_lease(cached: &[u8]) -> bool {
    let is_random = |byte: &u8| byte.is_ascii_alphanumeric() || b":-_".contains(byte);
    cached.len() >= LEASE_BYTES_MIN && cached.starts_with(b"L") && cached.iter().all(is_random)
}

impl Compare {
    /// Reads `compare`; `None` where it is none of the three.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "json" => Some(Compare::Json),
            "text" => Some(Compare::Text),
            _ => {
                let path: Vec<String> = text.strip_prefix("path:")?.split('.').map(str::to_owned).collect();
                (!path.iter().any(String::is_empty)).then_some(Compare::Path(path))
            }
        }
    }

    /// Whether the cached value says what the database says.
    pub fn is_same(&self, cached: &[u8], told: &DatabaseSays) -> bool {
        if let DatabaseSays::Text(text) = told {
            return text.as_deref().unwrap_or_default().as_bytes() == cached;
        }
        // With the lease in the key, readers write V before each value; no JSON begins with it.
        let cached = cached.strip_prefix(b"V").unwrap_or(cached);
        let read: Option<Value> = serde_json::from_slice(cached).ok();
        match (self, told) {
            // Where there is no row, programs keep nothing, null, or an empty list.
            (_, DatabaseSays::Nothing) => {
                cached.is_empty()
                    || read.is_some_and(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty))
            }
            (Compare::Json, DatabaseSays::Row(row)) => read.is_some_and(|value| {
                let alone = (row.len() == 1).then(|| row.values().next()).flatten();
                alone.is_some_and(|alone| is_alike(&value, alone)) || is_alike(&value, &Value::Object(row.clone()))
            }),
            (Compare::Path(path), DatabaseSays::Row(row)) => {
                let told = match row.values().next() {
                    Some(alone) if row.len() == 1 => at(alone, path).unwrap_or(alone),
                    _ => path_of(row, path).unwrap_or(&Value::Null),
                };
                read.as_ref().and_then(|value| at(value, path)).is_some_and(|value| is_alike(value, told))
            }
            (Compare::Text, DatabaseSays::Row(_)) | (_, DatabaseSays::Text(_)) => false,
        }
    }
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

fn path_of<'v>(row: &'v Map<String, Value>, path: &[String]) -> Option<&'v Value> {
    let (first, others) = path.split_first()?;
    at(row.get(first)?, others)
}

/// Whether two values say the same. What an object does not have is null.
fn is_alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let covered = |a: &Map<String, Value>, b: &Map<String, Value>| {
                a.iter().all(|(name, value)| is_alike(value, b.get(name).unwrap_or(&Value::Null)))
            };
            covered(a, b) && b.iter().all(|(name, value)| a.contains_key(name) || value.is_null())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_alike(a, b)),
        (Value::Number(number), Value::String(text)) | (Value::String(text), Value::Number(number)) => {
            is_number(text) && is_equal(&number.to_string(), text)
        }
        (Value::Number(a), Value::Number(b)) => is_equal(&a.to_string(), &b.to_string()),
        (Value::String(a), Value::String(b)) => a == b || moment(a).zip(moment(b)).is_some_and(|(a, b)| a.is(&b)),
        (a, b) => a == b,
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
}

/// Whether two texts are one number: whole ones to the last digit.
fn is_equal(a: &str, b: &str) -> bool {
    match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b),
    }
}

/// A point in time, in microseconds, and whether it was written to the millisecond only.
struct Moment {
    micros: i64,
    is_short: bool,
}

impl Moment {
    /// Programs that know milliseconds cut the others off.
    fn is(&self, other: &Moment) -> bool {
        let grain = if self.is_short || other.is_short { 1_000 } else { 1 };
        self.micros.div_euclid(grain) == other.micros.div_euclid(grain)
    }
}

/// `2026-11-28T21:48:08.123Z`, `2026-11-28 21:48:08+00`. Without a zone it is UTC.
fn moment(text: &str) -> Option<Moment> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let bytes = text.as_bytes();
    let is_form = bytes.len() >= 19
        && [(4, "-"), (7, "-"), (10, "T "), (13, ":"), (16, ":")]
            .iter()
            .all(|(at, any)| any.as_bytes().contains(&bytes[*at]));
    if !is_form {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let seconds = days(year, month, day) * 86_400 + number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?;
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let micros = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    let micros = micros.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    let zone = match (zone.get(..1), zone.get(1..)) {
        (None, _) | (Some("Z"), Some("")) => 0,
        (Some(sign @ ("+" | "-")), Some(written)) => {
            let digits: String = written.chars().filter(|digit| *digit != ':').collect();
            let (hours, minutes) = match digits.len() {
                2 => (digits.parse::<i64>().ok()?, 0),
                4 => (digits.get(..2)?.parse().ok()?, digits.get(2..)?.parse().ok()?),
                _ => return None,
            };
            (hours * 3_600 + minutes * 60) * if sign == "+" { 1 } else { -1 }
        }
        _ => return None,
    };
    Some(Moment { micros: (seconds - zone) * 1_000_000 + micros, is_short: fraction.len() == 3 })
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // A year begins in March here, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> DatabaseSays {
        DatabaseSays::Row(serde_json::from_str(text).expect("an object"))
    }

    #[test]
    fn what_is_written_otherwise_is_the_same_and_what_says_otherwise_is_not() {
        let cases = [
            ("json", r#"{"id":1,"price":"12.5"}"#, r#"{"price":12.50,"id":1}"#, true),
            ("json", r#"{"id":1,"price":"12.6"}"#, r#"{"price":12.50,"id":1}"#, false),
            ("json", r#"{"id":1}"#, r#"{"id":1,"note":null}"#, true),
            ("json", r#"{"id":1}"#, r#"{"id":1,"note":"x"}"#, false),
            ("json", r#"{"id":1,"more":2}"#, r#"{"id":1}"#, false),
            ("json", r#"{"id":1}"#, r#"{"p":{"id":1}}"#, true),
            ("json", r#"[{"id":1}]"#, r#"{"list":[{"id":1}]}"#, true),
            ("json", r#"[{"id":1}]"#, r#"{"list":[{"id":1},{"id":2}]}"#, false),
            ("json", r#"{"id":"9007199254740993"}"#, r#"{"id":9007199254740993}"#, true),
            ("json", r#"{"id":"9007199254740992"}"#, r#"{"id":9007199254740993}"#, false),
            ("json", r#"{"tel":"0701"}"#, r#"{"tel":"701"}"#, false),
            ("json", "stale", r#"{"id":1}"#, false),
            ("json", r#"V{"id":1}"#, r#"{"id":1}"#, true),
            ("json", r#"V{"id":1}"#, r#"{"id":2}"#, false),
            ("path:id", r#"V{"id":1}"#, r#"{"id":1}"#, true),
            (
                "path:updated_at",
                r#"{"updated_at":"2026-11-28T21:48:08.123Z"}"#,
                r#"{"u":"2026-11-28T22:48:08.123456+01:00"}"#,
                true,
            ),
            (
                "path:updated_at",
                r#"{"updated_at":"2026-11-28T21:48:08.124Z"}"#,
                r#"{"u":"2026-11-28T21:48:08.123456+00:00"}"#,
                false,
            ),
            ("path:updated_at", r#"{"updated_at":"2026-11-28T21:48:08Z"}"#, r#"{"u":"2026-11-28T21:48:09+00"}"#, false),
            ("path:data.version", r#"{"data":{"version":3}}"#, r#"{"version":3}"#, true),
            ("path:version", r#"{"version":3}"#, r#"{"id":1,"version":4}"#, false),
            ("path:version", r#"{}"#, r#"{"version":4}"#, false),
        ];
        for (compare, cached, told, expected) in cases {
            let compare = Compare::read(compare).expect("known");
            assert_eq!(compare.is_same(cached.as_bytes(), &row(told)), expected, "{compare:?} {cached} {told}");
        }
    }

    #[test]
    fn without_a_row_nothing_and_null_are_the_same() {
        for (cached, expected) in [("null", true), ("", true), ("[]", true), (r#"{"id":1}"#, false), ("x", false)] {
            assert_eq!(Compare::Json.is_same(cached.as_bytes(), &DatabaseSays::Nothing), expected, "{cached}");
        }
        let text = |text: Option<&str>| DatabaseSays::Text(text.map(str::to_owned));
        assert!(Compare::Text.is_same(b"12.50", &text(Some("12.50"))) && Compare::Text.is_same(b"", &text(None)));
        assert!(!Compare::Text.is_same(b"12.5", &text(Some("12.50"))));
    }

    #[test]
    fn a_lease_is_told_from_a_value_by_its_form() {
        for (cached, expected) in [
            ("L0123456789abcdef0123456789abcdef", true),
            ("L0123456789abcdef0123456789abcdef:1764374942:123456", true),
            ("Lagos", false),
            ("Lagos Island, 12 Broad Street, Nigeria", false),
            ("V0123456789abcdef0123456789abcdef", false),
            ("", false),
        ] {
            assert_eq!(is_lease(cached.as_bytes()), expected, "{cached}");
        }
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (date, expected) in
            [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((2000, 3, 1), 11_017), ((2026, 11, 28), 20_785)]
        {
            assert_eq!(days(date.0, date.1, date.2), expected, "{date:?}");
        }
    }

    #[test]
    fn an_unknown_word_is_no_comparison() {
        for text in ["", "JSON", "path:", "path:a..b", "hash"] {
            assert_eq!(Compare::read(text), None, "{text}");
        }
        assert_eq!(Compare::read("path:a.b"), Some(Compare::Path(vec!["a".into(), "b".into()])));
    }
}
