//! Texts that must not be shown.

/// A text that must not be shown: URLs with passwords. `Debug` prints `[redacted]`. Two are the same when their texts are,
/// wherever they were written.
#[derive(Clone, Default)]
pub struct Secret {
    text: String,
    origin: String,
}

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret { text: text.into(), origin: String::new() }
    }

    /// The same, with where it was written.
    pub(crate) fn written(text: String, origin: String) -> Self {
        Secret { text, origin }
    }

    /// Where it was written: `DATABASE_URL`, `cache.url in /etc/crieur/crieur.toml:5`; empty where nobody knows.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text itself, for the library that needs it; never for a log.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        self.text == other.text
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
