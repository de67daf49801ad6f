//! What the mark in the cache says of the rules: under which of them every delete before it was made.
//!
//! Everything that decides which keys a change makes counts: a condition that is wider now means keys that no change
//! deleted before. Places in files and the order of rules do not count. Each rule has a hash of its own, so that only the
//! keys of rules that are new must be swept. It guards against forgetting, not against an attacker.

use std::collections::BTreeSet;

use crate::keys::FamilyId;
use crate::rules::ruleset::{Rule, Rules, Template};

/// So many rules have a hash each; more share one, and the mark stays small.
const HASHES_MAX: usize = 64;

/// Between hashes.
const SEPARATOR: char = '.';

impl Rules {
    /// Hashes of the rules in hexadecimal, sorted, with dots between them.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let separator = SEPARATOR.to_string();
            let hashes: BTreeSet<String> = (0..self.rules.len()).map(|rule| hash(&self.spelled(rule))).collect();
            let all = hashes.into_iter().collect::<Vec<_>>();
            if all.len() <= HASHES_MAX { all.join(&separator) } else { hash(&all.join(&separator)) }
        })
    }

    /// The families of rules that a digest does not hold, all of them where rules share one hash.
    pub fn not_in(&self, digest: &str) -> BTreeSet<FamilyId> {
        if holds(digest, self.digest()) {
            return BTreeSet::new();
        }
        let families = (0..).map(FamilyId).zip(&self.templates);
        let shared = !self.digest().contains(SEPARATOR);
        let known = |rule: usize| holds(digest, &hash(&self.spelled(rule)));
        let new: BTreeSet<usize> = (0..self.rules.len()).filter(|rule| shared || !known(*rule)).collect();
        families.filter(|(_, template)| new.contains(&template.rule)).map(|(family, _)| family).collect()
    }

    /// A rule with everything that it says, without places.
    fn spelled(&self, index: usize) -> String {
        let Rule { tables, on, place: _, when, said: _, changed, ignore } = &self.rules[index];
        let mut tables: Vec<_> = tables.iter().map(|id| &self.tables[id.0]).collect();
        tables.sort_unstable_by_key(|table| (&table.schema, &table.name));
        let templates = self.templates.iter().filter(|template| template.rule == index);
        let keys: BTreeSet<String> = templates.map(|template| self.key_spelled(template)).collect();
        format!("{keys:?} {tables:?} {on:?} {when:?} {changed:?} {ignore:?} {:?}", self.protect)
    }

    fn key_spelled(&self, template: &Template) -> String {
        let looked_up = template.lookup.map(|id| {
            let lookup = &self.lookups[id.0 as usize];
            (&lookup.sql, &lookup.columns, self.arguments_of(template))
        });
        format!("{:?} {looked_up:?}", template.parts)
    }
}

/// Whether a digest holds every hash of another: the rules of this one are among the rules of that one.
pub fn holds(digest: &str, other: &str) -> bool {
    other.split(SEPARATOR).all(|one| digest.split(SEPARATOR).any(|hash| hash == one))
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::read::parse::rules_of;

    #[test]
    fn it_knows_everything_that_makes_keys_and_no_order() {
        let rule = |more: &str| format!("[[rules]]\ntable = 't'\n{more}\n");
        let digest =
            |rules: &[&str]| rules_of(&rules.iter().map(|more| rule(more)).collect::<String>()).digest().to_owned();
        let base = digest(&["keys = ['a', 'b:{x}']", "keys = ['c']\nwhen = 'y = 1'"]);
        assert_eq!(base, digest(&["keys = ['c']\nwhen = 'y=1'", "keys = ['b:{x}', 'a']"]));
        let o = "lookup.o = { sql = 'select c, $1', args = ['x'] }";
        let lookup = digest(&[&format!("keys = ['a:{{o.c}}']\n{o}")]);
        let others = [
            digest(&["keys = ['a', 'b:{z}']", "keys = ['c']\nwhen = 'y = 1'"]),
            digest(&["keys = ['a', 'b:{x}']", "keys = ['c']\nwhen = 'y = 2'"]),
            digest(&["keys = ['a', 'b:{x}']", "keys = ['c']"]),
            digest(&["keys = ['a', 'b:{x}']\non = ['insert']", "keys = ['c']\nwhen = 'y = 1'"]),
            digest(&["keys = ['a', 'b:{x}']\nchanged = ['x']", "keys = ['c']\nwhen = 'y = 1'"]),
            digest(&["keys = ['a', 'b:{x}']\nignore = ['v']", "keys = ['c']\nwhen = 'y = 1'"]),
            lookup.clone(),
            digest(&[&format!("keys = ['a:{{o.c}}']\n{}", o.replace("['x']", "['y']"))]),
            digest(&[&format!("keys = ['a:{{o.c}}']\n{}", o.replace("$1", "$1 from u"))]),
        ];
        for (index, other) in others.iter().enumerate() {
            assert!(*other != base && others[..index].iter().all(|earlier| earlier != other), "{index}");
        }
    }

    /// The patterns of the families that must be swept for `now`, behind a mark of `before`.
    fn new(before: &str, now: &str) -> Vec<String> {
        let rules = rules_of(now);
        let before = rules_of(before).digest().to_owned();
        let new = rules.not_in(&before);
        assert_eq!(new.is_empty(), holds(&before, rules.digest()));
        new.into_iter().map(|family| String::from_utf8_lossy(rules.family(family)).into_owned()).collect()
    }

    #[test]
    fn only_the_families_of_rules_that_are_new_are_new() {
        let rule = |more: &str| format!("[[rules]]\ntable = 't'\n{more}\n");
        let (a, b, c) = (rule("keys = ['a', 'x:{y}']"), rule("keys = ['b']\nwhen = 'f'"), rule("keys = ['c']"));
        let none: [&str; 0] = [];
        assert_eq!(new(&format!("{a}{b}{c}"), &format!("{c}{a}")), none);
        assert_eq!(new(&format!("{a}{b}"), &format!("{a}{b}{c}")), ["c"]);
        assert_eq!(new(&format!("{a}{b}"), &format!("{}{a}", b.replace("'f'", "'f or g'"))), ["b"]);
        assert_eq!(new(&format!("{a}{b}"), &format!("{}{b}", a.replace("'a', ", ""))), ["x:*"]);
        assert_eq!(new(&format!("[ignore]\nt = ['v']\n{a}{b}"), &format!("{a}{b}")), ["a", "x:*", "b"]);
    }

    #[test]
    fn many_rules_share_one_hash() {
        let rules = |count: usize| {
            let rule = |number: usize| format!("[[rules]]\ntable = 't'\nkeys = ['k{number}']\n");
            (0..count).map(rule).collect::<String>()
        };
        assert_eq!(rules_of(&rules(HASHES_MAX)).digest().len(), HASHES_MAX * 17 - 1);
        assert_eq!(rules_of(&rules(HASHES_MAX + 1)).digest().len(), 16);
        assert_eq!(new(&rules(70), &rules(70)).len(), 0);
        assert_eq!(new(&rules(71), &rules(70)).len(), 70);
    }
}
