//! `[ttl]`: how long the keys of each family may live. Only `crieur ttl` reads it.

use std::rc::Rc;
use std::time::Duration;

use toml::de::DeTable;

use crate::amount::duration;
use crate::mistake::{Mistakes, Place, SourceFile};

/// The section.
pub const SECTION: &str = "ttl";

/// One line of `[ttl]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TtlLimit {
    /// The keys: a Redis glob, in which a template's values are stars.
    pub pattern: String,
    /// What no key of them outlives.
    pub most: Duration,
}

/// Reads the section, where there is one.
pub(super) fn read(file: &Rc<SourceFile>, table: &DeTable<'_>, mistakes: &mut Mistakes) -> Vec<TtlLimit> {
    let Some(value) = table.get(SECTION) else { return Vec::new() };
    let place = |at| Place::File(Rc::clone(file), at);
    let Some(entries) = value.get_ref().as_table() else {
        mistakes.error(place(value.span()), "\"ttl\" must be a table", "write [ttl] on a line of its own");
        return Vec::new();
    };
    let mut limits = Vec::new();
    for (name, value) in entries {
        let pattern = starred(name.get_ref());
        let most = value.get_ref().as_str().and_then(duration).filter(|most| !most.is_zero());
        match (pattern.is_empty(), most) {
            (false, Some(most)) => limits.push(TtlLimit { pattern, most }),
            (true, _) => {
                mistakes.error(
                    place(name.span()),
                    "a line of [ttl] names no keys",
                    "write \"properties:detail:*\" = \"1h\"",
                );
            }
            (false, None) => {
                let what = format!("ttl.\"{}\" must be a duration above zero", name.get_ref());
                mistakes.error(place(value.span()), what, "for example \"30s\", \"5m\" or \"1h\"");
            }
        }
    }
    limits
}

/// A glob: each value of a template is a star.
fn starred(keys: &str) -> String {
    let (mut out, mut rest) = (String::new(), keys);
    while let Some((before, (_, behind))) =
        rest.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    {
        out.push_str(before);
        out.push('*');
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_the_pattern_of_its_keys() {
        for (keys, pattern) in [
            ("p:detail:{id}", "p:detail:*"),
            ("p:*", "p:*"),
            ("a:{x}:{y or 'none'}:z", "a:*:*:z"),
            ("a:{x", "a:{x"),
            ("", ""),
        ] {
            assert_eq!(starred(keys), pattern);
        }
    }
}
