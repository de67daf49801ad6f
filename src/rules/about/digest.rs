//! What the mark in the cache says of the rules: under which of them every delete before it was made.
//!
//! Everything that decides which keys a change makes counts: a condition that is wider now means keys that no change
//! deleted before. Places in files and the order of rules do not count. Each rule has a hash of its own, so that only the
//! keys of rules that are new must be swept. It guards against forgetting, not against an attacker. What is hashed is the
//! format of `written.rs`; its version stands ahead of the hashes.

use std::collections::BTreeSet;

use crate::keys::FamilyId;
use crate::rules::about::written::{List, VERSION, Written, group};
use crate::rules::ruleset::{Rule, Rules, Template};

/// So many rules have a hash each; more share one, and the mark stays small.
const HASHES_MAX: usize = 64;

/// Between hashes.
const SEPARATOR: char = '.';

impl Rules {
    /// The version of the format, then hashes of the rules in hexadecimal, sorted, with dots between them.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let separator = SEPARATOR.to_string();
            let all = self.hashes().into_iter().collect::<Vec<_>>().join(&separator);
            let hashes = if self.is_shared() { hash(all) } else { all };
            format!("{VERSION}{separator}{hashes}")
        })
    }

    fn hashes(&self) -> BTreeSet<String> {
        // Of a rule with keys and tags a cache has the keys, and a sink the tags.
        let is_own = |rule: &usize| self.templates_of(*rule).next().is_some();
        (0..self.rules.len()).filter(is_own).map(|rule| hash(self.written(rule))).collect()
    }

    /// Whether all rules share one hash.
    fn is_shared(&self) -> bool {
        self.hashes().len() > HASHES_MAX
    }

    /// The families of rules that a digest does not hold, all of them where rules share one hash.
    pub fn not_in(&self, digest: &str) -> BTreeSet<FamilyId> {
        if holds(digest, self.digest()) {
            return BTreeSet::new();
        }
        let families = (0..).map(FamilyId).zip(&self.templates);
        let shared = self.is_shared() || !holds(digest, VERSION);
        let known = |rule: usize| holds(digest, &hash(self.written(rule)));
        let new: BTreeSet<usize> = (0..self.rules.len()).filter(|rule| shared || !known(*rule)).collect();
        let families = families.filter(|(family, template)| new.contains(&template.rule) && self.is_own(*family));
        families.map(|(family, _)| family).collect()
    }

    /// Those of the rule that are for whoever has these rules.
    fn templates_of(&self, rule: usize) -> impl Iterator<Item = (FamilyId, &Template)> {
        let of_it = (0..).map(FamilyId).zip(&self.templates).filter(move |(_, template)| template.rule == rule);
        of_it.filter(|(family, _)| self.is_own(*family))
    }

    /// A rule with everything that it says, without places, caches and sinks.
    pub(super) fn written(&self, index: usize) -> Vec<u8> {
        let Rule { tables, on, place: _, when, said: _, changed, ignore, caches: _, sinks: _ } = &self.rules[index];
        let mut tables: Vec<_> = tables.iter().map(|id| &self.tables[id.0]).collect();
        tables.sort_unstable_by_key(|table| (&table.schema, &table.name));
        let keys: BTreeSet<Vec<u8>> =
            self.templates_of(index).map(|(_, template)| self.key_written(template)).collect();
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let changed = changed.as_ref().map(|paths| List(paths));
        let mut out = Vec::new();
        let parts: [&dyn Written; 7] =
            [&List(&keys), &List(&tables), on, when, &changed, &List(ignore), &List(&self.protect)];
        group(&mut out, "rule", &parts);
        out
    }

    fn key_written(&self, template: &Template) -> Vec<u8> {
        let mut out = Vec::new();
        List(&template.parts).write(&mut out);
        if let Some(id) = template.lookup {
            let lookup = &self.lookups[id.0 as usize];
            let arguments = List(self.arguments_of(template));
            group(&mut out, "lookup", &[&lookup.sql, &List(&lookup.columns), &arguments]);
        }
        if let Some(coarse) = &template.coarse {
            group(&mut out, "tag", &[&String::from_utf8_lossy(coarse).into_owned()]);
        }
        out
    }
}

/// Whether a digest holds every hash of another: the rules of this one are among the rules of that one.
pub fn holds(digest: &str, other: &str) -> bool {
    other.split(SEPARATOR).all(|one| digest.split(SEPARATOR).any(|hash| hash == one))
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(text: impl AsRef<[u8]>) -> String {
    let hash = text
        .as_ref()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
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

    /// Should this fail, digests of marks that stand in caches mean nothing any more, and the next start sweeps. If that
    /// is wanted, raise the version.
    #[test]
    fn the_format_is_kept_to_the_letter() {
        let rules = rules_of(
            r#"
            [ignore]
            t = ["seen"]
            [[rules]]
            table = ["u", "t"]
            on = ["insert", "update"]
            keys = ["a:*", "b:{doc.x|lower|md5 or '-'}", "c:{o.c|pg}"]
            when = "a = 1.5 and (b <> 'x' or not c like '%_\\%é') and d is null and e"
            changed = ["doc.x"]
            lookup.o = { sql = "select c, $1", args = ["x"] }
            "#,
        );
        let written = rules.written(0);
        assert_eq!(String::from_utf8_lossy(&written), WRITTEN);
        assert_eq!(rules.digest(), format!("1.{}", hash(WRITTEN)));
    }

    const WRITTEN: &str = concat!(
        r"rule([7:[2:a:*]50:[2:b:column(3:docvalue([1:x]js[5:lower3:md5]1:-))]82:[2:c:answer(1:0value([]pg[]-))]lookup(12:selec",
        r"t c, $1[result(1:cpg)][path(1:x[])])][table(6:public1:t[4:seen])table(6:public1:u[])]<iu>and([compare(p",
        r"ath(1:a[])=number(3:1.5))or([compare(path(1:b[])!=text(1:x))not(like(path(1:c[])6:%_\%é))])null(path",
        r"(1:d[]))holds(path(1:e[]))])[path(3:doc[1:x])][][6:lock:*])",
    );

    #[test]
    fn a_digest_of_another_format_knows_no_rule_and_is_swept_once() {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['a', 'x:{y}']\n");
        let old = rules.digest().replacen("1.", "", 1);
        assert_eq!(rules.not_in(&old).len(), 2);
        assert_eq!(rules.not_in(rules.digest()).len(), 0, "behind the next mark");
    }

    #[test]
    fn many_rules_share_one_hash() {
        let rules = |count: usize| {
            let rule = |number: usize| format!("[[rules]]\ntable = 't'\nkeys = ['k{number}']\n");
            (0..count).map(rule).collect::<String>()
        };
        assert_eq!(rules_of(&rules(HASHES_MAX)).digest().len(), 2 + HASHES_MAX * 17 - 1);
        assert_eq!(rules_of(&rules(HASHES_MAX + 1)).digest().len(), 2 + 16);
        assert_eq!(new(&rules(70), &rules(70)).len(), 0);
        assert_eq!(new(&rules(71), &rules(70)).len(), 70);
    }
}
