//! Tags of a rule: templates like those of keys, for sinks, and the coarse tag that stands for all of them.

use std::ops::Range;
use std::rc::Rc;

use toml::de::DeTable;

use crate::mistake::Place;
use crate::rules::read::keyspec::Around;
use crate::rules::read::rule::{NamedLookup, RuleReader};
use crate::rules::read::template::Piece;
use crate::tag::{SinkKind, TAG};

impl RuleReader<'_, '_> {
    pub(super) fn tags(&mut self, block: &DeTable<'_>, lookups: &mut [NamedLookup]) {
        let (given, all) = (block.get("tags"), block.get("tags_all"));
        let templates = given.map_or_else(Vec::new, |value| self.texts(value, "tags"));
        if let Some(value) = given.filter(|value| value.get_ref().as_array().is_some_and(|array| array.is_empty())) {
            self.error(value.span(), "rule has no tags", "write at least one, for example \"property:{id}\"");
        }
        let coarse = all.and_then(|value| Some((self.text(value, "tags_all")?, value.span())));
        let coarse = coarse.filter(|(text, at)| self.is_plain(text, at));
        if let (None, Some((text, at))) = (given, &coarse) {
            self.fits(&[Piece::Literal(text.clone())], at);
            let around = Around { prefix: Some(&[TAG]), companions: &[], coarse: Some(text.as_bytes()) };
            return self.template(text, at, vec![Piece::Literal(text.clone())], lookups, around);
        }
        if let Some((text, at)) = &coarse {
            self.fits(&[Piece::Literal(text.clone())], at);
        }
        for (text, pieces, at) in self.pieces(&templates, "tag") {
            // A tag without values stands for itself.
            let own = match pieces.as_slice() {
                [Piece::Literal(literal)] => Some(literal.clone()),
                _ => None,
            };
            let Some(coarse) = coarse.as_ref().map(|(text, _)| text).or(own.as_ref()) else {
                if all.is_none() {
                    let note = "write tags_all = \"…\", a tag that each of these pages carries besides: it is purged at each \
                                start, and where crieur cannot tell which page changed";
                    self.error(at.clone(), format!("tag \"{text}\" has no coarse tag"), note);
                }
                continue;
            };
            if self.fits(&pieces, at) {
                let around = Around { prefix: Some(&[TAG]), companions: &[], coarse: Some(coarse.as_bytes()) };
                self.template(text, at, pieces, lookups, around);
            }
        }
    }

    /// The sinks that the tags are for; `None` is all.
    pub(super) fn sinks(&mut self, block: &DeTable<'_>) -> Option<Vec<String>> {
        let value = block.get("sinks")?;
        if !["tags", "tags_all"].iter().any(|key| block.contains_key(*key)) {
            self.error(value.span(), "rule names sinks and has no tags", "write tags and tags_all, or remove sinks");
        }
        let known = self.reader.names.as_ref().map(|names| names.sinks.iter().map(|(name, _)| name.clone()).collect());
        self.targets(block, ("sinks", "sink"), "then its tags are for all", known)
    }

    /// Whether the coarse tag is a tag and no template.
    fn is_plain(&mut self, text: &str, at: &Range<usize>) -> bool {
        let is_plain = !text.is_empty() && !text.contains(['{', '}', '*', '\0']);
        if !is_plain {
            let note = "write one tag as the pages carry it, without values: tags_all = \"properties\"";
            self.error(at.clone(), "tags_all is not one plain tag", note);
        }
        is_plain
    }

    /// Whether the sinks that the rule is for take what the template spells out.
    fn fits(&mut self, pieces: &[Piece], at: &Range<usize>) -> bool {
        if pieces.contains(&Piece::Star) {
            let note = "name each tag, or write tags_all: that is how a sink purges what nobody can list";
            self.error(at.clone(), "a tag holds *, and a sink knows no patterns", note);
            return false;
        }
        let (mut wrong, mut unlike) = (None, false);
        for kind in self.kinds() {
            wrong = wrong.or_else(|| Some((kind, refused(kind, pieces)?)));
            let has_capitals = |text: &str| text.contains(|c: char| c.is_ascii_uppercase());
            unlike |= kind.ignores_case() && spelled(pieces).any(has_capitals);
        }
        if let Some((kind, what)) = wrong {
            self.error(at.clone(), format!("tag {what}, and the sink is of kind \"{}\"", kind.word()), kind.form());
        }
        if unlike {
            let place = Place::File(Rc::clone(self.file), at.clone());
            let message = "tag has capital letters, and Cloudflare does not tell them from small ones";
            let note = "tags that differ in upper and lower case alone are purged together: write it in lower case";
            self.reader.mistakes.warning(place, message, note);
        }
        wrong.is_none()
    }

    /// The kinds of the sinks that the rule is for.
    fn kinds(&self) -> Vec<SinkKind> {
        let own = self.reader.rules.rules.last().and_then(|rule| rule.sinks.as_ref());
        let all = self.reader.names.iter().flat_map(|names| &names.sinks);
        all.filter(|(name, _)| own.is_none_or(|own| own.contains(name))).map(|(_, kind)| *kind).collect()
    }
}

/// What a template spells out.
fn spelled(pieces: &[Piece]) -> impl Iterator<Item = &str> {
    pieces
        .iter()
        .flat_map(|piece| match piece {
            Piece::Literal(text) => std::slice::from_ref(text),
            Piece::Choice(texts) => texts,
            Piece::Star | Piece::Value(..) => &[],
        })
        .map(String::as_str)
}

/// Why no tag of the template is taken.
fn refused(kind: SinkKind, pieces: &[Piece]) -> Option<&'static str> {
    let literal: String = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Star | Piece::Choice(_) | Piece::Value(..) => None,
        })
        .collect();
    let whole = if literal.is_empty() { None } else { kind.refuses(literal.as_bytes()) };
    whole.or_else(|| spelled(pieces).find_map(|text| kind.refuses_inside(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistake::{Mistakes, SourceFile};
    use crate::rules::read::reader::{NamesOfTargets, RulesReader};
    use crate::rules::ruleset::Rules;

    fn read(more: &str, sinks: &[(&str, SinkKind)]) -> (Rules, String) {
        let text = format!("[[rules]]\ntable = 't'\n{more}");
        let file = Rc::new(SourceFile { name: "r.toml".to_owned(), text });
        let table = DeTable::parse(&file.text).expect("TOML").into_inner();
        let mut mistakes = Mistakes::default();
        let sinks = sinks.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        let names = NamesOfTargets { caches: vec!["main".to_owned()], sinks };
        let mut reader = RulesReader::new(&[], &mut mistakes).knowing(Some(names));
        reader.read(&file, table.get("rules").expect("rules"));
        (reader.finish(), mistakes.to_string())
    }

    fn coarse(rules: &Rules) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        rules.coarse_tags().into_iter().map(|coarse| (text(coarse.pattern), text(coarse.tag))).collect()
    }

    #[test]
    fn tags_are_families_of_their_own_with_the_coarse_tag() {
        let site = [("site", SinkKind::Webhook)];
        let (rules, said) =
            read("keys = ['detail:{id}']\ntags = ['property:{id}', 'map']\ntags_all = 'properties'", &site);
        assert_eq!(said, "");
        let pair = |pattern: &str, tag: &str| (format!("\0{pattern}"), tag.to_owned());
        assert_eq!(coarse(&rules), [pair("property:*", "properties"), pair("map", "properties")]);
        let of_sink = rules.seen_by_sink("site");
        assert_eq!(of_sink.patterns(), [b"\0property:*".to_vec(), b"\0map".to_vec()]);
        let of_cache = rules.seen_by("main", &[]).expect("the tags are not for it");
        assert_eq!(of_cache.patterns(), [b"detail:*".to_vec()]);
        let alone = read("keys = ['detail:{id}']", &[]).0;
        assert_eq!(of_cache.digest(), alone.digest(), "tags change nothing in a cache");
        assert_ne!(of_sink.digest(), read("tags = ['property:{id}', 'map']\ntags_all = 'p'", &site).0.digest());
        assert_eq!(coarse(&read("tags = ['map']", &site).0), [pair("map", "map")], "a constant stands for itself");
        assert_eq!(coarse(&read("tags_all = 'all'", &site).0), [pair("all", "all")]);
        assert_eq!(coarse(&read("tags = ['{slug}']\ntags_all = 'all'", &site).0), [pair("*", "all")]);
    }

    #[test]
    fn a_rule_may_be_for_some_sinks() {
        let sinks = [("site", SinkKind::Webhook), ("cdn", SinkKind::Fastly)];
        let (rules, said) = read("tags = ['a b']\nsinks = ['site']", &sinks);
        assert_eq!(said, "", "the other one is not asked");
        assert_eq!((rules.seen_by_sink("site").patterns().len(), rules.seen_by_sink("cdn").patterns().len()), (1, 0));
    }

    #[test]
    fn what_is_wrong_with_tags_is_said_with_the_way_out() {
        let all = [("site", SinkKind::Webhook), ("cdn", SinkKind::Cloudflare)];
        let long = format!("tags = ['{}']", "x".repeat(257));
        for (more, words) in [
            ("tags = ['a:{id}']", &["tag \"a:{id}\" has no coarse tag", "tags_all ="][..]),
            ("tags = []", &["rule has no tags"]),
            ("tags = ['a:*']\ntags_all = 'a'", &["holds *", "tags_all"]),
            ("tags = ['a']\ntags_all = 'a:{id}'", &["tags_all is not one plain tag"]),
            ("tags = ['a b:{id}']\ntags_all = 'a'", &["tag holds a space", "\"cloudflare\"", "no comma"]),
            ("tags = ['a:{4,8}é']\ntags_all = 'a'", &["not of ASCII"]),
            ("tags = ['a']\ntags_all = 'a,b'", &["tag holds a comma"]),
            ("tags = ['City:{id}']\ntags_all = 'a'", &["warning", "capital letters", "lower case"]),
            (long.as_str(), &["tag is too long", "\"webhook\"", "256"]),
            ("tags = ['a']\nsinks = ['sit']", &["there is no sink \"sit\"", "did you mean \"site\""]),
            ("keys = ['k']\nsinks = ['site']", &["rule names sinks and has no tags"]),
            ("tags = ['a']\nsinks = []", &["rule is for no sink"]),
            ("on = ['insert']", &["rule has no keys"]),
            ("keys = [\"\\u0000a\"]", &["key begins with NUL"]),
        ] {
            let said = read(more, &all).1;
            assert!(words.iter().all(|words| said.contains(words)), "{more}\n{said}");
        }
    }
}
