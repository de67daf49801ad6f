//! Tags: what pages and CDNs call the things that they keep. Pure.
//!
//! A tag travels like a key, in the same sets, behind one byte that no key begins with: PostgreSQL's text holds no NUL, and
//! no template of a key may. So one set holds keys and tags, a cache leaves out the tags, a sink leaves out the keys, and
//! nobody takes one for the other.

use crate::keys::FamilyId;

/// Stands before every tag in a set of keys.
pub const TAG: u8 = 0;

/// The tag, if this is none of a cache's keys.
pub fn tag_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[TAG])
}

/// A key or a tag in a text for people and programs: a tag says that it is one.
pub fn told(key: &[u8]) -> String {
    let (of, text) = tag_of(key).map_or(("", key), |tag| ("tag ", tag));
    format!("{of}{}", String::from_utf8_lossy(text))
}

/// A family of tags, and the tag that stands for all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoarseTag {
    /// The family.
    pub family: FamilyId,
    /// The pattern that covers its tags, each with its first byte.
    pub pattern: Vec<u8>,
    /// What every page of the family carries besides.
    pub tag: Vec<u8>,
}

/// Who takes tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SinkKind {
    /// Anybody who checks our signature: a route of a Next.js site.
    Webhook,
    /// The caches of a project of Vercel.
    Vercel,
    /// A zone of Cloudflare.
    Cloudflare,
    /// A service of Fastly.
    Fastly,
}

impl SinkKind {
    /// As they are written.
    pub const WORDS: &'static [&'static str] = &["webhook", "vercel", "cloudflare", "fastly"];

    /// The one that is written so.
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "webhook" => Some(SinkKind::Webhook),
            "vercel" => Some(SinkKind::Vercel),
            "cloudflare" => Some(SinkKind::Cloudflare),
            "fastly" => Some(SinkKind::Fastly),
            _ => None,
        }
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            SinkKind::Webhook => "webhook",
            SinkKind::Vercel => "vercel",
            SinkKind::Cloudflare => "cloudflare",
            SinkKind::Fastly => "fastly",
        }
    }

    /// Tags in one request: for the services what each allows. A webhook's receiver goes through them one by one, and must
    /// answer in time.
    pub fn tags_max(self) -> usize {
        match self {
            SinkKind::Webhook | SinkKind::Cloudflare => 100,
            SinkKind::Vercel => 16,
            SinkKind::Fastly => 256,
        }
    }

    /// Whether two tags that differ in upper and lower case alone are one.
    pub fn ignores_case(self) -> bool {
        self == SinkKind::Cloudflare
    }

    /// What a tag must be there.
    pub fn form(self) -> &'static str {
        match self {
            SinkKind::Webhook => "a tag of Next.js has at most 256 characters, and no comma",
            SinkKind::Vercel => "a tag of Vercel has at most 256 characters, and no comma",
            SinkKind::Cloudflare => {
                "a tag of Cloudflare has at most 1024 characters of ASCII that can be printed, no space and no comma"
            }
            SinkKind::Fastly => {
                "a key of Fastly has at most 1024 characters of ASCII that can be printed, and no space"
            }
        }
    }

    /// What is wrong with the tag there; `None` where it is taken. It never repeats the tag.
    pub fn refuses(self, tag: &[u8]) -> Option<&'static str> {
        let Ok(text) = std::str::from_utf8(tag) else { return Some("is no text in UTF-8") };
        let is_long = match self {
            // As JavaScript counts.
            SinkKind::Webhook | SinkKind::Vercel => text.encode_utf16().count() > 256,
            SinkKind::Cloudflare | SinkKind::Fastly => text.len() > 1024,
        };
        if text.is_empty() {
            return Some("is empty");
        }
        if is_long {
            return Some("is too long");
        }
        self.refuses_inside(text)
    }

    /// The same of a piece of a tag, which may be empty.
    pub fn refuses_inside(self, text: &str) -> Option<&'static str> {
        let has = |is_bad: fn(char) -> bool| text.contains(is_bad);
        match self {
            // Next.js writes the tags of a page into one header, with commas between them.
            _ if has(|c| c == ',') && self != SinkKind::Fastly => Some("holds a comma"),
            SinkKind::Webhook | SinkKind::Vercel => {
                has(char::is_control).then_some("holds a character that cannot be printed")
            }
            SinkKind::Cloudflare | SinkKind::Fastly if has(char::is_whitespace) => Some("holds a space"),
            SinkKind::Cloudflare | SinkKind::Fastly => {
                has(|c| !c.is_ascii_graphic()).then_some("holds a character that is not of ASCII")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [SinkKind; 4] = [SinkKind::Webhook, SinkKind::Vercel, SinkKind::Cloudflare, SinkKind::Fastly];

    #[test]
    fn each_service_takes_what_its_contract_says() {
        let (long, longer) = ("a".repeat(257), "a".repeat(1025));
        for (tag, expected) in [
            ("property:1", [true; 4]),
            ("Ville:Dakar", [true; 4]),
            ("", [false; 4]),
            ("a,b", [false, false, false, true]),
            ("a b", [true, true, false, false]),
            ("é", [true, true, false, false]),
            ("a\nb", [false; 4]),
            (&"é".repeat(256), [true, true, false, false]),
            (&long, [false, false, true, true]),
            (&longer, [false; 4]),
        ] {
            assert_eq!(ALL.map(|kind| kind.refuses(tag.as_bytes()).is_none()), expected, "{tag}");
        }
        assert!(ALL.iter().all(|kind| kind.refuses(b"\xff").is_some()));
    }

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        assert_eq!(ALL.map(SinkKind::word), SinkKind::WORDS);
        assert_eq!(ALL.map(|kind| SinkKind::read(kind.word())), ALL.map(Some));
    }

    #[test]
    fn a_tag_is_told_from_a_key_by_its_first_byte() {
        assert_eq!((tag_of(b"\0city"), tag_of(b"city"), tag_of(b"")), (Some(&b"city"[..]), None, None));
        assert_eq!((told(b"\0city").as_str(), told(b"city").as_str()), ("tag city", "city"));
    }
}
