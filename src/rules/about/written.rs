//! Rules as the digest of the mark reads them: a written format, so that a name that changes in the code changes no
//! digest. Pure.
//!
//! A text is its length in bytes, a colon, and the text; everything else is words and brackets. So no two rules are
//! written alike. A rule that is written otherwise than before counts as new, and its keys are swept once: whoever
//! changes the format raises [`VERSION`], so that this is seen. A test holds the format to the letter.

use crate::rules::ruleset::{AnswerColumn, KeyPart, On, RuleTable};
use crate::rules::value::condition::{Comparison, Condition, Constant, Right};
use crate::rules::value::filter::Filter;
use crate::rules::value::path::Path;
use crate::rules::value::reading::{Reading, TextOf};

/// Of the format; part of each digest.
pub(super) const VERSION: &str = "1";

/// What can be written.
pub(super) trait Written {
    /// Puts it behind `out`.
    fn write(&self, out: &mut Vec<u8>);
}

/// Parts in brackets behind a word.
pub(super) fn group(out: &mut Vec<u8>, word: &str, parts: &[&dyn Written]) {
    out.extend_from_slice(word.as_bytes());
    out.push(b'(');
    parts.iter().for_each(|part| part.write(out));
    out.push(b')');
}

impl Written for [u8] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.len().to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(self);
    }
}

impl Written for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_slice().write(out);
    }
}

impl Written for String {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_bytes().write(out);
    }
}

/// A list of parts; bytes are no list.
pub(super) struct List<'a, T>(pub(super) &'a [T]);

impl<T: Written> Written for List<'_, T> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        self.0.iter().for_each(|part| part.write(out));
        out.push(b']');
    }
}

impl<T: Written> Written for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Some(part) => part.write(out),
            None => out.push(b'-'),
        }
    }
}

impl<T: Written + ?Sized> Written for &T {
    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

impl Written for On {
    fn write(&self, out: &mut Vec<u8>) {
        let kinds = [(self.insert, b'i'), (self.update, b'u'), (self.delete, b'd')];
        out.push(b'<');
        out.extend(kinds.iter().filter(|(counts, _)| *counts).map(|(_, letter)| letter));
        out.push(b'>');
    }
}

impl Written for RuleTable {
    fn write(&self, out: &mut Vec<u8>) {
        group(out, "table", &[&self.schema, &self.name, &List(&self.ignore)]);
    }
}

impl Written for Path {
    fn write(&self, out: &mut Vec<u8>) {
        group(out, "path", &[&self.column, &List(&self.inside)]);
    }
}

impl Written for TextOf {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            TextOf::JavaScript => b"js",
            TextOf::PostgreSql => b"pg",
        });
    }
}

impl Written for Filter {
    fn write(&self, out: &mut Vec<u8>) {
        let name = Filter::NAMES.iter().find(|(_, filter)| filter == self).map_or("", |(name, _)| name);
        name.as_bytes().write(out);
    }
}

impl Written for Reading {
    fn write(&self, out: &mut Vec<u8>) {
        group(out, "value", &[&List(&self.path), &self.writing, &List(&self.filters), &self.or]);
    }
}

impl Written for KeyPart {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            KeyPart::Literal(bytes) => bytes.write(out),
            KeyPart::Star => out.push(b'*'),
            KeyPart::Column(name, reading) => group(out, "column", &[name, reading]),
            KeyPart::Answer(index, reading) => group(out, "answer", &[&index.to_string(), reading]),
        }
    }
}

impl Written for AnswerColumn {
    fn write(&self, out: &mut Vec<u8>) {
        group(out, "result", &[&self.name, &self.writing]);
    }
}

impl Written for Constant {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Constant::Text(text) => group(out, "text", &[text]),
            Constant::Number(number) => group(out, "number", &[number]),
            Constant::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        }
    }
}

impl<P: Written> Written for Right<P> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Right::Constant(constant) => constant.write(out),
            Right::Value(value) => value.write(out),
        }
    }
}

impl Written for Comparison {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Comparison::Equal => b"=",
            Comparison::Unequal => b"!=",
            Comparison::Less => b"<",
            Comparison::AtMost => b"<=",
            Comparison::Greater => b">",
            Comparison::AtLeast => b">=",
        });
    }
}

impl<P: Written> Written for Condition<P> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Condition::And(all) => group(out, "and", &[&List(all)]),
            Condition::Or(some) => group(out, "or", &[&List(some)]),
            Condition::Not(other) => group(out, "not", &[&**other]),
            Condition::Compare(left, comparison, right) => group(out, "compare", &[left, comparison, right]),
            Condition::Like(value, like) => {
                let (pattern, ignores_case) = like.written();
                group(out, if ignores_case { "ilike" } else { "like" }, &[value, &pattern]);
            }
            Condition::IsNull(value) => group(out, "null", &[value]),
            Condition::Holds(value) => group(out, "holds", &[value]),
            Condition::Constant(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        }
    }
}
