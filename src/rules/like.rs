//! SQL's `LIKE`: `%` is any text, `_` one character, `\` takes the next one as it is. Linear in pattern × text.

/// Whether case counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    /// `like`.
    Counts,
    /// `ilike`: characters are compared in lower case (Unicode).
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
}

impl Like {
    /// Compiles; `None` when the pattern ends with its escape, which PostgreSQL refuses.
    pub fn new(pattern: &str, case: Case) -> Option<Like> {
        let mut elements = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            elements.push(match character {
                '%' => Element::Any,
                '_' => Element::One,
                '\\' => Element::Character(case.of(characters.next()?)),
                other => Element::Character(case.of(other)),
            });
        }
        Some(Like { elements, case })
    }

    /// Whether the whole text matches; `None` when the text is no UTF-8.
    pub fn matches(&self, text: &[u8]) -> Option<bool> {
        match text.is_ascii() {
            true => Some(self.spells(text.iter().map(|byte| char::from(*byte)))),
            false => Some(self.spells(std::str::from_utf8(text).ok()?.chars())),
        }
    }

    fn spells<T: Iterator<Item = char> + Clone>(&self, mut rest: T) -> bool {
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
                (Some(Element::Character(wanted)), Some(character)) => self.case.of(character) == *wanted,
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

impl Case {
    /// The character as it is compared: characters whose lower case is one character only.
    #[inline]
    fn of(self, character: char) -> char {
        match self {
            Case::Counts => character,
            Case::Ignored if character.is_ascii() => character.to_ascii_lowercase(),
            Case::Ignored => Case::lower(character),
        }
    }

    fn lower(character: char) -> char {
        let mut lower = character.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(lower), None) => lower,
            (_, _) => character,
        }
    }
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
            ("É%", "été", false, true),
            ("", "", true, true),
            ("", "a", true, false),
        ];
        for (pattern, text, counts, ignoring) in cases {
            let matches = |case| Like::new(pattern, case).and_then(|like| like.matches(text.as_bytes()));
            let expected = if counts { Case::Counts } else { Case::Ignored };
            assert_eq!(matches(expected), Some(ignoring), "{pattern} {text}");
        }
        assert_eq!(Like::new("a\\", Case::Counts), None);
        assert_eq!(Like::new("a", Case::Counts).and_then(|like| like.matches(b"\xff")), None);
        let slow = Like::new(&("a%".repeat(300) + "b"), Case::Counts).expect("a pattern");
        assert_eq!(slow.matches(&[b'a'; 20_000]), Some(false));
    }
}
