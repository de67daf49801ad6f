//! Which keys have a page, and whose pages a cache or a sink holds. Pure.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::keys::FamilyId;
use crate::rules::ruleset::{KeyPart, Rules, Template};
use crate::rules::value::page::PageAddress;
use crate::rules::value::path::Path;

/// A table whose rows have pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageTable {
    /// The schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// What keys, conditions and addresses read.
    pub columns: BTreeSet<String>,
}

/// Whether a rule has keys that a page follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::rules) enum PageFit {
    /// It has.
    Found,
    /// All of its keys are made by a lookup, or are patterns.
    None,
    /// No key holds every placeholder, and which one the page is made from nobody can tell.
    Several,
}

/// A column and the fields inside: what a key and an address have in common.
type Read<'a> = BTreeSet<(&'a str, &'a [String])>;

fn of_key(template: &Template) -> Read<'_> {
    let read = template.parts.iter().filter_map(|part| match part {
        KeyPart::Column(name, reading) => Some((name.as_str(), reading.path.as_slice())),
        KeyPart::Literal(_) | KeyPart::Star | KeyPart::Answer(..) => None,
    });
    read.collect()
}

fn of_address(address: &PageAddress) -> Read<'_> {
    address.values().map(|(name, reading)| (name, reading.path.as_slice())).collect()
}

/// Whether the page may follow the key: one that is exact, and made of the row alone.
fn may_follow(template: &Template) -> bool {
    template.coarse.is_none() && template.lookup.is_none() && !template.parts.contains(&KeyPart::Star)
}

impl Rules {
    /// Gives the keys of a rule their page: those that hold all placeholders of the address; where no key does, those with
    /// a value, if that is one template; where there are none, all. An address without placeholders is that of the keys
    /// without values, if there are some, and otherwise of all.
    pub(in crate::rules) fn warm(&mut self, rule: usize, address: &Rc<PageAddress>) -> PageFit {
        let wanted = of_address(address);
        let candidates: Vec<usize> = (0..self.templates.len())
            .filter(|index| self.templates[*index].rule == rule && may_follow(&self.templates[*index]))
            .collect();
        let chosen = |is_chosen: &dyn Fn(&Read<'_>) -> bool| -> Vec<usize> {
            candidates.iter().copied().filter(|index| is_chosen(&of_key(&self.templates[*index]))).collect()
        };
        let mut keys = match wanted.is_empty() {
            true => chosen(&|read| read.is_empty()),
            false => chosen(&|read| wanted.is_subset(read)),
        };
        if keys.is_empty() {
            keys = chosen(&|read| !read.is_empty());
            let templates: BTreeSet<&str> = keys.iter().map(|index| self.templates[*index].source.as_str()).collect();
            if !wanted.is_empty() && templates.len() > 1 {
                return PageFit::Several;
            }
        }
        if keys.is_empty() {
            keys = candidates;
        }
        keys.iter().for_each(|index| self.templates[*index].page = Some(Rc::clone(address)));
        if keys.is_empty() { PageFit::None } else { PageFit::Found }
    }

    /// The address of a sink's pages, for the rules that have tags for it, keys, and no address of their own, and whose keys
    /// or tags read every column of the address. Whether there is one.
    pub fn warm_behind_sink(&mut self, sink: &str, address: &Rc<PageAddress>) -> bool {
        let wanted = of_address(address);
        let fits = |index: usize| {
            let of_rule = || self.templates.iter().filter(move |template| template.rule == index);
            let has_tags = of_rule().any(|template| template.coarse.is_some());
            let sinks = self.rules[index].sinks.as_ref();
            let read: Read<'_> = of_rule().flat_map(of_key).collect();
            has_tags
                && sinks.is_none_or(|sinks| sinks.iter().any(|name| name == sink))
                && of_rule().all(|template| template.page.is_none())
                && wanted.is_subset(&read)
        };
        let fitting: Vec<usize> = (0..self.rules.len()).filter(|index| fits(*index)).collect();
        // Not all(): each of them gets its address.
        fitting.into_iter().filter(|index| self.warm(*index, address) == PageFit::Found).count() > 0
    }

    /// Nothing is warmed.
    pub fn cool(&mut self) {
        self.templates.iter_mut().for_each(|template| template.page = None);
    }

    /// The address of a key's page.
    pub fn page_of(&self, family: FamilyId) -> Option<&Rc<PageAddress>> {
        self.templates.get(family.0 as usize)?.page.as_ref()
    }

    /// Every address, each once.
    pub fn page_addresses(&self) -> Vec<&Rc<PageAddress>> {
        let mut all: Vec<&Rc<PageAddress>> = Vec::new();
        for address in self.templates.iter().filter_map(|template| template.page.as_ref()) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// The tables whose rows have pages of these families, with the columns that their rules read.
    pub fn page_tables(&self, families: &BTreeSet<FamilyId>) -> Vec<PageTable> {
        let mut tables: Vec<PageTable> = Vec::new();
        for family in families {
            let Some(template) = self.templates.get(family.0 as usize) else { continue };
            let rule = &self.rules[template.rule];
            let mut read: BTreeSet<String> = self.columns(template).map(str::to_owned).collect();
            read.extend(template.page.iter().flat_map(|page| page.values()).map(|(name, _)| name.to_owned()));
            rule.when.iter().for_each(|when| when.visit(&mut |path: &Path| _ = read.insert(path.column.clone())));
            for (schema, table) in rule.tables.iter().map(|table| self.name_of(*table)) {
                match tables.iter_mut().find(|known| (known.schema.as_str(), known.table.as_str()) == (schema, table)) {
                    Some(known) => known.columns.extend(read.iter().cloned()),
                    None => tables.push(PageTable {
                        schema: schema.to_owned(),
                        table: table.to_owned(),
                        columns: read.clone(),
                    }),
                }
            }
        }
        tables
    }

    /// Whether whoever has these rules holds the pages of a family of keys while it deletes: a cache that has the keys, or a
    /// sink that has tags of their rule.
    pub fn holds_pages_of(&self, family: FamilyId) -> bool {
        let Some(template) = self.templates.get(family.0 as usize) else { return false };
        let mut of_rule = (0..).map(FamilyId).zip(&self.templates).filter(|(_, other)| other.rule == template.rule);
        self.is_own(family)
            || of_rule.any(|(other, of_it)| of_it.coarse.is_some() && self.is_own(other) && self.audience.is_some())
    }
}
