//! Wall clock as HTTP and JSON write it. Pure.

/// Days before the first of each month of a year that is none of 366 days.
const DAYS_BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

fn is_long(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from 1970 to the first of this year.
fn days_to(year: u64) -> u64 {
    let before = year - 1;
    let leaps = before / 4 - before / 100 + before / 400;
    (year - 1970) * 365 + leaps - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

/// Days from 1970 to this day; months and days count from 1.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let before = *DAYS_BEFORE.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let leap = u64::from(month > 2 && is_long(year));
    (1970..=9999).contains(&year).then(|| days_to(year) + before + leap)?.checked_add(day.checked_sub(1)?)
}

/// Seconds since 1970, as RFC 3339 writes them.
pub(super) fn rfc3339(seconds: u64) -> String {
    let (all, second) = (seconds / 86_400, seconds % 86_400);
    let year = (1970..=9999).take_while(|year| days_to(*year) <= all).last().unwrap_or(1970);
    let month =
        (1..=12).take_while(|month| days(year, *month, 1).is_some_and(|first| first <= all)).last().unwrap_or(1);
    let day = all - days(year, month, 1).unwrap_or(all) + 1;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// What `Retry-After` says, in seconds from `now`: a number, or a date.
pub(in crate::cache) fn retry_after(text: &str, now: u64) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| date(text).map(|then| then.saturating_sub(now)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: the one form that servers still write.
fn date(text: &str) -> Option<u64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let mut next = || words.next();
    let (day, month, year, clock, zone) = (next()?, next()?, next()?, next()?, next()?);
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let days = days(year.parse().ok()?, month, day.parse().ok()?)?;
    let parts: Vec<u64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    let is_clock = hours < 24 && minutes < 60 && seconds <= 60 && zone == "GMT";
    is_clock.then_some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_everybody_reads_it() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_910_400, "2026-11-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn a_pause_is_read_in_both_forms() {
        for (text, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 29 Nov 2026 00:01:00 GMT", Some(60)),
            ("Sat, 28 Nov 2026 00:01:00 GMT", Some(0)),
            ("Sun, 29 Nov 2026 00:01:00 CET", None),
            ("Sun, 29 Nix 2026 00:01:00 GMT", None),
            ("soon", None),
            ("-1", None),
            ("Sun, 29 Nov 99999999999999999999 00:01:00 GMT", None),
        ] {
            assert_eq!(retry_after(text, 1_795_910_400), expected, "{text}");
        }
    }
}
