//! The rules, and what is verified: those of the configuration file, and those of the file that its `rules_file` names.

use std::path::Path;
use std::rc::Rc;

use toml::de::DeTable;

use crate::config::caches::Layers;
use crate::config::layers::{self, Layer, LayerValues};
use crate::config::merged::Merged;
use crate::config::{sinks, verify};
use crate::error::Exit;
use crate::mistake::{self, Mistakes, Place, SourceFile};
use crate::rules::Rules;
use crate::rules::read::parse::TOP;
use crate::rules::read::reader::{NamesOfTargets, RulesReader};
use crate::tag::SinkKind;
use crate::verify::Verification;

/// The rules of a configuration, or of a file that holds nothing but rules: no server is named, no environment read.
pub fn rules_of_file(path: &Path) -> Result<Rules, Mistakes> {
    let file = layers::read(path)?;
    let mut mistakes = Mistakes::default();
    let Some(table) = layers::parse(&file, &mut mistakes) else { return Err(mistakes) };
    let from_file = layers::file(&file, &table, &mut mistakes);
    let (below, above) = (Layer::default(), Layer::default());
    let layers = Layers { defaults: LayerValues::defaults(), below, file: from_file, above, main_is_named: false };
    let caches = layers.merged();
    let protect: Vec<Vec<u8>> = common(&caches, "cache.protect").into_iter().map(String::into_bytes).collect();
    let directory = path.parent().unwrap_or(Path::new(""));
    let (mut rules, _) = read_rules(&file, &table, directory, (&protect, None), &mut mistakes)?;
    rules.allow(&united(&caches, "cache.invalidate"));
    if mistakes.is_harmless() { Ok(rules) } else { Err(mistakes) }
}

/// The texts of all caches, each once.
pub(super) fn united(caches: &[(String, Merged)], key: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for text in caches.iter().flat_map(|(_, merged)| merged.texts(key)) {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// The texts that every cache has.
pub(super) fn common(caches: &[(String, Merged)], key: &str) -> Vec<String> {
    let has = |text: &String| caches.iter().all(|(_, merged)| merged.texts(key).contains(text));
    united(caches, key).into_iter().filter(has).collect()
}

/// The names that rules may use. Of a sink whose kind is wrong that is said elsewhere.
pub(super) fn names(caches: &[(String, Merged)], sinks: &[(String, Merged)]) -> NamesOfTargets {
    let sink = |(name, merged): &(String, Merged)| (name.clone(), sinks::kind(merged).unwrap_or(SinkKind::Webhook));
    NamesOfTargets {
        caches: caches.iter().map(|(name, _)| name.clone()).collect(),
        sinks: sinks.iter().map(sink).collect(),
    }
}

/// The rules of the file and of its `rules_file`, which may name the caches and the sinks.
pub(super) fn read_rules(
    file: &Rc<SourceFile>,
    table: &DeTable<'_>,
    directory: &Path,
    (protect, names): (&[Vec<u8>], Option<NamesOfTargets>),
    mistakes: &mut Mistakes,
) -> Result<(Rules, Vec<Verification>), Mistakes> {
    let mut other = None;
    if let Some(value) = table.get("rules_file") {
        let place = Place::File(Rc::clone(file), value.span());
        match value.get_ref().as_str().filter(|name| !name.is_empty()) {
            Some(name) => match layers::read(&directory.join(name)) {
                Ok(read) => other = Some(read),
                Err(mistaken) if mistaken.exit() == Exit::Config => mistakes.append(mistaken),
                Err(unreadable) => {
                    let path = directory.join(name);
                    let is_missing = path.try_exists().is_ok_and(|exists| !exists);
                    let note = match is_missing && Path::new(name).is_relative() {
                        true => "the path is relative to this file",
                        false => unreadable.first_note(),
                    };
                    mistakes.error(place, unreadable.first_message(), note);
                }
            },
            None => mistakes.error(place, "rules_file must be the name of a file", "it holds [[rules]]"),
        }
    }
    let other_table = other.as_ref().and_then(|other| layers::parse(other, mistakes));
    if other.is_some() && other_table.is_none() {
        return Err(std::mem::take(mistakes)); // Rules may name what it says.
    }
    if let (Some(other), Some(table)) = (&other, &other_table) {
        for key in table.keys().filter(|key| !TOP.contains(&key.get_ref().as_ref())) {
            let place = Place::File(Rc::clone(other), key.span());
            let message = format!("unknown key \"{}\" in a rules file", key.get_ref());
            mistakes.error(place, message, mistake::suggestion(key.get_ref(), TOP));
        }
    }
    let included = other.as_ref().zip(other_table.as_ref());
    let files = || std::iter::once((file, table)).chain(included);
    let mut reader = RulesReader::new(protect, mistakes).knowing(names);
    for (file, table) in files() {
        reader.shared(file, table);
    }
    for (file, table) in files() {
        if let Some(rules) = table.get("rules") {
            reader.read(file, rules);
        }
    }
    let rules = reader.finish();
    let mut verify = Vec::new();
    for (file, table) in files() {
        verify.extend(verify::read(file, table, mistakes));
    }
    if rules.families().next().is_none() && mistakes.is_harmless() {
        let (file, note) = match &other {
            Some(other) => (other, "add [[rules]] here"),
            None => (file, "add [[rules]] here, or rules_file = \"…\""),
        };
        mistakes.error(Place::Whole(file.name.clone()), "there are no rules", note);
    }
    Ok((rules, verify))
}
