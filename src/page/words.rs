//! The words of the page, in English and French. Pure.

/// A language of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// French.
    French,
}

impl Language {
    /// The one that a browser asks for (`Accept-Language`): the first of the two that it names.
    pub fn asked(accepts: &str) -> Language {
        let mut named = accepts.split(',').map(|part| part.trim().to_ascii_lowercase());
        match named.find(|part| part.starts_with("fr") || part.starts_with("en")) {
            Some(part) if part.starts_with("fr") => Language::French,
            _ => Language::English,
        }
    }

    /// Its code, for `lang`.
    pub fn code(self) -> &'static str {
        self.pick("en", "fr")
    }

    /// One of two texts.
    pub fn pick<'a>(self, english: &'a str, french: &'a str) -> &'a str {
        match self {
            Language::English => english,
            Language::French => french,
        }
    }

    /// A length of time.
    pub fn span(self, seconds: f64) -> String {
        let day = self.pick("d", "j");
        match seconds {
            s if s < 0.000_5 => "0".to_owned(),
            s if s < 1.0 => format!("{} ms", self.number(s * 1_000.0, if s < 0.01 { 1 } else { 0 })),
            s if s < 10.0 => format!("{} s", self.number(s, 1)),
            s if s < 120.0 => format!("{s:.0} s"),
            s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
            s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
            s => format!("{:.0} {day}", s / 86_400.0),
        }
    }

    /// For how long, behind what has lasted so long.
    pub fn since(self, seconds: f64) -> String {
        format!(" {} {}", self.pick("for", "depuis"), self.span(seconds))
    }

    /// An amount of memory or WAL.
    pub fn bytes(self, bytes: u64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let french = ["o", "Kio", "Mio", "Gio", "Tio"];
        let (mut amount, mut unit) = (bytes as f64, 0);
        while amount >= 1024.0 && unit + 1 < units.len() {
            amount /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0 && amount < 100.0);
        format!("{} {}", self.number(amount, decimals), self.pick(units[unit], french[unit]))
    }

    /// So many in a second.
    pub fn rate(self, a_second: f64) -> String {
        self.number(a_second, 1)
    }

    /// A part of a whole.
    pub fn percent(self, part: f64) -> String {
        format!("{} %", self.number(part * 100.0, 1))
    }

    /// A whole number, in groups of three.
    pub fn count(self, number: u64) -> String {
        let digits = number.to_string();
        let mut text = String::new();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push_str(self.pick(",", "\u{202f}"));
            }
            text.push(digit);
        }
        text
    }

    fn number(self, number: f64, decimals: usize) -> String {
        let text = format!("{number:.decimals$}");
        match self {
            Language::English => text,
            Language::French => text.replace('.', ","),
        }
    }

    /// What the daemon says of itself in English, as far as the page knows it.
    pub fn problem(self, problem: &str) -> String {
        if self == Language::English {
            return problem.to_owned();
        }
        let known = [
            ("nothing is read from PostgreSQL yet", "rien n'est encore lu de PostgreSQL"),
            ("reading from PostgreSQL is interrupted", "la lecture de PostgreSQL est interrompue"),
            ("standing by: another daemon has the slot", "en attente : un autre démon tient le slot"),
            ("the server holds the stream back", "le serveur retient le flux"),
            (
                "cached keys are stale, as the verifier found",
                "des clés en cache sont périmées, a trouvé le vérificateur",
            ),
            ("the log names what is wrong on the server", "le journal nomme ce qui ne va pas sur le serveur"),
            (
                "the configuration file is wrong and was not taken",
                "le fichier de configuration est faux et n'a pas été pris",
            ),
        ];
        if let Some((_, french)) = known.iter().find(|(english, _)| *english == problem) {
            return (*french).to_owned();
        }
        problem
            .replace("the cache", "le cache")
            .replace("the sink", "le sink")
            .replace("does not answer", "ne répond pas")
            .replace("has not answered yet", "n'a pas encore répondu")
            .replace("is another one again and again", "est sans cesse un autre serveur")
            .replace("refuses what crieur asks", "refuse ce que crieur demande")
            .replace("was left behind and comes back", "a été laissé en arrière et revient")
    }
}

#[cfg(test)]
mod tests {
    use super::Language::{self, English, French};

    #[test]
    fn the_first_of_both_languages_that_a_browser_names_is_the_one() {
        let cases = [
            ("fr-SN,fr;q=0.9,en;q=0.8", French),
            ("en-GB,fr", English),
            ("de-DE, de;q=0.9, FR;q=0.5", French),
            ("wo", English),
            ("", English),
        ];
        for (accepts, language) in cases {
            assert_eq!(Language::asked(accepts), language, "{accepts}");
        }
    }

    #[test]
    fn numbers_are_written_as_their_readers_do() {
        let spans =
            [(0.0, "0", "0"), (0.0032, "3.2 ms", "3,2 ms"), (0.25, "250 ms", "250 ms"), (2.34, "2.3 s", "2,3 s")];
        for (seconds, english, french) in spans {
            assert_eq!((English.span(seconds), French.span(seconds)), (english.to_owned(), french.to_owned()));
        }
        assert_eq!((English.span(200_000.0), French.span(200_000.0)), ("2 d".to_owned(), "2 j".to_owned()));
        assert_eq!(
            (English.count(1_234_567), French.count(1_234)),
            ("1,234,567".to_owned(), "1\u{202f}234".to_owned())
        );
        assert_eq!((English.bytes(1_536), French.bytes(1_536)), ("1.5 KiB".to_owned(), "1,5 Kio".to_owned()));
        assert_eq!(French.percent(0.905), "90,5 %");
        assert_eq!((English.rate(1.25), French.rate(0.0)), ("1.2".to_owned(), "0,0".to_owned()));
    }

    #[test]
    fn each_problem_has_its_french_words() {
        let cases = [
            ("the cache dakar does not answer", "le cache dakar ne répond pas"),
            ("the sink site refuses what crieur asks", "le sink site refuse ce que crieur demande"),
            ("the cache dakar was left behind and comes back", "le cache dakar a été laissé en arrière et revient"),
            ("the server holds the stream back", "le serveur retient le flux"),
        ];
        for (english, french) in cases {
            assert_eq!(French.problem(english), french);
        }
    }
}
