//! Which rules suit a database, by its tables and by the names of cached keys. A guess, and said as one; pure but for the
//! question which column holds the values of a place, which the caller answers.

use std::collections::BTreeMap;

use crate::cli::init::look::SeenTable;

/// A family of cached keys: `properties:detail:{number}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Family {
    /// Its name, as `crieur coverage` writes it.
    pub name: String,
    /// Keys that were seen.
    pub count: u64,
    /// One of them.
    pub example: String,
}

/// A key of a rule, and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposedKey {
    /// `properties:detail:{id}`
    pub template: String,
    /// Why: for the comment.
    pub why: String,
}

/// The rules, and what could not be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proposal {
    /// For tables, by their number: keys that were seen in the cache.
    pub seen: BTreeMap<usize, Vec<ProposedKey>>,
    /// Families of which the table is not known.
    pub unknown: Vec<Family>,
}

/// A place in keys whose values decide the column: the family and the segment.
pub type KeyPlace = (String, usize);

/// Which column of which table holds the values of a place, as far as it was asked.
pub type Holders = BTreeMap<KeyPlace, Vec<(usize, String)>>;

/// A segment of a family that stands for values.
pub fn is_value(segment: &str) -> bool {
    segment == "*" || matches!(segment, "{number}" | "{uuid}" | "{hash}" | "{text}")
}

/// A value with a text behind it: `{number}_v4`.
fn with_text(segment: &str) -> Option<(&str, &str)> {
    let (value, text) = segment.split_at_checked(segment.find('}')? + 1)?;
    (is_value(value) && !text.is_empty() && !text.contains(['{', '*'])).then_some((value, text))
}

/// Words that were seen at one place of otherwise equal keys.
fn is_list(segment: &str) -> bool {
    segment.starts_with('{') && segment.ends_with('}') && segment.contains(',') && segment.matches('{').count() == 1
}

/// A word without its plural: `properties` and `property` are one.
fn stem(word: &str) -> String {
    let word = word.to_lowercase();
    if let Some(stem) = word.strip_suffix("ies").filter(|stem| stem.len() > 1) {
        return format!("{stem}y");
    }
    for ending in ["sses", "xes", "ches", "shes"] {
        if let Some(stem) = word.strip_suffix("es").filter(|_| word.ends_with(ending)) {
            return stem.to_owned();
        }
    }
    word.strip_suffix('s').filter(|stem| stem.len() > 1 && !stem.ends_with('s')).unwrap_or(&word).to_owned()
}

/// How well a family's words name a table: the whole name before one of its words, and its last word before the others.
fn score(table: &SeenTable, segments: &[&str]) -> u32 {
    let name = stem(&table.name);
    let words: Vec<String> = table.name.split('_').map(stem).collect();
    let of = |(place, segment): (usize, &&str)| {
        // What stands first is what the key is of; the others say by what.
        let early = if place == 0 { 10 } else { 0 };
        let segment = stem(segment);
        let parts: Vec<String> = segment.split(['_', '-', '.']).map(stem).collect();
        if segment == name {
            8 + early
        } else if words.last().is_some_and(|last| parts.contains(last)) {
            4 + early
        } else if words.iter().any(|word| word.len() > 2 && parts.contains(word)) {
            2 + early
        } else {
            0
        }
    };
    segments.iter().enumerate().filter(|(_, segment)| !is_value(segment)).map(of).max().unwrap_or(0)
}

/// Whether values of a segment of this kind can be a column's of this type.
pub fn suits(segment: &str, kind: &str) -> bool {
    let is_text = kind == "text" || kind.starts_with("character") || kind == "citext" || kind == "name";
    match segment {
        "{number}" => matches!(kind, "smallint" | "integer" | "bigint" | "numeric") || is_text,
        "{uuid}" => kind == "uuid" || is_text,
        _ => {
            is_text
                || !matches!(kind, "smallint" | "integer" | "bigint" | "uuid" | "json" | "jsonb" | "bytea" | "boolean")
        }
    }
}

/// The column of a table for the value behind `word`; `segment` is its kind.
fn column<'t>(table: &'t SeenTable, word: Option<&str>, segment: &str) -> Option<&'t str> {
    let fits = |name: &str| table.columns.iter().find(|(column, kind)| column == name && suits(segment, kind));
    let of = |name: &str| fits(name).map(|(column, _)| column.as_str());
    let word = word.map(str::to_lowercase).unwrap_or_default();
    let single = stem(&word);
    let is_own = single == stem(&table.name) || table.name.split('_').next_back().map(stem) == Some(single.clone());
    let named = [word.clone(), single.clone(), format!("{single}_id"), format!("{word}_id")];
    if !is_own && !word.is_empty() {
        if let Some(found) = named.iter().find_map(|name| of(name)) {
            return Some(found);
        }
        let refers = table.foreign.iter().find(|(name, to)| stem(to) == single && fits(name).is_some());
        if let Some((name, _)) = refers {
            return Some(name);
        }
    }
    match table.primary.as_slice() {
        [key] if matches!(segment, "{number}" | "{uuid}") => of(key),
        _ => None,
    }
}

/// The column that holds texts and is called as the word before them: few cities look like names of keys.
fn text_column<'t>(table: &'t SeenTable, word: Option<&str>) -> Option<&'t str> {
    let word = word?.to_lowercase();
    let is_it = |name: &str, kind: &str| (name == word || name == stem(&word)) && suits("*", kind);
    table.columns.iter().find(|(name, kind)| is_it(name, kind)).map(|(name, _)| name.as_str())
}

/// The template of a family over a table, where each of its places has a column.
fn template(table: (usize, &SeenTable), family: &Family, holders: &Holders) -> Option<String> {
    let segments: Vec<&str> = family.name.split(':').collect();
    let mut written = Vec::with_capacity(segments.len());
    for (place, segment) in segments.iter().enumerate() {
        let word =
            place.checked_sub(1).map(|before| segments[before]).filter(|word| !word.contains('{') && *word != "*");
        let held = holders.get(&(family.name.clone(), place));
        let held = || held?.iter().find(|(number, _)| *number == table.0).map(|(_, column)| column.as_str());
        if let Some((value, text)) = with_text(segment) {
            written.push(format!("{{{}}}{text}", column(table.1, word, value).or_else(held)?));
        } else if is_value(segment) {
            written.push(format!("{{{}}}", column(table.1, word, segment).or_else(held)?));
        } else if let Some(column) = text_column(table.1, word).or_else(held) {
            written.push(format!("{{{column}}}"));
        } else if !segment.contains(['{', '*']) || is_list(segment) {
            written.push((*segment).to_owned());
        } else {
            return None;
        }
    }
    Some(written.join(":"))
}

/// The rules that suit.
pub fn propose(tables: &[SeenTable], families: &[Family], holders: &Holders) -> Proposal {
    let mut proposal = Proposal::default();
    for family in families {
        let segments: Vec<&str> = family.name.split(':').collect();
        let mut ranked: Vec<(u32, usize)> =
            tables.iter().enumerate().map(|(number, table)| (score(table, &segments), number)).collect();
        let held = |number: usize| {
            let places = holders.iter().filter(|((name, _), _)| *name == family.name);
            u32::from(places.flat_map(|(_, columns)| columns).any(|(holder, _)| *holder == number))
        };
        ranked.iter_mut().for_each(|(score, number)| *score += held(*number));
        ranked.retain(|(score, _)| *score > 0);
        ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let found = ranked.iter().find_map(|(_, number)| {
            template((*number, &tables[*number]), family, holders).map(|template| (*number, template))
        });
        match found {
            Some((number, template)) => {
                let keys = if family.count == 1 { "key" } else { "keys" };
                let why = format!("{} {keys} were seen, for example {}", family.count, family.example);
                let keys = proposal.seen.entry(number).or_default();
                if !keys.iter().any(|known| known.template == template) {
                    keys.push(ProposedKey { template, why });
                }
            }
            None => proposal.unknown.push(family.clone()),
        }
    }
    proposal
}

/// Keys that a table would have where nothing was seen: by its primary key, and by what it refers to.
pub fn by_keys(table: &SeenTable) -> Vec<ProposedKey> {
    let mut keys = Vec::new();
    if !table.primary.is_empty() {
        let values: Vec<String> = table.primary.iter().map(|column| format!("{{{column}}}")).collect();
        let why = "one row, by its primary key".to_owned();
        keys.push(ProposedKey { template: format!("{}:{}", table.name, values.join(":")), why });
    }
    for (column, to) in &table.foreign {
        let why = format!("the list of one row of {to}");
        keys.push(ProposedKey { template: format!("{}:{}:{{{column}}}", table.name, stem(to)), why });
    }
    if keys.is_empty() {
        let why = "the table has no primary key: whatever is made of all of it".to_owned();
        keys.push(ProposedKey { template: format!("{}:all", table.name), why });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, columns: &[(&str, &str)], primary: &[&str], foreign: &[(&str, &str)]) -> SeenTable {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        SeenTable {
            schema: "public".into(),
            name: name.into(),
            identity: "d".into(),
            columns: columns.iter().map(pair).collect(),
            primary: primary.iter().map(|name| (*name).to_owned()).collect(),
            foreign: foreign.iter().map(pair).collect(),
        }
    }

    pub(crate) fn dousell() -> Vec<SeenTable> {
        vec![
            table(
                "leases",
                &[("id", "integer"), ("property_id", "integer")],
                &["id"],
                &[("property_id", "properties")],
            ),
            table("properties", &[("id", "integer"), ("city", "text"), ("owner_id", "integer")], &["id"], &[]),
            table("rental_payments", &[("id", "integer"), ("lease_id", "integer")], &["id"], &[("lease_id", "leases")]),
            table(
                "visit_bookings",
                &[("id", "integer"), ("property_id", "integer")],
                &["id"],
                &[("property_id", "properties")],
            ),
        ]
    }

    fn family(name: &str) -> Family {
        Family { name: name.into(), count: 2, example: "\"x\"".into() }
    }

    #[test]
    fn keys_find_their_tables_by_words_and_their_columns_by_words_and_keys() {
        let cases = [
            ("properties:detail:{number}", Some((1, "properties:detail:{id}"))),
            ("properties:city:*", Some((1, "properties:city:{city}"))),
            ("properties:all_properties_public", Some((1, "properties:all_properties_public"))),
            ("payments:lease:{number}", Some((2, "payments:lease:{lease_id}"))),
            ("visit_bookings:property:{number}", Some((3, "visit_bookings:property:{property_id}"))),
            ("properties:city:{Dakar,Mbour}", Some((1, "properties:city:{city}"))),
            ("properties:city:Dakar", Some((1, "properties:city:{city}"))),
            ("properties:{home,all}:v1", Some((1, "properties:{home,all}:v1"))),
            ("properties:detail:{number}_v4", Some((1, "properties:detail:{id}_v4"))),
            ("properties:page{number}", None),
            ("lease:{number}", Some((0, "lease:{id}"))),
            ("session:{uuid}", None),
            ("properties:search:*", None),
        ];
        for (name, expected) in cases {
            let found = propose(&dousell(), &[family(name)], &Holders::default());
            let first = found.seen.iter().next().map(|(table, keys)| (*table, keys[0].template.clone()));
            assert_eq!(first, expected.map(|(table, template)| (table, template.to_owned())), "{name}");
            assert_eq!(found.unknown.len(), usize::from(expected.is_none()), "{name}");
        }
    }

    #[test]
    fn values_that_a_column_holds_decide_where_words_do_not() {
        let holders = Holders::from([(("places:*".to_owned(), 1), vec![(1, "city".to_owned())])]);
        let found = propose(&dousell(), &[family("places:*")], &holders);
        assert_eq!(found.seen[&1][0].template, "places:{city}");
    }

    #[test]
    fn without_a_cache_the_keys_of_the_table_are_proposed() {
        let of = |number: usize| by_keys(&dousell()[number]).into_iter().map(|key| key.template).collect::<Vec<_>>();
        assert_eq!(of(2), ["rental_payments:{id}", "rental_payments:lease:{lease_id}"]);
        assert_eq!(by_keys(&table("log", &[], &[], &[]))[0].template, "log:all");
    }

    #[test]
    fn plurals_are_one_word() {
        for (a, b) in [
            ("properties", "property"),
            ("leases", "lease"),
            ("boxes", "box"),
            ("users", "user"),
            ("address", "address"),
        ] {
            assert_eq!(stem(a), stem(b), "{a}");
        }
    }
}
