//! One key from its pieces: exact when every value is known, a pattern when one is not, nothing when one is NULL.

use smallvec::SmallVec;

use crate::cache::glob;
use crate::change::Value;
use crate::keys::{FamilyId, TxOrdinal};
use crate::rules::Invalidations;

/// A piece of one key, its value filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// Bytes that the template spells out.
    Literal(&'a [u8]),
    /// `*` of the template.
    Star,
    /// A value of the row or of an answer.
    Value(Value<'a>),
}

/// The pieces of one key.
pub type Pieces<'a> = SmallVec<[Piece<'a>; 8]>;

/// Adds the key or the pattern; under the transactions `first` to `last`.
#[inline]
pub fn render(
    pieces: &[Piece<'_>],
    family: FamilyId,
    (first, last): (TxOrdinal, TxOrdinal),
    protect: &[Vec<u8>],
    out: &mut Invalidations,
) {
    let (mut exact, mut known) = (true, true);
    for piece in pieces {
        match piece {
            Piece::Value(Value::Null) => return,
            Piece::Value(Value::Unknown) => known = false,
            Piece::Star => exact = false,
            Piece::Literal(_) | Piece::Value(Value::Text(_)) => {}
        }
    }
    if !(exact && known) {
        out.widened += u64::from(!known);
        let pattern = pattern(pieces);
        out.patterns.insert(&pattern, family, first);
        if last != first {
            out.patterns.insert(&pattern, family, last);
        }
        return;
    }
    let mut key = out.keys.write();
    for piece in pieces {
        match piece {
            Piece::Literal(text) | Piece::Value(Value::Text(text)) => key.push(text),
            Piece::Star | Piece::Value(Value::Null | Value::Unknown) => {}
        }
    }
    if protect.iter().any(|pattern| glob::matches(pattern, key.bytes())) {
        out.protected += 1;
        return;
    }
    key.finish_range(family, (first, last));
}

/// The escaped glob: `*` for every star and every unknown value, neighbours collapsed.
pub fn pattern(pieces: &[Piece<'_>]) -> Vec<u8> {
    let mut pattern = Vec::new();
    let mut after_star = false;
    for piece in pieces {
        match piece {
            Piece::Literal(text) | Piece::Value(Value::Text(text)) => {
                glob::escape_into(&mut pattern, text);
                after_star &= text.is_empty();
            }
            Piece::Star | Piece::Value(Value::Null | Value::Unknown) => {
                if !after_star {
                    pattern.push(b'*');
                }
                after_star = true;
            }
        }
    }
    pattern
}
