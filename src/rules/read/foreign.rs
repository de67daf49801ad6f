//! Placeholders as other languages write them: `${id}`, `#{id}`, `{{id}}`, `<id>`, `:id`, `%s`. A key is often copied
//! from the application, where it stands like that; here it is a text, or a text and a value. Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::rules::read::template::{self, Piece};
use crate::rules::ruleset::Rules;

/// What looks like another language's placeholder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Foreign {
    /// Schema and name of the table.
    pub table: (String, String),
    /// The key as written.
    pub key: String,
    /// The rule's place.
    pub place: String,
    /// What stands in the key.
    pub found: ForeignFound,
}

/// One of them in a template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ForeignFound {
    /// As it stands there.
    pub written: String,
    /// The column that it seems to mean; `None` for `%s`.
    pub column: Option<String>,
    /// The key as it may have been meant.
    pub meant: Option<String>,
    /// How much it looks like one.
    pub sign: Sign,
}

/// How much a text looks like another language's placeholder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sign {
    /// Keys may well look like that: `user#{id}`, `cities:city`.
    Perhaps,
    /// Hardly a part of a key, where the table has such a column.
    Surely,
    /// The same without knowing the table.
    AtSight,
}

impl Rules {
    /// Everything in the rules' keys that looks like another language's placeholder, each once for each table.
    pub fn foreign(&self) -> BTreeSet<Foreign> {
        let mut out = BTreeSet::new();
        for template in &self.templates {
            let rule = &self.rules[template.rule];
            for found in find(&template.source) {
                out.extend(rule.tables.iter().map(|table| {
                    let (schema, name) = self.name_of(*table);
                    let table = (schema.to_owned(), name.to_owned());
                    let (key, place) = (template.source.clone(), rule.place.clone());
                    Foreign { table, key, place, found: found.clone() }
                }));
            }
        }
        out
    }
}

/// What stands in a template that looks like it.
pub fn find(template: &str) -> Vec<ForeignFound> {
    let values: BTreeSet<String> = template::pieces(template)
        .into_iter()
        .flatten()
        .filter_map(|piece| if let Piece::Value(name, ..) = piece { Some(name) } else { None })
        .collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < template.len() {
        let Some((length, column, sign)) = token(template, at, values.is_empty()) else {
            at += template[at..].chars().next().map_or(1, char::len_utf8);
            continue;
        };
        let place = at..at + length;
        at = place.end;
        let written = template[place.clone()].to_owned();
        let is_value = written.starts_with(['$', '#']) && written.ends_with('}');
        // Beside a value of the same column a text is most likely meant as one.
        if is_value || column.as_ref().is_none_or(|column| !values.contains(column)) {
            let meant = column.as_ref().map(|column| meant(template, &place, column));
            out.push(ForeignFound { written, column, meant, sign });
        }
    }
    out
}

fn meant(template: &str, place: &Range<usize>, column: &str) -> String {
    format!("{}{{{column}}}{}", &template[..place.start], &template[place.end..])
}

/// Its length, the column and the sign, if one begins here.
fn token(template: &str, at: usize, is_constant: bool) -> Option<(usize, Option<String>, Sign)> {
    let rest = &template[at..];
    let between = |begin: &str, end: &str| {
        let inside = rest.strip_prefix(begin)?;
        let length = inside.find(end)?;
        // `${property.id}` is the property's id.
        let name = inside[..length].trim().rsplit('.').next().filter(|name| is_name(name))?;
        Some((begin.len() + length + end.len(), name.to_owned()))
    };
    let named = |found: Option<(usize, String)>, sign| found.map(|(length, name)| (length, Some(name), sign));
    let bare = |mark: &str| {
        let name = rest.strip_prefix(mark)?;
        let length = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
        is_name(&name[..length]).then(|| (mark.len() + length, name[..length].to_owned()))
    };
    match rest.as_bytes()[0] {
        b'$' => named(between("${{", "}}").or_else(|| between("${", "}")), Sign::AtSight)
            .or_else(|| named(bare("$"), Sign::Surely)),
        b'#' => named(between("#{", "}"), Sign::Perhaps),
        b'{' => named(between("{{", "}}"), Sign::Surely),
        b'<' => named(between("<", ">"), Sign::Surely),
        b'%' => named(between("%(", ")s").or_else(|| between("%(", ")d")), Sign::AtSight).or_else(|| {
            let is_verb = matches!(rest.as_bytes().get(1), Some(b's' | b'd' | b'i' | b'u' | b'v'));
            let ends = rest[1..].chars().nth(1).is_none_or(|c| !c.is_alphanumeric());
            (is_verb && ends).then_some((2, None, Sign::AtSight))
        }),
        b':' => {
            let (length, name) = bare(":")?;
            match template[..at].chars().next_back() {
                None | Some(':' | '/' | '-' | '_') => Some((length, Some(name), Sign::Surely)),
                Some(_) => None,
            }
        }
        _ if is_constant && template[..at].ends_with(':') => {
            named(bare("").filter(|(length, _)| at + length == template.len()), Sign::Perhaps)
        }
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && text.chars().all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_other_languages_are_found_and_what_they_mean() {
        for (template, expected) in [
            ("p:${id}", "${id} AtSight p:{id}"),
            ("p:${property.id}:x", "${property.id} AtSight p:{id}:x"),
            ("p:${{id}}", "${{id}} AtSight p:{id}"),
            ("p:$id:{city}", "$id Surely p:{id}:{city}"),
            ("p:#{id}", "#{id} Perhaps p:{id}"),
            ("p:{{id}}", "{{id}} Surely p:{id}"),
            ("p:{{ id }}", "{{ id }} Surely p:{id}"),
            ("{{p}}:{id}", "{{p}} Surely {p}:{id}"),
            ("{{id}}:{id}", ""),
            ("p:<id>", "<id> Surely p:{id}"),
            ("p:%s", "%s AtSight -"),
            ("p:%(id)s", "%(id)s AtSight p:{id}"),
            ("p:100%", ""),
            ("p:%sum", ""),
            ("p::id", ":id Surely p:{id}"),
            (":id", ":id Surely {id}"),
            ("p:id", "id Perhaps p:{id}"),
            ("p:id:{id}", ""),
            ("p:city:{id}", ""),
            ("p:é$", ""),
            ("p:{id}:${city}", "${city} AtSight p:{id}:{city}"),
        ] {
            let found: Vec<String> = find(template)
                .into_iter()
                .map(|found| format!("{} {:?} {}", found.written, found.sign, found.meant.as_deref().unwrap_or("-")))
                .collect();
            assert_eq!(found.join(", "), expected, "{template}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_template_panics(template in "[$#{}<>%:()sdé a-c.]{0,16}") {
            let _ = find(&template);
        }
    }
}
