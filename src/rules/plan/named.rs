//! What a person names to be swept: a template, a pattern or a key, and whether the rules own it.
//!
//! As with `crieur.invalidate`, nothing outside of what the rules own can be named: all of a pattern must lie under the
//! family of a template, or under a pattern of `cache.invalidate`, which is a family as well.

use crate::glob;
use crate::keys::FamilyId;
use crate::rules::invalidations::Invalidations;
use crate::rules::plan::cause::Cause;
use crate::rules::plan::custom::{SETTING, is_costly};
use crate::rules::ruleset::Rules;
use crate::shown::quoted;

/// Why something is not swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unowned {
    /// It lies under no family.
    Outside,
    /// `cache.protect` keeps all of it.
    Protected,
    /// It would take servers too long to match.
    Costly,
}

impl Unowned {
    /// What is wrong with `what`, and the way out; `templates` are some that could be named.
    pub fn words<'a>(self, what: &str, templates: impl Iterator<Item = &'a str>) -> (String, String) {
        let what = quoted(what.as_bytes());
        match self {
            Unowned::Outside => {
                let mut templates: Vec<&str> = templates.collect();
                templates.dedup();
                let why = format!("no rule and no pattern of {SETTING} owns all keys of {what}: nothing is deleted");
                let hint = format!(
                    "Name a template of the rules ({}) or a pattern under one; or add the pattern to {SETTING}, then: \
                     systemctl reload crieur",
                    templates.join(", ")
                );
                (why, hint)
            }
            Unowned::Protected => {
                let why = format!("protect of every cache keeps every key of {what}: nothing is deleted");
                (why, "crieur never deletes protected keys; a person may, with UNLINK.".to_owned())
            }
            Unowned::Costly => {
                let why = format!("the pattern {what} is too costly for the cache's server to match");
                (why, "Write at most 8 stars and 1024 bytes.".to_owned())
            }
        }
    }
}

impl Rules {
    /// The patterns of what a person names: a template as written, or a Redis glob.
    ///
    /// # Errors
    ///
    /// Not all of it is owned.
    pub fn named(&self, what: &str) -> Result<Invalidations, Unowned> {
        let mut out = Invalidations::default();
        out.causes.add(Cause::Ordered);
        let spelled = spelled(what);
        for (family, pattern) in self.families() {
            let (_, template) = self.origin(family).unwrap_or_default();
            if template == what || spelled.as_deref() == Some(pattern) {
                out.patterns.insert(pattern, family, 0);
            }
        }
        let is_protected = |pattern: &[u8]| self.protect.iter().any(|protect| glob::covers(protect, pattern));
        if out.patterns.iter().any(|pattern| !is_protected(pattern.bytes)) {
            return Ok(out);
        }
        let what = what.as_bytes();
        if is_protected(what) || !out.patterns.is_empty() {
            return Err(Unowned::Protected);
        }
        let covering = |(_, family): &(FamilyId, &[u8])| glob::covers(family, what);
        let (family, _) = self.families().find(covering).ok_or(Unowned::Outside)?;
        if is_costly(what) {
            return Err(Unowned::Costly);
        }
        out.patterns.insert(what, family, 0);
        Ok(out)
    }
}

/// The pattern of a template with its namespace, `properties:detail:{id}`: each value is a star. `None` where no value
/// stands in it.
fn spelled(template: &str) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), template);
    while let Some((literal, behind)) = rest.split_once('{') {
        glob::escape_into(&mut out, literal.as_bytes());
        out.push(b'*');
        (_, rest) = behind.split_once('}')?;
    }
    (rest.len() < template.len()).then(|| {
        glob::escape_into(&mut out, rest.as_bytes());
        out
    })
}

#[cfg(test)]
mod tests {
    use crate::rules::read::parse::rules_of;

    #[test]
    fn a_template_a_pattern_under_a_family_and_a_key_are_swept_and_nothing_else() {
        let mut rules = rules_of(
            "[[rules]]\ntable = 't'\nnamespace = 'p'\nkeys = ['detail:{id}', 'all', 'city:{city}:*']\n\
             [[rules]]\ntable = 'u'\nkeys = ['odd[1]:{id}']\n",
        );
        rules.allow(&["s:*".to_owned()]);
        let named = |what: &str| match rules.named(what) {
            Ok(load) => load.patterns.iter().map(|key| String::from_utf8_lossy(key.bytes).into_owned()).collect(),
            Err(unowned) => vec![format!("{unowned:?}")],
        };
        let long = format!("p:detail:{}", "*a".repeat(9));
        for (what, expected) in [
            ("detail:{id}", "p:detail:*"),
            ("p:detail:{id}", "p:detail:*"),
            ("p:detail:{anything}", "p:detail:*"),
            ("p:detail:*", "p:detail:*"),
            ("p:detail:1?", "p:detail:1?"),
            ("p:detail:[12]*", "p:detail:[12]*"),
            ("p:detail:12", "p:detail:12"),
            ("p:all", "p:all"),
            ("all", "p:all"),
            ("p:city:Dakar:*", "p:city:Dakar:*"),
            ("p:city:*", "Outside"),
            ("p:*", "Outside"),
            ("*", "Outside"),
            ("", "Outside"),
            ("[p]:detail:1", "Outside"),
            ("s:x*", "s:x*"),
            ("session:*", "Outside"),
            (r"odd\[1\]:7", r"odd\[1\]:7"),
            ("odd[1]:7", "Outside"),
            ("lock:*", "Protected"),
            ("lock:7", "Protected"),
            ("lock:7*", "Protected"),
            (long.as_str(), "Costly"),
        ] {
            assert_eq!(named(what), [expected], "{what}");
        }
    }
}
