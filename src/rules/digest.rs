//! What the mark in the cache says of the rules: whether they are still those under which every delete before it was made.
//!
//! Everything that decides which keys a change makes counts: a condition that is wider now means keys that no change
//! deleted before. Places in files and the order of rules do not count. It guards against forgetting, not against an
//! attacker.

use std::fmt::Write;

use crate::rules::{Rule, Rules, Template};

impl Rules {
    /// FNV-1a, 64 bits, hexadecimal.
    pub fn digest(&self) -> String {
        let mut lines: Vec<String> = self.templates.iter().map(|template| self.spelled(template)).collect();
        lines.extend(self.protect.iter().map(|pattern| format!("{pattern:?}")));
        lines.sort_unstable();
        lines.dedup();
        let length = |line: &String| (line.len() as u64).to_be_bytes();
        let bytes = lines.iter().flat_map(|line| length(line).into_iter().chain(line.bytes()));
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("{hash:016x}")
    }

    /// A template and its rule, without their places.
    fn spelled(&self, template: &Template) -> String {
        let Rule { tables, on, place: _, when, changed, ignore } = &self.rules[template.rule];
        let mut tables: Vec<_> = tables.iter().map(|id| &self.tables[id.0]).collect();
        tables.sort_unstable_by_key(|table| (&table.schema, &table.name));
        let parts = &template.parts;
        let mut line = format!("{parts:?} {tables:?} {on:?} {when:?} {changed:?} {ignore:?}");
        if let Some(id) = template.lookup {
            let lookup = &self.lookups[id.0 as usize];
            let arguments = self.arguments_of(template);
            let _ = write!(line, " {:?} {:?} {arguments:?}", lookup.sql, lookup.columns); // A String takes it all.
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use crate::rules::parse::rules_of;

    #[test]
    fn it_knows_everything_that_makes_keys_and_no_order() {
        let rule = |more: &str| format!("[[rules]]\ntable = 't'\n{more}\n");
        let digest = |rules: &[&str]| rules_of(&rules.iter().map(|more| rule(more)).collect::<String>()).digest();
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
}
