//! The layers as one: for each key its checked value, as it would be written, and where it comes from.

use std::time::Duration;

use config::Source as _;

use crate::config::environment::{self, Environment};
use crate::config::layers::Layer;
use crate::config::reference::{self, Checked, reference};
use crate::mistake::{Mistakes, Place};
use crate::secret::Secret;
use crate::url;

/// The merged layers, each value checked.
pub(super) struct Merged(pub(super) Vec<(&'static reference::ConfigKey, Option<Setting>)>);

/// The checked value, as it would be written, and its origin.
pub(super) type Setting = (Checked, String, String);

impl Merged {
    pub(super) fn merge(layers: [Layer; 4]) -> Self {
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
        Merged(reference().iter().map(|key| (key, find(key))).collect())
    }

    pub(super) fn require_urls(&self, mistakes: &mut Mistakes) {
        for (key, value) in &self.0 {
            if let (Some(also), None) = (key.also, value) {
                let (section, name) = key.split();
                let note = format!("write {name} = \"…\" under [{section}], or set {}, or {also}", key.variable());
                mistakes.error(Place::Nowhere, format!("{} is missing", key.name), note);
            }
        }
    }

    /// What the environment holds besides, and somebody may think that crieur reads.
    pub(super) fn look_elsewhere(&self, env: &Environment, mistakes: &mut Mistakes) {
        for (key, value) in self.0.iter().filter(|(key, _)| key.also.is_some()) {
            match value {
                None => environment::elsewhere(env, key, mistakes),
                Some((Checked::Text(address), _, _)) if key.name == "postgres.url" => {
                    environment::unread(env, address, mistakes);
                }
                Some(_) => {}
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Checked> {
        let (_, value) = self.0.iter().find(|(key, _)| key.name == name)?;
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
        let found = self.0.iter().find(|(key, _)| key.name == name);
        let Some((key, Some((_, _, origin)))) = found else { return name.to_owned() };
        let is_variable = key.also == Some(origin) || key.variable() == *origin;
        if is_variable { origin.clone() } else { format!("{name} in {origin}") }
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
        (reference::ConfigKind::Url | reference::ConfigKind::Urls, _) => "[redacted]".to_owned(),
        (_, config::ValueKind::Array(items)) => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        (_, _) => value.to_string(),
    }
}
