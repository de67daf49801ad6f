//! One key from its pieces: exact when every value is known, a pattern when one is not, nothing when one is NULL.

use smallvec::SmallVec;

use crate::change::Value;
use crate::glob;
use crate::keys::{FamilyId, TxOrdinal};
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::cause::Cause;

/// A piece of one key, its value filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyPiece<'a> {
    /// Bytes that the template spells out.
    Literal(&'a [u8]),
    /// `*` of the template.
    Star,
    /// A value of the row or of an answer.
    Value(Value<'a>),
}

/// The pieces of one key.
pub type Pieces<'a> = SmallVec<[KeyPiece<'a>; 8]>;

/// Adds the key or the pattern, under the transactions `first` to `last`; says whether there is one.
#[inline]
pub fn render<'a>(
    pieces: impl Iterator<Item = KeyPiece<'a>> + Clone,
    family: FamilyId,
    (first, last): (TxOrdinal, TxOrdinal),
    protect: &[Vec<u8>],
    out: &mut Invalidations,
) -> bool {
    let mut key = out.keys.write();
    for piece in pieces.clone() {
        match piece {
            KeyPiece::Literal(text) | KeyPiece::Value(Value::Text(text)) => key.push(text),
            KeyPiece::Value(Value::Null) => return false,
            KeyPiece::Star | KeyPiece::Value(Value::Unknown) => {
                return render_pattern(pieces, family, (first, last), out);
            }
        }
    }
    if protect.iter().any(|pattern| glob::matches(pattern, key.bytes())) {
        out.protected += 1;
        return false;
    }
    key.finish_range(family, (first, last));
    true
}

/// The same for pieces of which one is a star or unknown; a NULL behind it makes no key all the same.
#[cold]
fn render_pattern<'a>(
    pieces: impl Iterator<Item = KeyPiece<'a>>,
    family: FamilyId,
    (first, last): (TxOrdinal, TxOrdinal),
    out: &mut Invalidations,
) -> bool {
    let pieces: Pieces<'_> = pieces.collect();
    if pieces.contains(&KeyPiece::Value(Value::Null)) {
        return false;
    }
    if pieces.contains(&KeyPiece::Value(Value::Unknown)) {
        out.widened += 1;
        out.causes.add(Cause::Widened);
    }
    let pattern = pattern(&pieces);
    out.patterns.insert(&pattern, family, first);
    if last != first {
        out.patterns.insert(&pattern, family, last);
    }
    true
}

/// The escaped glob: `*` for every star and every unknown value, neighbours collapsed.
pub fn pattern(pieces: &[KeyPiece<'_>]) -> Vec<u8> {
    let mut pattern = Vec::new();
    let mut after_star = false;
    for piece in pieces {
        match piece {
            KeyPiece::Literal(text) | KeyPiece::Value(Value::Text(text)) => {
                glob::escape_into(&mut pattern, text);
                after_star &= text.is_empty();
            }
            KeyPiece::Star | KeyPiece::Value(Value::Null | Value::Unknown) => {
                if !after_star {
                    pattern.push(b'*');
                }
                after_star = true;
            }
        }
    }
    pattern
}
