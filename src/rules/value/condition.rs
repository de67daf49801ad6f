//! Conditions on one row image, `when = "status = 'disponible' and price < 100"`: SQL's three values and a fourth, unknown.
//!
//! A condition is asked which truth values are [`Possible`]: a value that is not in the stream, and a comparison whose
//! outcome only the server knows (the order of texts and of an enum, another spelling of a date), leave more than one.
//! A rule is held back only where true is impossible.

use std::cmp::Ordering;

use crate::change::Value;
use crate::rules::value::like::{self, Like};
use crate::rules::value::number;

/// A set of SQL truth values: which ones a condition may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Possible(u8);

impl Possible {
    /// No truth value: of no condition.
    pub const NOTHING: Possible = Possible(0);
    /// False and nothing else.
    pub const FALSE: Possible = Possible(1);
    /// NULL and nothing else.
    pub const NULL: Possible = Possible(2);
    /// True and nothing else.
    pub const TRUE: Possible = Possible(4);
    /// True or false: both values are there, their order is not known.
    pub const EITHER: Possible = Possible(5);
    /// Anything.
    pub const ANY: Possible = Possible(7);

    /// Exactly this.
    pub fn is(truth: bool) -> Self {
        if truth { Possible::TRUE } else { Possible::FALSE }
    }

    /// Whether true is possible.
    pub fn may_hold(self) -> bool {
        self.0 & 4 != 0
    }

    /// What `and` of them all may be; those behind one that must be false are not looked at.
    #[inline]
    pub(in crate::rules) fn all(each: impl Iterator<Item = Possible>) -> Self {
        let mut possible = Possible::TRUE;
        for each in each {
            possible = possible.and(each);
            if possible == Possible::FALSE {
                break;
            }
        }
        possible
    }

    /// What `not` of it may be.
    #[inline]
    pub fn negated(self) -> Self {
        Possible(self.0 & 2 | (self.0 & 1) << 2 | (self.0 & 4) >> 2)
    }

    /// SQL's `and` is the lesser of false < NULL < true; here of every pair: false where either may be false, true where
    /// both may be true, NULL where one may be NULL and neither must be false.
    #[inline]
    fn and(self, other: Self) -> Self {
        let either = self.0 | other.0;
        let null = if self.0 & 6 != 0 && other.0 & 6 != 0 { either & 2 } else { 0 };
        Possible(either & 1 | null | self.0 & other.0 & 4)
    }
}

/// A constant of a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Constant {
    /// `'text'`.
    Text(Vec<u8>),
    /// `1.5`, as written.
    Number(Vec<u8>),
    /// `true`, `false`.
    Boolean(bool),
}

/// The right side of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Right<P> {
    /// A constant.
    Constant(Constant),
    /// Another value of the same row image.
    Value(P),
}

/// How two values compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`, `<>`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::AtLeast => order.is_ge(),
        }
    }

    /// The same with its sides exchanged.
    pub fn turned(self) -> Self {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::AtMost => Comparison::AtLeast,
            Comparison::Greater => Comparison::Less,
            Comparison::AtLeast => Comparison::AtMost,
            Comparison::Equal | Comparison::Unequal => self,
        }
    }
}

/// A condition whose values are named by `P`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition<P> {
    /// All of them.
    And(Vec<Condition<P>>),
    /// One of them.
    Or(Vec<Condition<P>>),
    /// The contrary; NULL stays NULL.
    Not(Box<Condition<P>>),
    /// `a < b`
    Compare(P, Comparison, Right<P>),
    /// `a like 'b%'`
    Like(P, Like),
    /// `a is null`
    IsNull(P),
    /// A boolean value alone.
    Holds(P),
    /// `true`, `false`.
    Constant(bool),
}

/// What is known of a type, as far as comparing needs it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Integers, `numeric`: exact.
    Number,
    /// `double precision`, and what is compared with one.
    Double,
    /// `real`.
    Real,
    /// `real` beside another type of number: SQL takes both for `double precision`, unless it is told otherwise.
    RealAndOther,
    /// `bool`.
    Boolean,
    /// `text`, `varchar`, and what `->>` gives.
    Text,
    /// `char(n)`: blanks at the end do not count.
    Padded,
    /// `date`, `timestamp`, `timestamptz`.
    Time,
    /// `uuid`: case does not count.
    Uuid,
    /// Enums, domains, extensions' types, arrays: only equal texts are surely equal.
    Other,
}

impl Kind {
    /// `pg_type.oid` of built-in types.
    pub fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 | 26 | 1700 => Kind::Number,
            700 => Kind::Real,
            701 => Kind::Double,
            16 => Kind::Boolean,
            25 | 1043 | 19 => Kind::Text,
            1042 => Kind::Padded,
            1082 | 1114 | 1184 => Kind::Time,
            2950 => Kind::Uuid,
            _ => Kind::Other,
        }
    }

    /// How two texts of this type are ordered; `None` when only the server knows.
    fn order(self, left: &[u8], right: &[u8]) -> Option<Ordering> {
        match self {
            Kind::Number => number::compare(left, right),
            Kind::Double => Some(order(double(left)?, double(right)?)),
            Kind::Real => Some(order(real(left)?, real(right)?)),
            Kind::RealAndOther => {
                let both = order(real(left)?, real(right)?);
                let each = [order(real(left)?, double(right)?), order(double(left)?, real(right)?)];
                (each == [both; 2]).then_some(both)
            }
            Kind::Boolean => Some(boolean(left)?.cmp(&boolean(right)?)),
            Kind::Text => collated(left, right),
            Kind::Padded => collated(unpadded(left), unpadded(right)),
            Kind::Time => times(left, right),
            Kind::Uuid if left.len() == 36 && right.len() == 36 => {
                Some(left.to_ascii_lowercase().cmp(&right.to_ascii_lowercase()))
            }
            Kind::Uuid | Kind::Other => (left == right).then_some(Ordering::Equal),
        }
    }

    /// Texts that no type with this text, in no locale, could take for the same value.
    fn differ(self, left: &[u8], right: &[u8]) -> bool {
        let same_number = || number::compare(left, right).is_some_and(Ordering::is_eq);
        match self {
            Kind::Text => left != right,
            Kind::Padded => unpadded(left) != unpadded(right),
            Kind::Other => {
                let text = |text| std::str::from_utf8(unpadded(text)).ok();
                text(left).zip(text(right)).is_some_and(|(left, right)| like::surely_differ(left, right))
                    && !same_number()
            }
            Kind::Number | Kind::Double | Kind::Real | Kind::RealAndOther => false,
            Kind::Boolean | Kind::Time | Kind::Uuid => false,
        }
    }

    /// The kind that a value of this one is compared as beside another.
    fn beside(self, other: Kind) -> Kind {
        match (self, other) {
            (kind, other) if kind == other => kind,
            (Kind::Real | Kind::RealAndOther, _) | (_, Kind::Real | Kind::RealAndOther) => Kind::RealAndOther,
            (Kind::Double, _) | (_, Kind::Double) => Kind::Double,
            (Kind::Number, _) | (_, Kind::Number) => Kind::Number,
            // A text out of JSON that is read as the other.
            (kind @ (Kind::Boolean | Kind::Time | Kind::Uuid), Kind::Text) => kind,
            (Kind::Text, kind @ (Kind::Boolean | Kind::Time | Kind::Uuid)) => kind,
            (_, _) => Kind::Other,
        }
    }
}

/// The order of two texts in every collation: only equal ones are equal, the empty one is the least, and which of two
/// others is less differs.
fn collated(left: &[u8], right: &[u8]) -> Option<Ordering> {
    (left == right || left.is_empty() || right.is_empty()).then(|| left.cmp(right))
}

fn double(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The nearest `real`, which `double precision` holds exactly.
fn real(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f32>().ok().map(f64::from)
}

/// `NaN` equals itself and is greater than all, as in PostgreSQL.
fn order(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// `t`, `true`, `f`, `false`.
fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" | b"true" => Some(true),
        b"f" | b"false" => Some(false),
        _ => None,
    }
}

fn unpadded(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// ISO dates and times in order of their bytes, where that is the order of time: four digits of the year, the same zone
/// or none, and neither the beginning of the other.
fn times(left: &[u8], right: &[u8]) -> Option<Ordering> {
    if left == right {
        return Some(Ordering::Equal);
    }
    let (left_zone, right_zone) = (zone(left)?, zone(right)?);
    let same_zone = left_zone == right_zone || left_zone.is_empty() || right_zone.is_empty();
    (same_zone && !left.starts_with(right) && !right.starts_with(left)).then(|| left.cmp(right))
}

/// The zone of `2024-01-02 03:04:05.6+00`, perhaps empty; `None` for any other shape.
fn zone(text: &[u8]) -> Option<&[u8]> {
    let (date, time) = text.split_at_checked(10)?;
    let is_date = date.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let zone = time.iter().position(|byte| matches!(byte, b'+' | b'-')).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let is_time = time.is_empty() || (time[0] == b' ' && time[1..].iter().all(|byte| b"0123456789:.".contains(byte)));
    let is_zone = zone.iter().all(|byte| b"+-:0123456789".contains(byte));
    (is_date && is_time && is_zone).then_some(zone)
}

impl<P> Condition<P> {
    /// Calls `visit` with every value that the condition reads.
    pub fn visit<'a>(&'a self, visit: &mut impl FnMut(&'a P)) {
        match self {
            Condition::And(all) | Condition::Or(all) => all.iter().for_each(|each| each.visit(visit)),
            Condition::Not(inner) => inner.visit(visit),
            Condition::Compare(left, _, right) => {
                visit(left);
                if let Right::Value(right) = right {
                    visit(right);
                }
            }
            Condition::Like(value, _) | Condition::IsNull(value) | Condition::Holds(value) => visit(value),
            Condition::Constant(_) => {}
        }
    }

    /// The same condition over other names of its values.
    pub fn map<Q>(&self, name: &mut impl FnMut(&P) -> Q) -> Condition<Q> {
        match self {
            Condition::And(all) => Condition::And(all.iter().map(|each| each.map(name)).collect()),
            Condition::Or(all) => Condition::Or(all.iter().map(|each| each.map(name)).collect()),
            Condition::Not(inner) => Condition::Not(Box::new(inner.map(name))),
            Condition::Compare(left, comparison, right) => {
                let left = name(left);
                let right = match right {
                    Right::Constant(constant) => Right::Constant(constant.clone()),
                    Right::Value(right) => Right::Value(name(right)),
                };
                Condition::Compare(left, *comparison, right)
            }
            Condition::Like(value, like) => Condition::Like(name(value), like.clone()),
            Condition::IsNull(value) => Condition::IsNull(name(value)),
            Condition::Holds(value) => Condition::Holds(name(value)),
            Condition::Constant(truth) => Condition::Constant(*truth),
        }
    }

    /// Which truth values the condition may have; `read` tells a value and its kind.
    pub fn possible<'v>(&self, read: &impl Fn(&P) -> (Value<'v>, Kind)) -> Possible {
        match self {
            Condition::And(all) => Possible::all(all.iter().map(|each| each.possible(read))),
            Condition::Or(all) => Possible::all(all.iter().map(|each| each.possible(read).negated())).negated(),
            Condition::Not(inner) => inner.possible(read).negated(),
            Condition::Compare(left, comparison, right) => compared(read(left), *comparison, right, read),
            Condition::Like(value, like) => of_text(read(value).0, |text| like.matches(text)),
            Condition::IsNull(value) => match read(value).0 {
                Value::Unknown => Possible::EITHER,
                value => Possible::is(value == Value::Null),
            },
            Condition::Holds(value) => of_text(read(value).0, boolean),
            Condition::Constant(truth) => Possible::is(*truth),
        }
    }
}

/// The truth of a text that is there; NULL of NULL; anything of what is unknown.
fn of_text(value: Value<'_>, truth: impl Fn(&[u8]) -> Option<bool>) -> Possible {
    match value {
        Value::Null => Possible::NULL,
        Value::Unknown => Possible::ANY,
        Value::Text(text) => truth(text).map_or(Possible::EITHER, Possible::is),
    }
}

fn compared<'v, P>(
    (left, kind): (Value<'v>, Kind),
    comparison: Comparison,
    right: &Right<P>,
    read: &impl Fn(&P) -> (Value<'v>, Kind),
) -> Possible {
    let (right, kind) = match right {
        Right::Value(right) => {
            let (right, other) = read(right);
            (right, kind.beside(other))
        }
        Right::Constant(Constant::Text(text)) => (Value::Text(text), kind),
        Right::Constant(Constant::Number(text)) => (Value::Text(text), Kind::Number.beside(kind)),
        Right::Constant(Constant::Boolean(true)) => (Value::Text(b"true"), Kind::Boolean),
        Right::Constant(Constant::Boolean(false)) => (Value::Text(b"false"), Kind::Boolean),
    };
    match (left, right) {
        (Value::Null, _) | (_, Value::Null) => Possible::NULL,
        (Value::Unknown, _) | (_, Value::Unknown) => Possible::ANY,
        (Value::Text(left), Value::Text(right)) => match (kind.order(left, right), comparison) {
            (Some(order), _) => Possible::is(comparison.holds(order)),
            (None, Comparison::Equal) if kind.differ(left, right) => Possible::FALSE,
            (None, Comparison::Unequal) if kind.differ(left, right) => Possible::TRUE,
            (None, _) => Possible::EITHER,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_values_are_those_of_sql_and_unknown_is_each_of_them() {
        let (f, n, t) = (Possible::FALSE, Possible::NULL, Possible::TRUE);
        for (left, right, both) in [(t, t, t), (t, n, n), (t, f, f), (n, n, n), (n, f, f), (f, f, f)] {
            assert_eq!((left.and(right), right.and(left)), (both, both));
        }
        let single = |set: u8| [1, 2, 4].into_iter().filter(move |bit| set & bit != 0);
        for (left, right) in (1..8).flat_map(|left| (1..8).map(move |right| (left, right))) {
            let pairs = single(left).flat_map(|left| single(right).map(move |right| u8::min(left, right)));
            let expected = pairs.fold(0, |all, least| all | least);
            assert_eq!(Possible(left).and(Possible(right)), Possible(expected), "{left} {right}");
        }
        assert_eq!((f.negated(), n.negated(), t.negated()), (t, n, f));
        assert_eq!(Possible::ANY.and(f), f);
        assert_eq!(Possible::ANY.and(n), Possible(3));
        assert_eq!(Possible::EITHER.negated(), Possible::EITHER);
    }

    #[test]
    fn what_only_the_server_can_compare_is_not_decided_here() {
        let cases = [
            (Kind::Time, "2024-01-02", "2024-01-03", Some(Ordering::Less)),
            (Kind::Time, "2024-01-02 00:00:00", "2024-01-02", None),
            (Kind::Time, "2024-01-02 01:00:00+00", "2024-01-01 09:00:00+00", Some(Ordering::Greater)),
            (Kind::Time, "2024-01-02 01:00:00+00", "2024-01-02 01:30:00+01", None),
            (Kind::Time, "infinity", "2024-01-02", None),
            (Kind::Time, "0044-03-15 BC", "2024-01-02", None),
            (Kind::Time, "12024-01-02", "2024-01-02", None),
            (Kind::Padded, "ab  ", "ab", Some(Ordering::Equal)),
            (Kind::Text, "a", "b", None),
            (Kind::Text, "b", "b", Some(Ordering::Equal)),
            (Kind::Text, "", "a", Some(Ordering::Less)),
            (Kind::Padded, "b ", "  ", Some(Ordering::Greater)),
            (Kind::Padded, "ab", "b", None),
            (Kind::Number, "x", "1", None),
            (Kind::Number, "9007199254740993", "9007199254740992", Some(Ordering::Greater)),
            (Kind::Double, "9007199254740993", "9.007199254740992e+15", Some(Ordering::Equal)),
            (Kind::Double, "0.1", "0.1000000000000000055", Some(Ordering::Equal)),
            (Kind::Double, "NaN", "Infinity", Some(Ordering::Greater)),
            (Kind::Double, "NaN", "NaN", Some(Ordering::Equal)),
            (Kind::Double, "-0", "0", Some(Ordering::Equal)),
            (Kind::Double, "-Infinity", "x", None),
            (Kind::Real, "0.1", "0.10000000149", Some(Ordering::Equal)),
            (Kind::RealAndOther, "0.1", "0.1", None),
            (Kind::RealAndOther, "0.25", "0.25", Some(Ordering::Equal)),
            (Kind::RealAndOther, "0.1", "0.2", Some(Ordering::Less)),
            (Kind::RealAndOther, "1.6777216e+07", "16777217", None),
            (Kind::Boolean, "t", "true", Some(Ordering::Equal)),
            (Kind::Other, "a", "b", None),
            (Kind::Uuid, "x", "y", None),
        ];
        for (kind, left, right, expected) in cases {
            assert_eq!(kind.order(left.as_bytes(), right.as_bytes()), expected, "{left} {right}");
        }
        assert!(Kind::Other.differ(b"a", b"b") && !Kind::Other.differ(b"a", b"A"));
        assert!(!Kind::Other.differ(b"1.0", b"1") && !Kind::Other.differ(b"a ", b"a"));
        assert!(!Kind::Other.differ("É".as_bytes(), "é".as_bytes()) && Kind::Other.differ("é".as_bytes(), b"e"));
        assert!(!Kind::Other.differ(b"a\xff", b"b") && Kind::Text.differ(b"a", b"A") && !Kind::Time.differ(b"a", b"b"));
    }

    #[test]
    fn values_of_two_types_are_compared_as_sql_does() {
        for (left, right, expected) in [
            (Kind::Text, Kind::Text, Kind::Text),
            (Kind::Number, Kind::Text, Kind::Number),
            (Kind::Number, Kind::Double, Kind::Double),
            (Kind::Real, Kind::Real, Kind::Real),
            (Kind::Real, Kind::Double, Kind::RealAndOther),
            (Kind::Number, Kind::Real, Kind::RealAndOther),
            (Kind::Time, Kind::Text, Kind::Time),
            (Kind::Uuid, Kind::Time, Kind::Other),
            (Kind::Text, Kind::Padded, Kind::Other),
        ] {
            assert_eq!((left.beside(right), right.beside(left)), (expected, expected), "{left:?} {right:?}");
        }
    }
}
