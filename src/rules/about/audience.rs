//! Which caches and sinks a rule is for, and the rules as one of them has them. Pure.
//!
//! Keys are for caches, tags are for sinks.
//!
//! Every cache is told everything that the stream asks for, under numbers of families that all of them share. A cache
//! for which some rule is not leaves out what belongs to such rules alone. What a rule of its own might also name stays,
//! since a key that is deleted too often costs a miss.

use std::collections::BTreeSet;

use crate::glob;
use crate::keys::{FamilyId, Key, KeySet};
use crate::rules::about::digest::hash;
use crate::rules::invalidations::Invalidations;
use crate::rules::ruleset::{Audience, Rule, Rules, Template};
use crate::tag::CoarseTag;

impl Rules {
    /// The caches that a family's rule names; `None` where it is for all.
    pub fn caches_of(&self, family: FamilyId) -> Option<&[String]> {
        let template = self.templates.get(family.0 as usize)?;
        self.rules.get(template.rule)?.caches.as_deref()
    }

    /// Which rules are for which caches and sinks, and which pages they have: a text to compare, which the digest does not
    /// hold. Each rule stands in it with what it says, so their order does not count.
    pub fn audiences(&self) -> String {
        let sorted = |names: &Option<Vec<String>>| {
            let names: Option<BTreeSet<&String>> = names.as_ref().map(|names| names.iter().collect());
            let names = names.map(|names| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(","));
            names.unwrap_or_else(|| "*".to_owned())
        };
        let of = |(index, rule): (usize, &Rule)| {
            let mut pages =
                self.templates.iter().filter(|template| template.rule == index).filter_map(|t| t.page.as_ref());
            let page = pages.next().map_or("", |page| page.source());
            format!("{}:{}:{}:{page}", hash(self.written(index)), sorted(&rule.caches), sorted(&rule.sinks))
        };
        let rules: BTreeSet<String> = self.rules.iter().enumerate().map(of).collect();
        rules.into_iter().collect::<Vec<_>>().join(";")
    }

    /// The rules as the cache of this name has them, which protects these patterns; `None` where it has all of them.
    #[must_use]
    pub fn seen_by(&self, cache: &str, protect: &[Vec<u8>]) -> Option<Rules> {
        let protects: Vec<Vec<u8>> = protect.iter().filter(|one| !self.protect.contains(one)).cloned().collect();
        let is_for = |template: &Template| {
            let caches = self.rules.get(template.rule).and_then(|rule| rule.caches.as_ref());
            template.coarse.is_none() && caches.is_none_or(|caches| caches.iter().any(|name| name == cache))
        };
        let own: Vec<bool> = self.templates.iter().map(is_for).collect();
        if protects.is_empty() && own.iter().all(|own| *own) {
            return None;
        }
        Some(self.as_had_by(own, protects, protect))
    }

    /// The rules as the sink of this name has them: tags, and no keys.
    #[must_use]
    pub fn seen_by_sink(&self, sink: &str) -> Rules {
        let is_for = |template: &Template| {
            let sinks = self.rules.get(template.rule).and_then(|rule| rule.sinks.as_ref());
            template.coarse.is_some() && sinks.is_none_or(|sinks| sinks.iter().any(|name| name == sink))
        };
        self.as_had_by(self.templates.iter().map(is_for).collect(), Vec::new(), &[])
    }

    fn as_had_by(&self, own: Vec<bool>, protects: Vec<Vec<u8>>, protect: &[Vec<u8>]) -> Rules {
        let families = (0..).map(FamilyId).zip(&self.templates).zip(&own).filter(|(_, own)| **own);
        let families = families.map(|((id, template), _)| (glob::literal_prefix(&template.family), id)).collect();
        let audience = Some(Audience { own, families, protects });
        Rules { audience, protect: protect.into(), digest: std::cell::OnceCell::new(), ..self.clone() }
    }

    /// Each family of tags of whoever has these rules, with its coarse tag.
    pub fn coarse_tags(&self) -> Vec<CoarseTag> {
        let coarse = |(family, pattern): (FamilyId, &[u8])| {
            let tag = self.templates.get(family.0 as usize)?.coarse.clone()?;
            Some(CoarseTag { family, pattern: pattern.to_vec(), tag })
        };
        self.families().filter_map(coarse).collect()
    }

    /// The coarse tag of a family of tags; `None` of keys.
    pub fn coarse_of(&self, family: FamilyId) -> Option<&[u8]> {
        self.templates.get(family.0 as usize)?.coarse.as_deref()
    }

    /// The sinks that a family's rule names; `None` where it is for all, or a family of keys.
    pub fn sinks_of(&self, family: FamilyId) -> Option<&[String]> {
        let template = self.templates.get(family.0 as usize)?;
        self.rules.get(template.rule).filter(|_| template.coarse.is_some())?.sinks.as_deref()
    }

    /// Whether a family is for the cache or the sink that has these rules.
    pub(in crate::rules) fn is_own(&self, family: FamilyId) -> bool {
        let own = self.audience.as_ref().map(|audience| audience.own.get(family.0 as usize).copied().unwrap_or(true));
        own.unwrap_or(true)
    }

    /// Leaves out what is not for the cache that has these rules.
    pub fn leave_out(&self, load: &mut Invalidations) {
        self.leave_out_keys(&mut load.keys);
        if self.audience.is_some() {
            load.patterns.retain(|pattern| self.is_own(pattern.family) || self.meets_own(pattern));
            load.warms.retain(|page| self.holds_pages_of(page.family));
        }
    }

    /// The same of exact keys.
    pub fn leave_out_keys(&self, keys: &mut KeySet) {
        let Some(audience) = &self.audience else { return };
        let is_protected = |key: &[u8]| audience.protects.iter().any(|pattern| glob::matches(pattern, key));
        keys.retain(|key| (self.is_own(key.family) || self.names_own(key)) && !is_protected(key.bytes));
    }

    /// Whether a rule of this cache may name the key: a set holds a key once, under the family that was first.
    fn names_own(&self, key: &Key<'_>) -> bool {
        let families = self.audience.iter().flat_map(|audience| &audience.families);
        let mut begins = families.filter(|(prefix, _)| key.bytes.starts_with(prefix));
        begins.any(|(_, family)| glob::matches(self.family(*family), key.bytes))
    }

    /// Whether a pattern may cover a key of a rule of this cache: neither begins with what the other cannot begin with.
    fn meets_own(&self, pattern: &Key<'_>) -> bool {
        let prefix = glob::literal_prefix(pattern.bytes);
        let mut families = self.audience.iter().flat_map(|audience| &audience.families);
        families.any(|(own, _)| own.starts_with(&prefix) || prefix.starts_with(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['a:{id}', 'both:{id}']\ncaches = ['dakar']\n\
                         [[rules]]\ntable = 't'\nkeys = ['b:{id}', 'both:{n}']\n";

    fn shown(set: &KeySet) -> Vec<String> {
        set.iter().map(|key| String::from_utf8_lossy(key.bytes).into_owned()).collect()
    }

    /// What the cache is told of these keys and patterns, each with the index of its family.
    fn told(rules: &Rules, keys: &[(&str, u32)], patterns: &[(&str, u32)]) -> (Vec<String>, Vec<String>) {
        let mut load = Invalidations::default();
        keys.iter().for_each(|(key, family)| _ = load.keys.insert(key.as_bytes(), FamilyId(*family), 0));
        patterns.iter().for_each(|(key, family)| _ = load.patterns.insert(key.as_bytes(), FamilyId(*family), 0));
        rules.leave_out(&mut load);
        (shown(&load.keys), shown(&load.patterns))
    }

    #[test]
    fn a_cache_leaves_out_what_only_rules_of_others_name() {
        let rules = rules_of(RULES);
        let protect = [b"lock:*".to_vec()];
        assert!(rules.seen_by("dakar", &protect).is_none(), "every rule is for it");
        let others = rules.seen_by("upstash", &protect).expect("a rule is not for it");
        let keys = [("a:1", 0), ("both:1", 1), ("b:1", 2), ("b:2", 0)];
        let patterns = [("a:*", 0), ("both:*", 1), ("b*", 0), ("a:x*", 0)];
        assert_eq!(
            told(&others, &keys, &patterns),
            (vec!["both:1".into(), "b:1".into(), "b:2".into()], vec!["both:*".into(), "b*".into()])
        );
        assert_eq!(others.patterns(), [b"b:*".to_vec(), b"both:*".to_vec()]);
        assert_eq!(rules.patterns().len(), 4);
    }

    #[test]
    fn rules_that_exchange_their_caches_are_for_others_now_whatever_their_places_are() {
        let of = |text: &str| rules_of(text).audiences();
        let rule = |keys: &str, caches: &str| format!("[[rules]]\ntable = 't'\nkeys = ['{keys}']\n{caches}");
        let (dakar, vercel) = ("caches = ['dakar']\n", "caches = ['vercel']\n");
        let before = rule("a", dakar) + &rule("b", vercel);
        assert_ne!(of(&before), of(&(rule("b", dakar) + &rule("a", vercel))), "places and caches are exchanged");
        assert_ne!(of(&before), of(&(rule("a", vercel) + &rule("b", dakar))));
        assert_ne!(of(&before), of(&(rule("a", "") + &rule("b", vercel))));
        assert_eq!(of(&before), of(&(rule("b", vercel) + &rule("a", dakar))), "the places alone");
        let two = |caches: &str| of(&rule("a", &format!("caches = [{caches}]\n")));
        assert_eq!(two("'dakar', 'vercel'"), two("'vercel', 'dakar'"));
    }

    #[test]
    fn what_one_cache_protects_stays_in_this_one() {
        let rules = rules_of(RULES);
        let protecting = rules.seen_by("dakar", &[b"lock:*".to_vec(), b"b:1*".to_vec()]).expect("it protects more");
        assert_eq!(told(&protecting, &[("a:1", 0), ("b:1", 2), ("b:2", 2)], &[]).0, ["a:1", "b:2"]);
    }

    #[test]
    fn the_digest_of_a_cache_knows_its_own_rules_alone() {
        let protect = [b"lock:*".to_vec()];
        let all = rules_of(&RULES.replace("caches = ['dakar']\n", ""));
        let (dakar, vercel) = (rules_of(RULES), rules_of(&RULES.replace("dakar", "vercel")));
        let of = |rules: &Rules, cache: &str| {
            rules.seen_by(cache, &protect).map_or_else(|| rules.digest().to_owned(), |rules| rules.digest().to_owned())
        };
        assert_eq!(of(&all, "dakar"), of(&dakar, "dakar"), "naming a cache changes nothing in this cache");
        assert_ne!(of(&dakar, "vercel"), of(&vercel, "vercel"));
        // The rule moved from dakar to vercel: vercel sweeps its families, dakar none.
        let swept = |rules: &Rules, cache: &str, before: &str| -> Vec<String> {
            let view = rules.seen_by(cache, &protect);
            let rules = view.as_ref().unwrap_or(rules);
            let new = rules.not_in(before);
            new.into_iter().map(|family| String::from_utf8_lossy(rules.family(family)).into_owned()).collect()
        };
        assert_eq!(swept(&vercel, "vercel", &of(&dakar, "vercel")), ["a:*", "both:*"]);
        assert_eq!(swept(&vercel, "dakar", &of(&dakar, "dakar")), [""; 0]);
    }
}
