//! The layers as one: for each key its checked value, as it would be written, and where it comes from.

use std::path::PathBuf;
use std::time::Duration;

use config::Source as _;

use crate::config::environment::{self, Environment};
use crate::config::layers::LayerValues;
use crate::config::named::Section;
use crate::config::reference::{self, Checked, reference};
use crate::mistake::{Mistakes, Place};
use crate::secret::Secret;
use crate::url;

/// The merged layers of one cache, of one sink, or of all other sections: each value checked.
pub(super) struct Merged {
    /// Of a cache or a sink: the section as it is shown.
    named: Option<Section>,
    pub(super) settings: Vec<(&'static reference::ConfigKey, Option<Setting>)>,
}

/// The checked value, as it would be written, and its origin.
pub(super) type Setting = (Checked, String, String);

impl Merged {
    /// Of the cache or sink in the section `named`, or of everything else.
    pub(super) fn merge(named: Option<Section>, layers: [LayerValues; 4]) -> Self {
        let merged = layers.into_iter().fold(config::Config::builder(), |builder, layer| builder.add_source(layer));
        let merged =
            merged.build().and_then(|merged| merged.collect()).expect("checked scalars and lists under fixed keys");
        let find = |key: &'static reference::ConfigKey| {
            let (section, name) = key.split();
            let section = merged.get(section)?.clone().into_table().ok()?;
            let value = section.get(name)?;
            let checked = key.kind.check(value).ok()?;
            Some((checked, written(key, value), value.origin().unwrap_or("default").to_owned()))
        };
        let is_here = |key: &&'static reference::ConfigKey| match &named {
            Some(section) => section.has(key),
            None => !key.is_of_a_cache() && !key.is_of_a_sink(),
        };
        let keys = reference().iter().filter(is_here);
        Merged { settings: keys.map(|key| (key, find(key))).collect(), named }
    }

    /// The section as it is written, of a cache or a sink.
    pub(super) fn section(&self) -> String {
        self.named.as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// The key as it is written: `cache.url`, `caches.dakar.url`.
    pub(super) fn shown(&self, key: &reference::ConfigKey) -> String {
        self.named.as_ref().map_or_else(|| key.name.to_owned(), |section| section.shown(key))
    }

    /// What contradicts itself outside of the caches.
    pub(super) fn contradictions(&self, mistakes: &mut Mistakes) {
        let is_outbox = matches!(self.get("postgres.mode"), Some(Checked::Text(mode)) if mode == "outbox");
        if is_outbox && matches!(self.get("postgres.standby"), Some(Checked::Flag(true))) {
            let message =
                format!("postgres.standby is true, and so is mode = \"outbox\" ({})", self.origin("postgres.standby"));
            mistakes.error(
                Place::Nowhere,
                message,
                "a standby takes no writes, and an outbox is emptied by writes: take standby out and let postgres.url lead to the primary, with the standbys of the readers in postgres.replicas; or write mode = \"replication\"",
            );
        }
    }

    pub(super) fn require_urls(&self, mistakes: &mut Mistakes) {
        for (key, value) in &self.settings {
            let (Some(also), None) = (key.also, value) else { continue };
            let (section, name) = key.split();
            let section = self.named.clone().unwrap_or(Section::written(section));
            let also = if section.has_names_of_applications() { format!(", or {also}") } else { String::new() };
            let note = format!("write {name} = \"…\" under [{section}], or set {}{also}", section.variable(key));
            mistakes.error(Place::Nowhere, format!("{} is missing", section.shown(key)), note);
        }
    }

    /// What the environment holds besides, and somebody may think that crieur reads.
    pub(super) fn look_elsewhere(&self, env: &Environment, mistakes: &mut Mistakes) {
        for (key, value) in self.settings.iter().filter(|(key, _)| key.also.is_some()) {
            match value {
                None if self.named.as_ref().is_none_or(Section::has_names_of_applications) => {
                    environment::elsewhere(env, key, mistakes);
                }
                Some((Checked::Text(address), _, _)) if key.name == "postgres.url" => {
                    environment::unread(env, address, mistakes);
                }
                None | Some(_) => {}
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Checked> {
        let (_, value) = self.settings.iter().find(|(key, _)| key.name == name)?;
        value.as_ref().map(|(checked, _, _)| checked)
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.get(name) {
            Some(Checked::Text(text)) => text.clone(),
            other => unfit(name, other),
        }
    }

    /// A text that must not be shown.
    pub(super) fn secret(&self, name: &str) -> Secret {
        Secret::written(self.text(name), self.origin(name))
    }

    /// A list of them; of several each says which one it is.
    pub(super) fn secrets(&self, name: &str) -> Vec<Secret> {
        let (texts, origin) = (self.texts(name), self.origin(name));
        let of = texts.len();
        let one = |(index, text)| match of {
            1 => Secret::written(text, origin.clone()),
            of => Secret::written(text, format!("{} of the {of} in {origin}", index + 1)),
        };
        texts.into_iter().enumerate().map(one).collect()
    }

    /// The variable that a value comes from, or its key, file and line.
    pub(super) fn origin(&self, name: &str) -> String {
        let found = self.settings.iter().find(|(key, _)| key.name == name);
        let Some((key, Some((_, _, origin)))) = found else { return name.to_owned() };
        let is_variable = origin.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
        if is_variable { origin.clone() } else { format!("{} in {origin}", self.shown(key)) }
    }

    /// Whether a layer says the value, not the default.
    pub(super) fn is_written(&self, name: &str) -> bool {
        let found = self.settings.iter().find(|(key, _)| key.name == name);
        matches!(found, Some((_, Some((_, _, origin)))) if origin != "nowhere" && !origin.starts_with("default"))
    }

    /// Puts another value in the place of a default.
    pub(super) fn set_default(&mut self, name: &str, text: &str, origin: &str) {
        if self.is_written(name) {
            return;
        }
        if let Some((key, setting)) = self.settings.iter_mut().find(|(key, _)| key.name == name) {
            let checked = key.kind.check(&config::Value::new(None, text)).unwrap_or_else(|_| unfit(name, None));
            *setting = Some((checked, text.to_owned(), origin.to_owned()));
        }
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        match self.get(name) {
            Some(Checked::Duration(duration)) => *duration,
            other => unfit(name, other),
        }
    }

    pub(super) fn number(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Checked::Number(number)) => *number,
            other => unfit(name, other),
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Checked::Flag(flag)) => *flag,
            other => unfit(name, other),
        }
    }

    pub(super) fn durations(&self, name: &str) -> Vec<Duration> {
        match self.get(name) {
            Some(Checked::Durations(delays)) => delays.clone(),
            other => unfit(name, other),
        }
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(|value| match value {
            Checked::Path(path) => path.clone(),
            other => unfit(name, Some(other)),
        })
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Checked::Texts(texts)) => texts.clone(),
            other => unfit(name, other),
        }
    }
}

/// The table of keys says what each key holds, and `require_urls` what must be there; only we can break that.
pub(super) fn unfit(name: &str, found: Option<&Checked>) -> ! {
    let found = if found.is_some() { "another kind of value" } else { "nothing" };
    panic!("the table of keys promises a value for {name}, found {found}")
}

/// The value as it would be written; a URL is never shown.
fn written(key: &reference::ConfigKey, value: &config::Value) -> String {
    match (&key.kind, &value.kind) {
        (reference::ConfigKind::Urls, config::ValueKind::String(list)) if list.is_empty() => String::new(),
        (reference::ConfigKind::Url, config::ValueKind::String(text)) => url::shown(text),
        (reference::ConfigKind::Urls, config::ValueKind::Array(items)) => {
            items.iter().map(|item| url::shown(&item.to_string())).collect::<Vec<_>>().join(",")
        }
        (reference::ConfigKind::Url | reference::ConfigKind::Urls | reference::ConfigKind::Secret, _) => {
            "[redacted]".to_owned()
        }
        (_, config::ValueKind::Array(items)) => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        (_, _) => value.to_string(),
    }
}
