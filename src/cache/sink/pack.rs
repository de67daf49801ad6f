//! Which requests a set of tags becomes. Pure.
//!
//! An exact tag goes as it is. Coarse tags stand in for what nobody can list, for what the service does not take, and for a
//! set that would take too many requests: they purge too much, which costs a page its making, and never too little.

use std::collections::{BTreeMap, BTreeSet};

use crate::glob;
use crate::keys::{FamilyId, Key};
use crate::tag::{CoarseTag, SinkKind, tag_of};

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct TagBatch {
    pub(super) tags: Vec<Vec<u8>>,
    /// The keys of exact tags, by their places.
    pub(super) exact: Vec<usize>,
    pub(super) is_coarse: bool,
    /// Of coarse ones: so many exact tags were refused, for which the first batch of them stands.
    pub(super) given_up: usize,
}

impl TagBatch {
    /// What goes instead when this one is refused for good; nothing where it is a single coarse tag.
    pub(super) fn instead(&self, size: usize, coarse: impl Fn(usize) -> BTreeSet<Vec<u8>>) -> Vec<TagBatch> {
        let mut batches = match self.is_coarse {
            true if self.tags.len() == 1 => Vec::new(),
            true => coarse_batches(1, self.tags.iter().cloned().collect()),
            false => coarse_batches(size, self.exact.iter().flat_map(|place| coarse(*place)).collect()),
        };
        if let Some(first) = batches.first_mut() {
            first.given_up = if self.is_coarse { self.given_up } else { self.tags.len() };
        }
        batches
    }
}

/// What became of a set.
#[derive(Debug, Default)]
pub(super) struct PackedTags {
    pub(super) batches: Vec<TagBatch>,
    /// Tags that the service does not take, and why the last of them is not taken.
    pub(super) unfit: (u64, &'static str),
}

/// The coarse tags that stand for a key: those of every family that may have made it, since a set holds a key once.
pub(super) fn coarse_of(families: &[CoarseTag], key: &[u8]) -> BTreeSet<Vec<u8>> {
    let of = families.iter().filter(|family| glob::matches(&family.pattern, key));
    of.map(|family| family.tag.clone()).collect()
}

/// The coarse tags that stand for a pattern: those of every family of which it may cover a tag.
pub(super) fn coarse_of_pattern(families: &[CoarseTag], pattern: &[u8]) -> BTreeSet<Vec<u8>> {
    let prefix = glob::literal_prefix(pattern);
    let meets = |family: &&CoarseTag| {
        let own = glob::literal_prefix(&family.pattern);
        own.starts_with(&prefix) || prefix.starts_with(&own)
    };
    families.iter().filter(meets).map(|family| family.tag.clone()).collect()
}

/// Packs exact tags, in the order in which they come, behind the coarse ones.
pub(super) fn pack<'k>(
    kind: SinkKind,
    families: &[CoarseTag],
    keys: impl Iterator<Item = Key<'k>>,
    requests_max: usize,
) -> PackedTags {
    let (size, mut packed) = (kind.tags_max(), PackedTags::default());
    let mut exact: BTreeMap<FamilyId, Vec<(usize, &'k [u8])>> = BTreeMap::new();
    let mut coarse: Vec<&'k [u8]> = Vec::new();
    for (place, key) in keys.enumerate() {
        let unfit = tag_of(key.bytes).map_or(Some("is a key"), |tag| kind.refuses(tag));
        match unfit {
            None => exact.entry(key.family).or_default().push((place, key.bytes)),
            Some(why) => {
                packed.unfit = (packed.unfit.0 + 1, why);
                coarse.push(key.bytes);
            }
        }
    }
    let count = |exact: &BTreeMap<FamilyId, Vec<(usize, &[u8])>>| exact.values().map(Vec::len).sum::<usize>();
    while count(&exact).div_ceil(size) > requests_max {
        let largest = exact.iter().max_by_key(|(family, keys)| (keys.len(), **family)).map(|(family, _)| *family);
        let Some(keys) = largest.and_then(|family| exact.remove(&family)) else { break };
        coarse.extend(keys.into_iter().map(|(_, key)| key));
    }
    packed.batches = coarse_batches(size, coarse.into_iter().flat_map(|key| coarse_of(families, key)).collect());
    let mut exact: Vec<(usize, &[u8])> = exact.into_values().flatten().collect();
    exact.sort_unstable();
    packed.batches.extend(exact.chunks(size).map(|chunk| TagBatch {
        tags: chunk.iter().filter_map(|(_, key)| tag_of(key)).map(<[u8]>::to_vec).collect(),
        exact: chunk.iter().map(|(place, _)| *place).collect(),
        ..TagBatch::default()
    }));
    packed
}

/// Batches of coarse tags.
pub(super) fn coarse_batches(size: usize, tags: BTreeSet<Vec<u8>>) -> Vec<TagBatch> {
    let tags: Vec<Vec<u8>> = tags.into_iter().collect();
    let batch = |tags: &[Vec<u8>]| TagBatch { tags: tags.to_vec(), is_coarse: true, ..TagBatch::default() };
    tags.chunks(size).map(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeySet;

    fn families() -> Vec<CoarseTag> {
        let family = |id: u32, pattern: &str, tag: &str| CoarseTag {
            family: FamilyId(id),
            pattern: format!("\0{pattern}").into_bytes(),
            tag: tag.as_bytes().to_vec(),
        };
        vec![family(0, "p:*", "ps"), family(1, "c:*", "cs"), family(2, "p:*", "more")]
    }

    fn packed(kind: SinkKind, tags: &[(u32, &str)], requests_max: usize) -> Vec<(String, usize, bool)> {
        let mut set = KeySet::default();
        tags.iter().for_each(|(family, tag)| _ = set.insert(format!("\0{tag}").as_bytes(), FamilyId(*family), 0));
        let packed = pack(kind, &families(), set.iter(), requests_max);
        let mut exact: Vec<usize> = packed.batches.iter().flat_map(|batch| batch.exact.clone()).collect();
        let keys: Vec<Vec<u8>> = set.iter().map(|key| key.bytes.to_vec()).collect();
        let coarse: BTreeSet<Vec<u8>> =
            packed.batches.iter().filter(|batch| batch.is_coarse).flat_map(|batch| batch.tags.clone()).collect();
        let others: Vec<usize> = (0..keys.len()).filter(|place| !exact.contains(place)).collect();
        assert!(others.iter().all(|place| coarse_of(&families(), &keys[*place]).is_subset(&coarse)), "{coarse:?}");
        exact.extend(&others);
        exact.sort_unstable();
        assert_eq!(exact, (0..set.len()).collect::<Vec<_>>(), "each key is done once");
        let text = |batch: &TagBatch| {
            let tags: Vec<_> = batch.tags.iter().map(|tag| String::from_utf8_lossy(tag).into_owned()).collect();
            let stands_for = |place: &&usize| {
                let of = coarse_of(&families(), &keys[**place]);
                batch.is_coarse && batch.tags.iter().any(|tag| of.contains(tag))
            };
            (tags.join(" "), batch.exact.len() + others.iter().filter(stands_for).count(), batch.is_coarse)
        };
        packed.batches.iter().map(text).collect()
    }

    #[test]
    fn what_is_refused_goes_in_smaller_parts_until_a_coarse_tag_stands_alone() {
        let tag = |tags: &str| tags.split(' ').map(|tag| tag.as_bytes().to_vec()).collect::<Vec<_>>();
        let exact = TagBatch { tags: tag("p:1 p:2 c:1"), exact: vec![0, 1, 2], ..TagBatch::default() };
        let keys = ["p:1", "p:2", "c:1"].map(|tag| format!("\0{tag}").into_bytes());
        let coarse = |place: usize| coarse_of(&families(), &keys[place]);
        let batch = |tags: &str, given_up| TagBatch { tags: tag(tags), exact: vec![], is_coarse: true, given_up };
        assert_eq!(exact.instead(2, coarse), [batch("cs more", 3), batch("ps", 0)]);
        assert_eq!(batch("cs more", 3).instead(2, coarse), [batch("cs", 3), batch("more", 0)]);
        assert_eq!(batch("ps", 0).instead(2, coarse), []);
    }

    #[test]
    fn exact_tags_go_in_their_order_in_requests_of_the_size_that_the_kind_allows() {
        let tags: Vec<String> = (0..33).map(|number| format!("p:{number}")).collect();
        let tags: Vec<(u32, &str)> = tags.iter().map(|tag| (0, tag.as_str())).collect();
        let sizes = |kind| packed(kind, &tags, 100).into_iter().map(|(_, size, _)| size).collect::<Vec<_>>();
        assert_eq!(sizes(SinkKind::Vercel), [16, 16, 1]);
        assert_eq!(sizes(SinkKind::Fastly), [33]);
        assert_eq!(packed(SinkKind::Webhook, &[(0, "p:2"), (1, "c:1")], 9), [("p:2 c:1".to_owned(), 2, false)]);
        assert_eq!(packed(SinkKind::Webhook, &[], 9), []);
    }

    #[test]
    fn what_the_service_does_not_take_goes_as_the_coarse_tags_of_every_family_that_may_have_made_it() {
        let expected = [("more ps".to_owned(), 1, true), ("c:1".to_owned(), 1, false)];
        assert_eq!(packed(SinkKind::Cloudflare, &[(0, "p:a b"), (1, "c:1")], 9), expected);
    }

    #[test]
    fn too_many_tags_go_as_the_coarse_tags_of_their_largest_families() {
        let tags: Vec<String> = (0..40).map(|number| format!("p:{number}")).collect();
        let mut tags: Vec<(u32, &str)> = tags.iter().map(|tag| (0, tag.as_str())).collect();
        tags.push((1, "c:1"));
        let expected = [("more ps".to_owned(), 40, true), ("c:1".to_owned(), 1, false)];
        assert_eq!(packed(SinkKind::Vercel, &tags, 2), expected);
        assert_eq!(packed(SinkKind::Vercel, &tags, 3).len(), 3);
    }

    #[test]
    fn a_pattern_stands_for_the_coarse_tags_of_all_families_that_it_may_meet() {
        let of = |pattern: &[u8]| {
            let tags = coarse_of_pattern(&families(), pattern).into_iter();
            tags.map(|tag| String::from_utf8(tag).expect("text")).collect::<Vec<_>>()
        };
        assert_eq!(of(b"\0p:*"), ["more", "ps"]);
        assert_eq!(of(b"\0p:1*"), ["more", "ps"]);
        assert_eq!(of(b"\0*"), ["cs", "more", "ps"]);
        assert_eq!(of(b"\0x:*"), [""; 0]);
    }
}
