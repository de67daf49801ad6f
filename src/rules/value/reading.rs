//! How one value goes into a key: its column, the path into its JSON, the text of its type, filters, what NULL becomes.
//!
//! A value that only needs its column's text is read without an allocation ([`Form`]); everything else is made once per
//! row image, when a key or a condition first asks for it ([`Made`]). Unknown stays unknown through all of it.

use std::borrow::Cow;

use crate::change::Value;
use crate::rules::value::filter::{Filter, iso_timestamp};
use crate::rules::value::json::{self, FoundInJson};
use crate::rules::value::number;

/// Which text of a value is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TextOf {
    /// As JavaScript writes it in a template string.
    JavaScript,
    /// `|pg`: as PostgreSQL sends it.
    PostgreSql,
}

/// `{column.path|filters or 'text'}`, and the operands of conditions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Reading {
    /// Fields and positions inside of the column's JSON; empty for the column itself.
    pub path: Vec<String>,
    /// Whose text.
    pub writing: TextOf,
    /// In the order of writing.
    pub filters: Vec<Filter>,
    /// What NULL becomes; without it NULL makes no key.
    pub or: Option<Vec<u8>>,
}

impl Reading {
    /// The column's own text.
    pub const POSTGRESQL: Reading =
        Reading { path: Vec::new(), writing: TextOf::PostgreSql, filters: Vec::new(), or: None };

    /// Whether the column's form is all there is to it.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.path.is_empty() && self.filters.is_empty() && self.or.is_none()
    }

    /// In whose text the column itself is wanted: inside of JSON only PostgreSQL's will do.
    pub fn column_writing(&self) -> TextOf {
        if self.path.is_empty() { self.writing } else { TextOf::PostgreSql }
    }

    /// The value of a column of this form.
    #[inline]
    pub fn make<'a>(&self, form: Form, value: Value<'a>) -> Made<'a> {
        let text = match value {
            Value::Unknown => return Made::Unknown,
            Value::Null => None,
            Value::Text(text) if self.path.is_empty() => Some(form.written(text)),
            Value::Text(text) => match self.inside(text) {
                Ok(text) => text,
                Err(NotJson) => return Made::Unknown,
            },
        };
        let Some(mut text) = text else {
            return self.or.as_ref().map_or(Made::Null, |or| Made::Text(Cow::Owned(or.clone())));
        };
        for filter in &self.filters {
            match filter.apply(&text) {
                Some(filtered) => text = Cow::Owned(filtered),
                None => return Made::Unknown,
            }
        }
        Made::Text(text)
    }

    fn inside<'a>(&self, text: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, NotJson> {
        match (json::find(text, &self.path), self.writing) {
            (FoundInJson::Null, _) => Ok(None),
            (FoundInJson::Invalid, _) => Err(NotJson),
            (FoundInJson::Text(text), _) => json::unescaped(text).map(Some).ok_or(NotJson),
            (FoundInJson::Number(text), TextOf::JavaScript) => Ok(Some(Form::Float.written(text))),
            (FoundInJson::Boolean(text) | FoundInJson::Composite(text) | FoundInJson::Number(text), _) => {
                Ok(Some(Cow::Borrowed(text)))
            }
        }
    }
}

/// The column holds no JSON, or text that PostgreSQL itself would refuse.
struct NotJson;

/// How the text of a column is written in a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    /// As PostgreSQL sends it.
    Verbatim,
    /// `bool`: `true` and `false`.
    Boolean,
    /// `numeric`: without trailing zeros behind the point, with an exponent where JavaScript writes one. Every digit
    /// stays, where JavaScript would round.
    Numeric,
    /// `real` and `double precision`: `1e+20` is `100000000000000000000`.
    Float,
    /// `timestamp`, with or without a time zone: ISO 8601.
    Timestamp,
}

impl Form {
    /// `pg_type.oid` is fixed for built-in types (`src/include/catalog/pg_type.dat`). Of domains and enums nothing is
    /// known but the text.
    pub fn of(type_oid: u32, writing: TextOf) -> Self {
        match (writing, type_oid) {
            (TextOf::JavaScript, 16) => Form::Boolean,
            (TextOf::JavaScript, 1700) => Form::Numeric,
            (TextOf::JavaScript, 700 | 701) => Form::Float,
            (TextOf::JavaScript, 1114 | 1184) => Form::Timestamp,
            (TextOf::JavaScript | TextOf::PostgreSql, _) => Form::Verbatim,
        }
    }

    /// Whether [`read`](Form::read) writes it, with nothing to allocate.
    #[inline]
    pub fn is_slice(self) -> bool {
        match self {
            Form::Verbatim | Form::Boolean => true,
            Form::Numeric | Form::Float | Form::Timestamp => false,
        }
    }

    /// The value of a column; forms that need memory leave it to [`Reading::make`].
    #[inline]
    pub fn read<'a>(self, value: Value<'a>) -> Value<'a> {
        match (self, value) {
            (Form::Boolean, Value::Text(b"t")) => Value::Text(b"true"),
            (Form::Boolean, Value::Text(b"f")) => Value::Text(b"false"),
            (Form::Verbatim | Form::Boolean | Form::Numeric | Form::Float | Form::Timestamp, value) => value,
        }
    }

    /// The text of a column that PostgreSQL writes so.
    #[inline]
    pub fn written(self, text: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Form::Numeric => {
                let plain = number::without_trailing_zeros(text);
                match number::has_exponent_in_javascript(plain) {
                    true => number::as_javascript(plain).map_or(Cow::Borrowed(plain), Cow::Owned),
                    false => Cow::Borrowed(plain),
                }
            }
            Form::Float => number::as_javascript(text).map_or(Cow::Borrowed(text), Cow::Owned),
            Form::Timestamp => Cow::Owned(iso_timestamp(text)),
            Form::Verbatim | Form::Boolean => match self.read(Value::Text(text)) {
                Value::Text(text) => Cow::Borrowed(text),
                Value::Null | Value::Unknown => Cow::Borrowed(text),
            },
        }
    }
}

/// A value that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Made<'a> {
    /// NULL, in SQL or in JSON, or no such field.
    Null,
    /// Not in the stream, or not readable.
    Unknown,
    /// Its text.
    Text(Cow<'a, [u8]>),
}

impl Made<'_> {
    /// Borrowed.
    #[inline]
    pub fn value(&self) -> Value<'_> {
        match self {
            Made::Null => Value::Null,
            Made::Unknown => Value::Unknown,
            Made::Text(text) => Value::Text(text),
        }
    }
}
