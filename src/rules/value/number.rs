//! Numbers as text: as JavaScript writes them, and which of two is greater. Exact: no digit goes through a float.

use std::cmp::Ordering;

/// `250000.00` -> `250000`, `1.50` -> `1.5`; `100`, `NaN` and `Infinity` stay.
pub fn without_trailing_zeros(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let end = text.iter().rposition(|byte| *byte != b'0').map_or(0, |last| last + 1);
    text[..end].strip_suffix(b".").unwrap_or(&text[..end])
}

/// Whether JavaScript writes this plain number with an exponent: below a millionth, or from 1e21 on.
pub fn has_exponent_in_javascript(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let whole = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    (digits.starts_with(b"0.000000")) || (whole > 21 && digits[0].is_ascii_digit())
}

/// A decimal number: `0.digits × 10^point`. Digits have no zero at either end; zero has none.
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
}

/// Exponents beyond this are no number for us; PostgreSQL's own end at 131072.
const EXPONENT_MAX: i64 = 1 << 20;

fn decimal(text: &[u8]) -> Option<Decimal> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    let end = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let exponent: i64 = match &text[end..] {
        [] => 0,
        [_, digits @ ..] => std::str::from_utf8(digits).ok()?.parse().ok()?,
    };
    let mantissa = &text[..end];
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.get(point + 1..).unwrap_or_default();
    let digits = [&mantissa[..point], fraction].concat();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || exponent.abs() > EXPONENT_MAX {
        return None;
    }
    let Some(first) = digits.iter().position(|digit| *digit != b'0') else {
        return Some(Decimal { negative: false, digits: Vec::new(), point: 0 });
    };
    let last = digits.iter().rposition(|digit| *digit != b'0')?;
    let point = point as i64 - first as i64 + exponent;
    Some(Decimal { negative, digits: digits[first..=last].to_vec(), point })
}

/// As `Number.prototype.toString` writes the same digits (ECMA-262, "Number::toString"): `1e+20` is
/// `100000000000000000000`, `1e-05` is `0.00001`, `-0` is `0`. What is no number (`NaN`, `Infinity`) is `None`.
///
/// JavaScript itself rounds beyond 2^53; here every digit stays.
pub fn as_javascript(text: &[u8]) -> Option<Vec<u8>> {
    let Decimal { negative, digits, point } = decimal(text)?;
    let mut out = Vec::with_capacity(digits.len() + 8);
    if negative {
        out.push(b'-');
    }
    let count = digits.len() as i64;
    match point {
        _ if digits.is_empty() => out.push(b'0'),
        point if count <= point && (point <= 21 || point == count) => {
            out.extend_from_slice(&digits);
            out.resize(out.len() + (point - count) as usize, b'0');
        }
        point if 0 < point && point < count => {
            let (whole, fraction) = digits.split_at(point as usize);
            out.extend([whole, b".", fraction].concat());
        }
        point if -6 < point && point <= 0 => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + point.unsigned_abs() as usize, b'0');
            out.extend_from_slice(&digits);
        }
        point => {
            let (first, rest) = digits.split_at(1);
            out.extend_from_slice(first);
            if !rest.is_empty() {
                out.push(b'.');
                out.extend_from_slice(rest);
            }
            out.extend_from_slice(format!("e{:+}", point - 1).as_bytes());
        }
    }
    Some(out)
}

/// So few digits that nothing overflows, not when two are compared either.
const SHORT_MAX: usize = 18;

/// Powers of ten.
const POWERS: [i128; SHORT_MAX + 1] = {
    let mut powers = [1; SHORT_MAX + 1];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// A number of few digits as an integer and how many of these stand behind the point: `-1.50` is -150 and 2.
#[inline]
fn short(text: &[u8]) -> Option<(i64, usize)> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut number, mut behind, mut point) = (0_i64, 0, false);
    if digits.len() > SHORT_MAX {
        return None;
    }
    for byte in digits {
        match byte {
            b'0'..=b'9' => {
                number = number * 10 + i64::from(byte - b'0');
                behind += usize::from(point);
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    (digits.len() > usize::from(point)).then_some((if negative { -number } else { number }, behind))
}

/// Compares as numbers; `None` when one is no number. `NaN` equals itself and is greater than all, as in PostgreSQL.
pub fn compare(left: &[u8], right: &[u8]) -> Option<Ordering> {
    if let (Some((left, left_behind)), Some((right, right_behind))) = (short(left), short(right)) {
        let scaled = |number: i64, behind: usize| i128::from(number) * POWERS[behind];
        return Some(scaled(left, right_behind).cmp(&scaled(right, left_behind)));
    }
    let rank = |text: &[u8]| match text {
        b"-Infinity" => Some(-1),
        b"Infinity" => Some(1),
        b"NaN" => Some(2),
        _ => None,
    };
    match (rank(left), rank(right)) {
        (None, None) => {}
        (left_rank, right_rank) => {
            let known = |rank: Option<i8>, text| rank.or_else(|| decimal(text).map(|_| 0));
            return Some(known(left_rank, left)?.cmp(&known(right_rank, right)?));
        }
    }
    let (left, right) = (decimal(left)?, decimal(right)?);
    let sign = |number: &Decimal| match (number.digits.is_empty(), number.negative) {
        (true, _) => 0,
        (false, true) => -1,
        (false, false) => 1,
    };
    let size = left.point.cmp(&right.point).then_with(|| left.digits.cmp(&right.digits));
    Some(sign(&left).cmp(&sign(&right)).then(if left.negative { size.reverse() } else { size }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_written_as_javascript_writes_them() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("1.50", "1.5"),
            ("-12.5", "-12.5"),
            ("1e+20", "100000000000000000000"),
            ("1.5e+20", "150000000000000000000"),
            ("1e+21", "1e+21"),
            ("1.25e+22", "1.25e+22"),
            ("1e-05", "0.00001"),
            ("1e-06", "0.000001"),
            ("1e-07", "1e-7"),
            ("1.5e-10", "1.5e-10"),
            ("123456789.123", "123456789.123"),
            ("9007199254740993", "9007199254740993"),
            ("1e15", "1000000000000000"),
            // As `node` printed what PostgreSQL's own to_json wrote.
            ("9.007199254740992e+15", "9007199254740992"),
            ("1.6777216e+07", "16777216"),
            ("1.2345679e+06", "1234567.9"),
            ("1.1754944e-38", "1.1754944e-38"),
            ("3.4028235e+38", "3.4028235e+38"),
            ("1.7976931348623157e+308", "1.7976931348623157e+308"),
            ("5e-324", "5e-324"),
            ("0.0000001", "1e-7"),
            ("-0.00000012300", "-1.23e-7"),
            ("1000000000000000000000", "1e+21"),
        ];
        for (sent, written) in cases {
            let made = as_javascript(sent.as_bytes()).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&made), written, "{sent}");
        }
        for text in ["NaN", "Infinity", "", "-", ".", "1e", "1x", "1e999999999999", "1.2.3", "e5"] {
            assert_eq!(as_javascript(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn numbers_compare_exactly() {
        let ascending = [
            "-Infinity",
            "-1e3",
            "-10.5",
            "-10.4",
            "0",
            "0.001",
            "1e-2",
            "1",
            "1.00000000000000000001",
            "2",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e30",
            "Infinity",
            "NaN",
        ];
        for (i, left) in ascending.iter().enumerate() {
            for (j, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left.as_bytes(), right.as_bytes()), Some(i.cmp(&j)), "{left} {right}");
            }
        }
        assert_eq!(compare(b"1.0", b"1"), Some(Ordering::Equal));
        assert_eq!(compare(b"-0", b"0"), Some(Ordering::Equal));
        assert_eq!(compare(b"x", b"1"), None);
        assert_eq!(compare(b"NaN", b"x"), None);
    }

    proptest! {
        #[test]
        fn doubles_read_back_as_themselves(number in any::<f64>()) {
            prop_assume!(number.is_finite());
            let made = as_javascript(format!("{number:e}").as_bytes()).expect("a number");
            let text = String::from_utf8(made).expect("digits");
            prop_assert_eq!(text.parse::<f64>().ok(), Some(number + 0.0));
        }

        #[test]
        fn no_bytes_panic(a in "[-+0-9.eE]{0,12}", b in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = (as_javascript(a.as_bytes()), as_javascript(&b), compare(a.as_bytes(), &b));
        }
    }
}
