//! The address of the page that is made from a key: `https://host/annonces/{id}`. Pure.
//!
//! Scheme, host and port are the operator's own text, so no row leads a request elsewhere: a value stands in the path or
//! behind the question mark alone, and is written so that nothing in it parts the address anew.

use std::rc::Rc;

use crate::rules::value::reading::Reading;

/// The longest address that is fetched, in bytes.
const BYTES_MAX: usize = 8 * 1024;

/// A piece of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AddressPart {
    /// As it is sent.
    Literal(Vec<u8>),
    /// A column of the changed row.
    Value(String, Reading),
}

/// The template of an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageAddress {
    /// As it was written.
    pub(in crate::rules) source: String,
    /// The same without what follows the question mark.
    pub(in crate::rules) shown: Rc<str>,
    /// Scheme, host and port: `https://www.example.sn`.
    pub(in crate::rules) origin: String,
    /// The first one is a literal, which begins with the origin and a slash.
    pub(in crate::rules) parts: Vec<AddressPart>,
}

impl PageAddress {
    /// As it was written, as far as it may stand in a log: without what follows the question mark.
    pub fn shown(&self) -> &Rc<str> {
        &self.shown
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The address itself, where no placeholder stands in it and it leads nowhere else.
    pub fn url(&self) -> Option<String> {
        match self.parts.as_slice() {
            [AddressPart::Literal(text)] if is_sound(text) => String::from_utf8(text.clone()).ok(),
            _ => None,
        }
    }

    /// Whether what the operator wrote is longer than any address that is fetched.
    pub fn is_too_long(&self) -> bool {
        let written = |part: &AddressPart| if let AddressPart::Literal(text) = part { text.len() } else { 0 };
        self.parts.iter().map(written).sum::<usize>() > BYTES_MAX
    }

    /// The columns that it reads, each with the fields inside.
    pub(in crate::rules) fn values(&self) -> impl Iterator<Item = (&str, &Reading)> {
        self.parts.iter().filter_map(|part| match part {
            AddressPart::Literal(_) => None,
            AddressPart::Value(column, reading) => Some((column.as_str(), reading)),
        })
    }
}

/// Whether a byte stands for itself everywhere in an address (RFC 3986, unreserved).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte that the operator wrote stays as it is: what parts an address does.
fn is_written(byte: u8) -> bool {
    is_plain(byte) || b"%/?:@!$&'()*+,;=[]".contains(&byte)
}

fn encode(text: &[u8], stays: fn(u8) -> bool, mut push: impl FnMut(&[u8])) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = text;
    while let Some(first) = rest.first() {
        let length = rest.iter().take_while(|byte| stays(**byte)).count();
        if length > 0 {
            push(&rest[..length]);
            rest = &rest[length..];
        } else {
            push(&[b'%', DIGITS[usize::from(first >> 4)], DIGITS[usize::from(first & 15)]]);
            rest = &rest[1..];
        }
    }
}

/// A value, as it stands in an address.
pub(in crate::rules) fn encode_value(text: &[u8], push: impl FnMut(&[u8])) {
    encode(text, is_plain, push);
}

/// What the operator wrote, as it is sent: letters beyond ASCII are bytes there.
pub(in crate::rules) fn encode_literal(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    encode(text.as_bytes(), is_written, |bytes| out.extend_from_slice(bytes));
    out
}

/// Whether an address is that of a page below the path that the operator wrote: a value may be `..`.
pub(in crate::rules) fn is_sound(address: &[u8]) -> bool {
    let path = address.split(|byte| *byte == b'?').next().unwrap_or_default();
    address.len() <= BYTES_MAX && !path.split(|byte| *byte == b'/').any(|part| part == b"." || part == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_parts_nothing() {
        for (value, expected) in [
            ("42", "42"),
            ("villa à Dakar", "villa%20%C3%A0%20Dakar"),
            ("../admin?x=1#y", "..%2Fadmin%3Fx%3D1%23y"),
            ("//evil.example", "%2F%2Fevil.example"),
            ("a%2e+b\r\nHost: x", "a%252e%2Bb%0D%0AHost%3A%20x"),
            ("", ""),
        ] {
            let mut out = Vec::new();
            encode_value(value.as_bytes(), |bytes| out.extend_from_slice(bytes));
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
        assert_eq!(encode_literal("https://a/propriétés?q=a b&c=%20"), b"https://a/propri%C3%A9t%C3%A9s?q=a%20b&c=%20");
    }

    #[test]
    fn a_page_above_the_written_path_is_none() {
        let long = format!("https://a/{}", "x".repeat(BYTES_MAX));
        for (address, expected) in [
            ("https://a/annonces/1", true),
            ("https://a/annonces/..", false),
            ("https://a/./x", false),
            ("https://a/..%2Fadmin", true),
            ("https://a/x?next=/../y", true),
            ("https://a/...", true),
            (long.as_str(), false),
        ] {
            assert_eq!(is_sound(address.as_bytes()), expected, "{}", &address[..20.min(address.len())]);
        }
    }
}
