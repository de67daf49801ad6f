//! SQL's `LIKE`: `%` is any text, `_` one character, `\` takes the next one as it is. Linear in pattern × text.
//!
//! Which letters `ilike` takes for the same, the server's locale says: in C only those of ASCII, in Turkish `I` is not
//! `i`. What every locale agrees on is known here; where they differ nothing is.

/// Whether case counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    /// `like`.
    Counts,
    /// `ilike`.
    Ignored,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Element {
    Any,
    One,
    Character(char),
}

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Like {
    elements: Vec<Element>,
    case: Case,
    /// Whether one of its characters [`is_of_two`].
    of_two: bool,
}

impl Like {
    /// The pattern, each character that stands for itself behind the escape where it must, and whether case is ignored.
    pub fn written(&self) -> (String, bool) {
        let mut pattern = String::new();
        for element in &self.elements {
            match element {
                Element::Any => pattern.push('%'),
                Element::One => pattern.push('_'),
                Element::Character(character) => {
                    if matches!(character, '%' | '_' | '\\') {
                        pattern.push('\\');
                    }
                    pattern.push(*character);
                }
            }
        }
        (pattern, self.case == Case::Ignored)
    }

    /// Compiles; `None` when the pattern ends with its escape, which PostgreSQL refuses.
    pub fn new(pattern: &str, case: Case) -> Option<Like> {
        let mut elements = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            elements.push(match character {
                '%' => Element::Any,
                '_' => Element::One,
                '\\' => Element::Character(characters.next()?),
                other => Element::Character(other),
            });
        }
        let of_two = pattern.chars().any(is_of_two);
        Some(Like { elements, case, of_two })
    }

    /// Whether the whole text matches; `None` when only the server knows, and when the text is no UTF-8.
    pub fn matches(&self, text: &[u8]) -> Option<bool> {
        if text.is_ascii() {
            return self.decided(text.iter().map(|byte| char::from(*byte)));
        }
        let text = std::str::from_utf8(text).ok()?;
        match self.case {
            Case::Ignored if text.chars().any(is_of_two) => None,
            Case::Ignored | Case::Counts => self.decided(text.chars()),
        }
    }

    #[inline]
    fn decided<T: Iterator<Item = char> + Clone>(&self, text: T) -> Option<bool> {
        if self.case == Case::Counts {
            return Some(self.spells(text, |a, b| a == b));
        }
        if self.of_two {
            return None;
        }
        match self.spells(text.clone(), may_be_alike) {
            true => self.spells(text, are_alike).then_some(true),
            false => Some(false),
        }
    }

    #[inline]
    fn spells<T: Iterator<Item = char> + Clone>(&self, mut rest: T, alike: impl Fn(char, char) -> bool) -> bool {
        let mut at = 0;
        // Where to go on behind the last `%`, and the text that it has not swallowed yet.
        let mut any: Option<(usize, T)> = None;
        loop {
            let element = self.elements.get(at);
            if element == Some(&Element::Any) {
                at += 1;
                any = Some((at, rest.clone()));
                continue;
            }
            let mut behind = rest.clone();
            let fits = match (element, behind.next()) {
                (None, None) => return true,
                (Some(_), None) => return false,
                (None, Some(_)) => false,
                (Some(Element::One | Element::Any), Some(_)) => true,
                (Some(Element::Character(wanted)), Some(character)) => alike(*wanted, character),
            };
            (at, rest) = match (fits, &mut any) {
                (true, _) => (at + 1, behind),
                (false, None) => return false,
                (false, Some((behind_any, from))) => {
                    from.next();
                    (*behind_any, from.clone())
                }
            };
        }
    }
}

/// Whether no locale can take the texts for the same without their case.
pub fn surely_differ(left: &str, right: &str) -> bool {
    let same_length = left.chars().count() == right.chars().count();
    let alike = || same_length && left.chars().zip(right.chars()).all(|(a, b)| may_be_alike(a, b));
    !left.chars().chain(right.chars()).any(is_of_two) && !alike()
}

/// The only character whose lower case can be two, and the second of these: İ is i and a dot above.
fn is_of_two(character: char) -> bool {
    matches!(character, '\u{130}' | '\u{307}')
}

/// Characters that every locale takes for the same without their case.
#[inline]
fn are_alike(a: char, b: char) -> bool {
    a == b || (a.eq_ignore_ascii_case(&b) && !a.eq_ignore_ascii_case(&'i'))
}

/// Characters that some locale may take for the same.
#[inline]
fn may_be_alike(a: char, b: char) -> bool {
    a == b || if a.is_ascii() && b.is_ascii() { a.eq_ignore_ascii_case(&b) } else { folded(a) == folded(b) }
}

/// One character for all that some locale makes of it, and that some locale makes it of: ς, σ and Σ, ı, i and I.
fn folded(character: char) -> char {
    let lower = |character: char| only(character.to_lowercase()).unwrap_or(character);
    let lowered = lower(character);
    lower(only(lowered.to_uppercase()).unwrap_or(lowered))
}

fn only(mut characters: impl Iterator<Item = char>) -> Option<char> {
    characters.next().filter(|_| characters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_sql() {
        let cases = [
            ("%dakar%", "Grand-Dakar-Plateau", false, true),
            ("dakar", "Dakar", false, true),
            ("a%", "a", true, true),
            ("%", "", true, true),
            ("_", "é", true, true),
            ("__", "é", true, false),
            ("a\\%b", "a%b", true, true),
            ("a\\%b", "axb", true, false),
            ("%ab%ab", "abxab", true, true),
            ("%ab%ab", "ab", true, false),
            ("", "", true, true),
            ("", "a", true, false),
        ];
        for (pattern, text, counts, ignoring) in cases {
            let matches = |case| Like::new(pattern, case).and_then(|like| like.matches(text.as_bytes()));
            let expected = if counts { Case::Counts } else { Case::Ignored };
            assert_eq!(matches(expected), Some(ignoring), "{pattern} {text}");
        }
        let ignoring = |pattern, text: &str| Like::new(pattern, Case::Ignored)?.matches(text.as_bytes());
        let cases = [
            ("%DAKAR%", "grand-dakar", Some(true)),
            ("%dakar%", "Thiès", Some(false)),
            // The same characters are the same everywhere; other case of them is so only in some locale.
            ("%thiès%", "THiès", Some(true)),
            ("%thiès%", "THIÈS", None),
            ("%thiès%", "Thiès", Some(true)),
            ("É%", "été", None),
            ("É%", "ete", Some(false)),
            ("été", "Étang", Some(false)),
            ("_t_", "ÉTÉ", Some(true)),
            ("日本%", "日本語", Some(true)),
            ("ΟΔΟΣ", "οδος", None),
            // Turkish.
            ("I%", "ile", None),
            ("I%", "Ile", Some(true)),
            ("ı", "I", None),
            ("ı", "i", None),
            ("_", "İ", None),
            ("i", "i\u{307}", None),
            ("K", "\u{212a}", None),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(ignoring(pattern, text), expected, "{pattern} {text}");
        }
        assert_eq!(Like::new("a\\", Case::Counts), None);
        assert_eq!(Like::new("a", Case::Counts).and_then(|like| like.matches(b"\xff")), None);
        let slow = Like::new(&("a%".repeat(300) + "b"), Case::Counts).expect("a pattern");
        assert_eq!(slow.matches(&[b'a'; 20_000]), Some(false));
    }
}
