//! `keys` of a `[[verify]]`: `properties:detail:{id}`, read backwards. A key that suits it tells the values of its places.
//! Pure.

use crate::glob;

/// Places of one template.
const PLACES_MAX: usize = 16;

/// A part of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    /// A value, by its number from 0: at least one byte, and no `:`.
    Value(usize),
    /// `*`: anything, and nothing.
    Any,
}

/// Keys that are alike, and where their values stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyTemplate {
    text: String,
    parts: Vec<Part>,
    names: Vec<String>,
}

impl KeyTemplate {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what to write instead.
    pub fn read(text: &str) -> Result<KeyTemplate, (String, &'static str)> {
        let (mut parts, mut names, mut rest) = (Vec::new(), Vec::<String>::new(), text);
        while let Some(at) = rest.find(['{', '}', '*']) {
            if at > 0 {
                parts.push(Part::Text(rest[..at].to_owned()));
            }
            let (special, behind) = (&rest[at..=at], &rest[at + 1..]);
            match special {
                "*" => {
                    parts.push(Part::Any);
                    rest = behind;
                }
                "{" => {
                    let end = behind.find('}').ok_or(("a { is never closed".to_owned(), FORM))?;
                    let name = &behind[..end];
                    if !is_name(name) {
                        return Err((format!("{{{name}}} is no name of a value"), FORM));
                    }
                    let number = names.iter().position(|known| known == name).unwrap_or_else(|| {
                        names.push(name.to_owned());
                        names.len() - 1
                    });
                    if matches!(parts.last(), Some(Part::Value(_))) {
                        return Err(("two values stand side by side".to_owned(), "write a : between them"));
                    }
                    parts.push(Part::Value(number));
                    rest = &behind[end + 1..];
                }
                _ => return Err(("a } was never opened".to_owned(), FORM)),
            }
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.first() {
            None => Err(("keys is empty".to_owned(), FORM)),
            Some(Part::Any | Part::Value(_)) => {
                Err(("keys begins with a value".to_owned(), "begin with the name that these keys have in common"))
            }
            Some(Part::Text(_)) if parts.len() > PLACES_MAX => Err((format!("more than {PLACES_MAX} parts"), FORM)),
            Some(Part::Text(_)) => Ok(KeyTemplate { text: text.to_owned(), parts, names }),
        }
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of its values: the first fills `$1`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A Redis glob that matches all its keys, and maybe others.
    pub fn glob(&self) -> Vec<u8> {
        let mut glob = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => glob::escape_into(&mut glob, text.as_bytes()),
                Part::Value(_) | Part::Any => glob.push(b'*'),
            }
        }
        glob
    }

    /// The values of a key, `$1` first; `None` where it is none of these keys.
    pub fn values<'k>(&self, key: &'k [u8]) -> Option<Vec<&'k str>> {
        let mut found = vec![None; self.names.len()];
        fits(&self.parts, key, &mut found).then(|| found.into_iter().collect()).flatten()
    }
}

const FORM: &str = "write plain text, {name} for a value, * for anything: \"properties:detail:{id}\"";

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// Whether the rest of a key suits the rest of a template. The shortest text that suits is taken for each place.
fn fits<'k>(parts: &[Part], key: &'k [u8], found: &mut Vec<Option<&'k str>>) -> bool {
    let Some((part, others)) = parts.split_first() else { return key.is_empty() };
    match part {
        Part::Text(text) => key.strip_prefix(text.as_bytes()).is_some_and(|rest| fits(others, rest, found)),
        Part::Any if others.is_empty() => true,
        Part::Any => (0..=key.len()).any(|length| fits(others, &key[length..], found)),
        Part::Value(number) => {
            let longest = key.iter().position(|byte| *byte == b':').unwrap_or(key.len());
            let before = found[*number];
            let fits = (1..=longest).any(|length| {
                let Ok(value) = std::str::from_utf8(&key[..length]) else { return false };
                if before.is_some_and(|known| known != value) {
                    return false;
                }
                found[*number] = Some(value);
                fits(others, &key[length..], found)
            });
            if !fits {
                found[*number] = before;
            }
            fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_the_values_of_its_template() {
        type Case<'a> = (&'a str, &'a [u8], Option<&'a [&'a str]>);
        let cases: &[Case<'_>] = &[
            ("properties:detail:{id}", b"properties:detail:42", Some(&["42"])),
            ("properties:detail:{id}", b"properties:detail:42:meta", None),
            ("properties:detail:{id}", b"properties:detail:", None),
            ("properties:detail:{id}", b"lease:{properties:detail:42}", None),
            ("a:{x}:{y}", b"a:1:Mbour", Some(&["1", "Mbour"])),
            ("a:{y}:{x}:{y}", b"a:1:2:1", Some(&["1", "2"])),
            ("a:{y}:{x}:{y}", b"a:1:2:3", None),
            ("a:{x}_v{n}", b"a:b_c_v2", Some(&["b_c", "2"])),
            ("a:{x}:*", b"a:1:en:2", Some(&["1"])),
            ("a:{x}:*:z", b"a:1:en:2", None),
            ("all", b"all", Some(&[])),
            ("a:{x}", b"a:\xFF", None),
        ];
        for (template, key, expected) in cases {
            let template = KeyTemplate::read(template).expect("valid");
            let expected = expected.map(<[&str]>::to_vec);
            assert_eq!(template.values(key), expected, "{} {}", template.text(), key.escape_ascii());
            if expected.is_some() {
                assert!(glob::matches(&template.glob(), key), "{}", template.text());
            }
        }
    }

    #[test]
    fn a_template_that_cannot_be_read_backwards_is_refused() {
        for (text, said) in [
            ("", "keys is empty"),
            ("{id}", "begins with a value"),
            ("*:x", "begins with a value"),
            ("a:{id", "never closed"),
            ("a:}", "never opened"),
            ("a:{id}{x}", "side by side"),
            ("a:{b,c}:{id}", "{b,c} is no name"),
            ("a:{id or 'x'}", "is no name"),
            ("a:{9}", "is no name"),
        ] {
            let (message, _) = KeyTemplate::read(text).expect_err(text);
            assert!(message.contains(said), "{text}: {message}");
        }
    }
}
