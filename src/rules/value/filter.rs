//! Filters of a placeholder, `{city|lower}`: one known text to another. Pure; what has no answer is unknown, and widens.

use md5::Digest;

/// What a template may do to a value, in the order of writing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Filter {
    /// Lower case of every character (Unicode), as JavaScript's `toLowerCase`.
    Lower,
    /// Upper case, as `toUpperCase`.
    Upper,
    /// As `encodeURIComponent`.
    UrlEncode,
    /// The digest of the bytes, 32 hexadecimal digits.
    Md5,
    /// The digest of the bytes, 64 hexadecimal digits.
    Sha256,
    /// The year of a date or timestamp.
    Year,
    /// Its month, `1` to `12`.
    Month,
}

impl Filter {
    /// Every filter by its name in a template.
    pub const NAMES: [(&str, Filter); 7] = [
        ("lower", Filter::Lower),
        ("upper", Filter::Upper),
        ("urlencode", Filter::UrlEncode),
        ("md5", Filter::Md5),
        ("sha256", Filter::Sha256),
        ("year", Filter::Year),
        ("month", Filter::Month),
    ];

    /// The filtered text; `None` when there is none: the case of bytes that are no UTF-8, the year of what is no date.
    pub fn apply(self, text: &[u8]) -> Option<Vec<u8>> {
        match self {
            Filter::Lower => Some(std::str::from_utf8(text).ok()?.to_lowercase().into_bytes()),
            Filter::Upper => Some(std::str::from_utf8(text).ok()?.to_uppercase().into_bytes()),
            Filter::UrlEncode => Some(url_encoded(text)),
            Filter::Md5 => Some(hexadecimal(&md5::Md5::digest(text))),
            Filter::Sha256 => Some(hexadecimal(&sha2::Sha256::digest(text))),
            Filter::Year => year_and_month(text).map(|(year, _)| year.to_vec()),
            Filter::Month => year_and_month(text).map(|(_, month)| month.to_vec()),
        }
    }
}

/// Every byte but those that `encodeURIComponent` leaves alone (ECMA-262, "uriUnescaped").
fn url_encoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.extend(digits(byte, b"0123456789ABCDEF"));
        }
    }
    out
}

fn hexadecimal(digest: &[u8]) -> Vec<u8> {
    digest.iter().flat_map(|byte| digits(*byte, b"0123456789abcdef")).collect()
}

fn digits(byte: u8, alphabet: &[u8; 16]) -> [u8; 2] {
    [alphabet[usize::from(byte >> 4)], alphabet[usize::from(byte & 15)]]
}

/// Year and month of `2024-01-31…` in ISO style; `None` for `infinity` and for years before Christ.
fn year_and_month(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let dash = text.iter().position(|byte| *byte == b'-').filter(|dash| *dash >= 4)?;
    let (year, rest) = text.split_at(dash);
    let [b'-', tens, ones, b'-', ..] = rest else { return None };
    let digits = year.iter().chain([tens, ones]).all(u8::is_ascii_digit);
    let month = if *tens == b'0' { &rest[2..3] } else { &rest[1..3] };
    (digits && !text.ends_with(b" BC")).then_some((year, month))
}

/// A timestamp as PostgREST returns it: `2024-01-02 03:04:05.12+00` is `2024-01-02T03:04:05.12+00:00`
/// (`EncodeDateTime` with `USE_XSD_DATES`, src/backend/utils/adt/datetime.c). `infinity` stays.
pub fn iso_timestamp(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    let Some(space) = out.iter().position(|byte| *byte == b' ') else { return out };
    if !out[..space].iter().all(|byte| byte.is_ascii_digit() || *byte == b'-') {
        return out;
    }
    out[space] = b'T';
    // The zone, when it has hours alone, stands at the end or before " BC".
    let end = out[space..].iter().position(|byte| *byte == b' ').map_or(out.len(), |at| space + at);
    if let [b'+' | b'-', b'0'..=b'9', b'0'..=b'9'] = out[end.saturating_sub(3)..end] {
        out.splice(end..end, *b":00");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_make_what_applications_make() {
        let cases = [
            (Filter::Lower, "SAINT-LOUIS Été", Some("saint-louis été")),
            (Filter::Upper, "été ß", Some("ÉTÉ SS")),
            (Filter::UrlEncode, "Thiès & co/é?~*'()", Some("Thi%C3%A8s%20%26%20co%2F%C3%A9%3F~*'()")),
            (Filter::Md5, "", Some("d41d8cd98f00b204e9800998ecf8427e")),
            (Filter::Sha256, "abc", Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")),
            (Filter::Year, "2024-03-01", Some("2024")),
            (Filter::Month, "2024-03-01 10:00:00+00", Some("3")),
            (Filter::Month, "12024-12-01", Some("12")),
            (Filter::Year, "infinity", None),
            (Filter::Year, "0044-03-15 BC", None),
            (Filter::Month, "", None),
            (Filter::Month, "2024-3-1", None),
            (Filter::Year, "-infinity", None),
        ];
        for (filter, text, expected) in cases {
            let made = filter.apply(text.as_bytes());
            assert_eq!(made.as_deref(), expected.map(str::as_bytes), "{filter:?} {text}");
        }
        assert_eq!(Filter::Lower.apply(b"\xff"), None);
    }

    #[test]
    fn timestamps_are_written_as_postgrest_writes_them() {
        let cases = [
            ("2024-01-02 03:04:05.123456+00", "2024-01-02T03:04:05.123456+00:00"),
            ("2024-01-02 03:04:05+05:30", "2024-01-02T03:04:05+05:30"),
            ("2024-01-02 03:04:05-03", "2024-01-02T03:04:05-03:00"),
            ("2024-01-02 03:04:05", "2024-01-02T03:04:05"),
            ("0044-03-15 00:00:00+00 BC", "0044-03-15T00:00:00+00:00 BC"),
            ("infinity", "infinity"),
            ("not a date", "not a date"),
            ("", ""),
            (" ", "T"),
        ];
        for (text, expected) in cases {
            assert_eq!(String::from_utf8_lossy(&iso_timestamp(text.as_bytes())), expected, "{text}");
        }
    }
}
