//! The page of a key, beside the key: its address from the same row image. What is not known is left out, since a page
//! that is not fetched costs its next visitor a moment, and nothing else.

use crate::change::Value;
use crate::glob;
use crate::keys::{FamilyId, TxOrdinal};
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::images::{Image, ValueSource};
use crate::rules::plan::render::KeyPiece;
use crate::rules::value::page::{encode_value, is_sound};
use crate::warm::entry;

/// Pages of one load: more are left out, and counted.
const PAGES_MAX: usize = 10_000;

/// A piece of an address, its column found.
#[derive(Clone, Debug)]
pub(super) enum PlannedPagePart {
    Literal(Vec<u8>),
    Value(ValueSource),
}

/// What a value makes of an address.
enum Written {
    /// It stands there.
    Whole,
    /// No page: a value is NULL, or what the row was is not told.
    None,
    /// It cannot be told, or leads elsewhere.
    Unfit,
}

/// Adds the page of an exact key. `pieces` are the key's.
#[cold]
pub(super) fn add<'a>(
    address: &[PlannedPagePart],
    image: &Image<'_, '_>,
    pieces: impl Iterator<Item = KeyPiece<'a>>,
    (family, tx): (FamilyId, TxOrdinal),
    protect: &[Vec<u8>],
    out: &mut Invalidations,
) {
    let mut key = Vec::new();
    for piece in pieces {
        match piece {
            KeyPiece::Literal(text) | KeyPiece::Value(Value::Text(text)) => key.extend_from_slice(text),
            KeyPiece::Star | KeyPiece::Value(Value::Null | Value::Unknown) => return,
        }
    }
    if protect.iter().any(|pattern| glob::matches(pattern, &key)) {
        return;
    }
    if out.warms.len() >= PAGES_MAX {
        out.unwarmed += 1;
        return;
    }
    let mut writer = out.warms.write();
    writer.push(&entry::head(&key));
    writer.push(&key);
    let mut written = Written::Whole;
    for part in address {
        match part {
            PlannedPagePart::Literal(text) => writer.push(text),
            PlannedPagePart::Value(source) => match image.value(*source) {
                Value::Text(text) if !text.is_empty() => encode_value(text, |bytes| writer.push(bytes)),
                Value::Null | Value::Text(_) => written = Written::None,
                Value::Unknown if image.is_old() => written = Written::None,
                Value::Unknown => written = Written::Unfit,
            },
        }
        if !matches!(written, Written::Whole) {
            break;
        }
    }
    if matches!(written, Written::Whole) && !entry::parts(writer.bytes()).is_some_and(|(_, url)| is_sound(url)) {
        written = Written::Unfit;
    }
    match written {
        Written::Whole => _ = writer.finish(family, tx),
        Written::None => {}
        Written::Unfit => out.unwarmed += 1,
    }
}

impl Invalidations {
    /// Adds the pages of `other`, as many as one load may have.
    pub(crate) fn merge_pages(&mut self, warms: crate::keys::KeySet) {
        if self.warms.is_empty() {
            self.warms = warms;
            return;
        }
        let (mut left_out, set) = (0, &mut self.warms);
        warms.drain(|page| {
            if set.len() < PAGES_MAX || set.contains(page.bytes) {
                set.add(&page);
            } else {
                left_out += 1;
            }
        });
        self.unwarmed += left_out;
    }
}

#[cfg(test)]
mod tests {
    use crate::change::{Column, Oid, Old, Relation, ReplicaIdentity, Row, Tuple, Value, push_column};
    use crate::rules::Invalidations;
    use crate::rules::read::parse::rules_of;
    use crate::warm::entry;

    /// A row of columns `id`, `slug`, `n`; `None` is NULL, `?` is unknown.
    fn body(values: &[Option<&str>]) -> Vec<u8> {
        let mut body = Vec::new();
        for value in values {
            let value = match value {
                None => Value::Null,
                Some("?") => Value::Unknown,
                Some(text) => Value::Text(text.as_bytes()),
            };
            push_column(&mut body, value);
        }
        body
    }

    /// Keys and addresses that an update from the old row to the new one makes, and how many are left out.
    fn pages(more: &str, old: &[Option<&str>], new: &[Option<&str>]) -> (Vec<String>, u64) {
        let rules = rules_of(&format!("[[rules]]\ntable = 't'\n{more}\n"));
        let column = |name: &str| Column { name: name.to_owned(), type_oid: Oid(25), in_identity: true };
        let columns = ["id", "slug", "n"].map(column).to_vec();
        let (schema, name) = ("public".to_owned(), "t".to_owned());
        let relation = Relation { oid: Oid(1), schema, name, identity: ReplicaIdentity::Full, columns };
        let plan = rules.plan(&relation, ("public", "t"));
        let (old, new) = (body(old), body(new));
        let row = Row::Update { old: Old::Full(Tuple::checked(3, &old)), new: Tuple::checked(3, &new) };
        let mut out = Invalidations::default();
        plan.apply(&row, 0, &mut out);
        let shown = |page: crate::keys::Key<'_>| {
            let (key, url) = entry::parts(page.bytes).expect("an entry");
            format!("{} {}", String::from_utf8_lossy(key), String::from_utf8_lossy(url))
        };
        (out.warms.iter().map(shown).collect(), out.unwarmed)
    }

    #[test]
    fn each_exact_key_of_each_image_has_its_page_or_none() {
        let rule = "keys = ['k:{id}']\nwarm = 'https://a/{slug}?n={n}'";
        let before = [Some("1"), Some("old"), Some("0")];
        for (new, expected, left_out) in [
            ([Some("1"), Some("é/x y"), Some("0")], &["k:1 https://a/%C3%A9%2Fx%20y?n=0"][..], 0),
            ([Some("2"), Some("new"), Some("0")], &["k:2 https://a/new?n=0", "k:1 https://a/old?n=0"], 0),
            ([Some("1"), None, Some("1")], &[], 0),
            ([Some("1"), Some(""), Some("1")], &[], 0),
            // What an update leaves as it is the old row tells.
            ([Some("1"), Some("?"), Some("1")], &["k:1 https://a/old?n=1"], 0),
            ([Some("1"), Some(".."), Some("1")], &[], 1),
            ([Some("1"), Some("..%2F"), Some("1")], &["k:1 https://a/..%252F?n=1"], 0),
            ([Some("?"), Some("new"), Some("1")], &["k:1 https://a/new?n=1"], 0),
        ] {
            let (pages, unwarmed) = pages(rule, &before, &new);
            assert_eq!(
                (pages.iter().map(String::as_str).collect::<Vec<_>>(), unwarmed),
                (expected.to_vec(), left_out),
                "{new:?}"
            );
        }
        let unknown = [Some("1"), Some("?"), Some("0")];
        assert_eq!(pages(rule, &unknown, &[Some("1"), Some("?"), Some("1")]), (Vec::new(), 1));
        let moved = [Some("2"), Some("new"), Some("1")];
        assert_eq!(
            pages(rule, &unknown, &moved),
            (vec!["k:2 https://a/new?n=1".to_owned()], 0),
            "the old row is no loss"
        );
        let constant = "keys = ['all']\nwarm = 'https://a/'";
        assert_eq!(pages(constant, &before, &[Some("1"), Some("new"), Some("0")]).0, ["all https://a/"]);
        let protected = "keys = ['lo{slug}']\nwarm = 'https://a/{slug}'";
        let (pages, unwarmed) = pages(protected, &before, &[Some("1"), Some("ck:1"), Some("0")]);
        assert_eq!((pages, unwarmed), (vec!["loold https://a/old".to_owned()], 0));
    }
}
