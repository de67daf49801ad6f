//! Keys that a transaction names itself (`crieur.invalidate`): which it may, and the family that each belongs to.
//!
//! Whoever may run SQL may call: a key or a pattern counts only when all of it lies under a pattern of
//! `cache.invalidate`, a protected key stays, and a glob that would be costly to match becomes its family. The patterns
//! are families like those of templates, so that gaps, memory bounds and the digest of the mark know them.

use crate::glob;
use crate::keys::{FamilyId, TxOrdinal};
use crate::rules::invalidations::Invalidations;
use crate::rules::ruleset::{KeyPart, On, Rule, Rules, Template};

/// What messages and the configuration call the patterns.
pub const SETTING: &str = "cache.invalidate";

/// Longer globs, or ones with more stars, stand for their family: servers before 7.0.9 match many stars in exponential
/// time (CVE-2022-36021).
const GLOB_BYTES_MAX: usize = 1024;
const STARS_MAX: usize = 8;

/// What a transaction names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked<'a> {
    /// One key, byte for byte.
    Key(&'a [u8]),
    /// A Redis glob.
    Glob(&'a [u8]),
    /// Everything that may be named.
    Everything,
}

/// Whether a key may be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// It goes, unless it is protected.
    Yes,
    /// It lies outside of every pattern, and stays.
    No,
}

impl Rules {
    /// Lets transactions name keys under these patterns, each a text and a `*`.
    pub(crate) fn allow(&mut self, patterns: &[String]) {
        let rule = self.rules.len();
        for pattern in patterns {
            let literal = pattern.strip_suffix('*').unwrap_or(pattern).as_bytes();
            let mut family = Vec::new();
            glob::escape_into(&mut family, literal);
            family.push(b'*');
            self.templates.push(Template {
                rule,
                source: pattern.clone(),
                parts: vec![KeyPart::Literal(literal.to_vec()), KeyPart::Star],
                lookup: None,
                family,
                guarded: true,
                coarse: None,
                page: None,
            });
        }
        if !patterns.is_empty() {
            let on = On { insert: false, update: false, delete: false };
            let place = SETTING.to_owned();
            let (tables, ignore) = (Vec::new(), Vec::new());
            let (caches, sinks) = (None, None);
            self.rules.push(Rule { tables, on, place, when: None, said: None, changed: None, ignore, caches, sinks });
        }
    }

    /// The families that transactions may name keys of, with the text that begins each key.
    fn customs(&self) -> impl Iterator<Item = (FamilyId, &Template, &[u8])> {
        // No table feeds it: it is the rule of `allow`.
        let custom = |template: &Template| self.rules[template.rule].tables.is_empty();
        (0..).map(FamilyId).zip(&self.templates).filter(move |(_, template)| custom(template)).filter_map(
            |(family, template)| match template.parts.first() {
                Some(KeyPart::Literal(literal)) => Some((family, template, literal.as_slice())),
                Some(KeyPart::Star | KeyPart::Column(..) | KeyPart::Answer(..)) | None => None,
            },
        )
    }

    /// Adds what a transaction names, if it may.
    pub fn custom(&self, asked: Asked<'_>, tx: TxOrdinal, out: &mut Invalidations) -> Allowed {
        let literal;
        let (begins, asked) = match asked {
            Asked::Everything => {
                self.customs().for_each(|(family, template, _)| _ = out.patterns.insert(&template.family, family, tx));
                return Allowed::Yes;
            }
            Asked::Key(key) => (key, asked),
            Asked::Glob(pattern) => {
                literal = glob::literal_prefix(pattern);
                let asked = if glob::is_literal(pattern) { Asked::Key(&literal) } else { asked };
                (literal.as_slice(), asked)
            }
        };
        let Some((family, template, _)) = self.customs().find(|(_, _, literal)| begins.starts_with(literal)) else {
            return Allowed::No;
        };
        match asked {
            Asked::Key(key) if self.protect.iter().any(|pattern| glob::matches(pattern, key)) => out.protected += 1,
            Asked::Key(key) => _ = out.keys.insert(key, family, tx),
            Asked::Glob(pattern) if is_costly(pattern) => _ = out.patterns.insert(&template.family, family, tx),
            Asked::Glob(pattern) => _ = out.patterns.insert(pattern, family, tx),
            Asked::Everything => {}
        }
        Allowed::Yes
    }
}

/// Whether servers may need very long to match it.
pub(super) fn is_costly(pattern: &[u8]) -> bool {
    pattern.len() > GLOB_BYTES_MAX || pattern.iter().filter(|byte| **byte == b'*').count() > STARS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::plan::cause::Cause;
    use crate::rules::read::parse::rules_of;
    use proptest::prelude::*;

    const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['t:{id}']\n";

    fn custom() -> Rules {
        let mut rules = rules_of(RULES);
        rules.allow(&["p:s:*".to_owned(), "odd[1]:*".to_owned(), "lo*".to_owned()]);
        rules
    }

    fn shown(asked: Asked<'_>) -> String {
        let mut out = Invalidations::default();
        let allowed = custom().custom(asked, 0, &mut out);
        let list = |set: &crate::keys::KeySet| {
            set.iter().map(|key| String::from_utf8_lossy(key.bytes).into_owned()).collect::<Vec<_>>().join(" ")
        };
        match allowed {
            Allowed::No => "refused".to_owned(),
            Allowed::Yes => format!("{}|{}|{}", list(&out.keys), list(&out.patterns), out.protected),
        }
    }

    #[test]
    fn only_what_lies_under_an_allowed_pattern_goes() {
        let stars = format!("p:s:{}", "*a".repeat(9));
        let long = format!("p:s:{}*", "a".repeat(1024));
        let cases = [
            (Asked::Key(b"p:s:1"), "p:s:1||0"),
            (Asked::Key(b"p:s:*"), "p:s:*||0"),
            (Asked::Key(b"p:s"), "refused"),
            (Asked::Key(b""), "refused"),
            (Asked::Key(b"t:1"), "refused"),
            (Asked::Key(b"odd[1]:x"), "odd[1]:x||0"),
            (Asked::Key(b"lock:1"), "||1"),
            (Asked::Key(b"log"), "log||0"),
            (Asked::Glob(b"p:s:a*"), "|p:s:a*|0"),
            (Asked::Glob(b"p:s:a\\*"), "p:s:a*||0"),
            (Asked::Glob(b"p:*"), "refused"),
            (Asked::Glob(b"p:s?*"), "refused"),
            (Asked::Glob(b"*"), "refused"),
            (Asked::Glob(b"[p]:s:*"), "refused"),
            (Asked::Glob(br"odd\[1\]:*"), r"|odd\[1\]:*|0"),
            (Asked::Glob(b"odd[1]:*"), "refused"),
            (Asked::Glob(stars.as_bytes()), "|p:s:*|0"),
            (Asked::Glob(long.as_bytes()), "|p:s:*|0"),
            (Asked::Everything, r"|p:s:* odd\[1\]:* lo*|0"),
        ];
        for (asked, expected) in cases {
            assert_eq!(shown(asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn its_patterns_are_families_of_everything_and_of_no_table() {
        let rules = custom();
        let mut out = Invalidations::default();
        rules.everything().whole(Cause::Asked, 0, &mut out);
        assert_eq!(out.patterns.len(), 4);
        assert!(out.patterns.contains(b"p:s:*") && out.patterns.contains(b"t:*"));
        assert_eq!(rules.tables().len(), 1);
        assert_ne!(rules.digest(), rules_of(RULES).digest());
        assert_eq!(rules.origin(FamilyId(1)), Some((SETTING, "p:s:*")));
    }

    #[test]
    fn with_nothing_allowed_everything_is_refused() {
        let mut out = Invalidations::default();
        assert_eq!(rules_of(RULES).custom(Asked::Key(b"t:1"), 0, &mut out), Allowed::No);
        assert_eq!(rules_of(RULES).custom(Asked::Everything, 0, &mut out), Allowed::Yes);
        assert!(out.is_empty());
    }

    proptest! {
        /// Whatever is asked for: nothing outside of the allowed patterns can go, and no protected key by its name.
        #[test]
        fn nothing_asked_for_reaches_beyond_what_is_allowed(asked in "[ab*?\\[\\]\\\\^:-]{0,8}", key in "[ab*?\\[:]{0,8}") {
            let mut rules = Rules { protect: vec![b"a:b*".to_vec()].into(), ..Rules::default() };
            rules.allow(&["a:*".to_owned(), "b*".to_owned()]);
            let allowed = |key: &[u8]| key.starts_with(b"a:") || key.starts_with(b"b");
            for what in [Asked::Key(asked.as_bytes()), Asked::Glob(asked.as_bytes())] {
                let mut out = Invalidations::default();
                let answer = rules.custom(what, 0, &mut out);
                prop_assert!(answer == Allowed::Yes || out.is_empty());
                prop_assert!(out.keys.iter().all(|key| allowed(key.bytes) && !key.bytes.starts_with(b"a:b")));
                let reached = out.patterns.iter().any(|pattern| glob::matches(pattern.bytes, key.as_bytes()));
                prop_assert!(!reached || allowed(key.as_bytes()));
            }
        }
    }
}
