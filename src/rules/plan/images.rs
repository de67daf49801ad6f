//! The values of one row image, as a plan wants them.
//!
//! Raw values are slices of the stream, taken in one walk. What has to be made of them (a path into JSON, a filter) is
//! made when first asked for, once.

use std::cell::OnceCell;

use smallvec::SmallVec;

use crate::change::{Old, ReplicaIdentity, Tuple, Value};
use crate::rules::value::reading::{Form, Made, Reading};

/// One value that some key needs as it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ImageSlot {
    /// Index of the column in every tuple.
    pub position: usize,
    /// How it is written.
    pub form: Form,
    /// Whether the replica identity carries it.
    pub in_identity: bool,
}

/// One value that is made of a slot's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Making {
    /// Index into the slots; verbatim.
    pub slot: usize,
    /// The text of its type.
    pub form: Form,
    /// What is made of it.
    pub reading: Reading,
}

/// Where a planned value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueSource {
    /// Index into the slots.
    Slot(usize),
    /// Index into the makings.
    Made(usize),
    /// The relation has no such column (dropped, renamed, not published): never known.
    Missing,
}

/// The raw values of one row image, one for each slot.
pub type Raw<'a> = SmallVec<[Value<'a>; 16]>;

/// Redis takes keys of 512 MB and PostgreSQL has values of 1 GB; a value longer than this is not carried along.
const VALUE_BYTES_MAX: usize = 2 << 20;

/// One row image.
pub struct Image<'a, 'p> {
    raw: Raw<'a>,
    makings: &'p [Making],
    made: SmallVec<[OnceCell<Made<'a>>; 8]>,
    is_old: bool,
}

impl<'a, 'p> Image<'a, 'p> {
    /// Values that are too long to carry are taken as unknown, so that their keys widen.
    #[inline]
    pub fn new(mut raw: Raw<'a>, makings: &'p [Making]) -> Self {
        for value in &mut raw {
            if matches!(value, Value::Text(text) if text.len() > VALUE_BYTES_MAX) {
                *value = Value::Unknown;
            }
        }
        Image { raw, makings, made: makings.iter().map(|_| OnceCell::new()).collect(), is_old: false }
    }

    /// The same of a row that is no more, or was otherwise.
    #[inline]
    pub fn old(raw: Raw<'a>, makings: &'p [Making]) -> Self {
        Image { is_old: true, ..Image::new(raw, makings) }
    }

    /// Whether it is of a row that is no more, or was otherwise.
    pub fn is_old(&self) -> bool {
        self.is_old
    }

    /// A value, made now unless it was made before.
    #[inline]
    pub fn value(&self, source: ValueSource) -> Value<'_> {
        match source {
            ValueSource::Slot(slot) => self.raw[slot],
            ValueSource::Made(index) => {
                let Making { slot, form, reading } = &self.makings[index];
                self.made[index].get_or_init(|| reading.make(*form, self.raw[*slot])).value()
            }
            ValueSource::Missing => Value::Unknown,
        }
    }
}

/// The slots' values in one walk; a tuple that ends early leaves the rest unknown.
#[inline]
pub fn raw<'a>(slots: &[ImageSlot], tuple: Tuple<'a>) -> Raw<'a> {
    let mut image = Raw::new();
    let mut values = tuple.values();
    let (mut at, mut last) = (0, Value::Unknown);
    for slot in slots {
        if slot.position >= at {
            last = values.nth(slot.position - at).unwrap_or(Value::Unknown);
            at = slot.position + 1;
        }
        image.push(slot.form.read(last));
    }
    image
}

/// What is known of the old row. An update's `new` image gains what only the old one tells: an unchanged TOAST.
#[inline]
pub fn raw_old<'a>(slots: &[ImageSlot], identity: ReplicaIdentity, old: Old<'a>, new: Option<&mut Raw<'a>>) -> Raw<'a> {
    let mut image = match (old, &new) {
        (Old::Full(tuple) | Old::Key(tuple), _) => raw(slots, tuple),
        // Nothing was sent because the identity's columns are as they were: `ExtractReplicaIdentity`
        // (src/backend/access/heap/heapam.c). With FULL the old row always comes, so its absence tells nothing.
        (Old::Absent, Some(new)) if identity != ReplicaIdentity::Full => Raw::clone(new),
        (Old::Absent, Some(_) | None) => std::iter::repeat_n(Value::Unknown, slots.len()).collect(),
    };
    if !matches!(old, Old::Full(_)) {
        for (value, _) in image.iter_mut().zip(slots).filter(|(_, slot)| !slot.in_identity) {
            *value = Value::Unknown;
        }
    }
    for (new, old) in new.into_iter().flatten().zip(&image).filter(|(new, _)| **new == Value::Unknown) {
        *new = *old;
    }
    image
}
