//! Which columns an update may have changed, found once for each update, and sets of columns to compare it with.
//!
//! Only a known old value says that a column did not change. A column that the relation lacks is never known, so it
//! always counts as changed.

use smallvec::{SmallVec, smallvec};

use crate::change::{Old, Relation, ReplicaIdentity, Tuple, Value};

/// Columns of one relation, by their positions; the position behind the last one stands for columns that it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnSet(SmallVec<[u64; 2]>);

impl ColumnSet {
    /// None of the columns of a relation with so many.
    pub fn none(count: usize) -> Self {
        ColumnSet(smallvec![0; count / 64 + 1])
    }

    /// Adds one; the position behind the last one is a column that the relation lacks.
    #[inline]
    pub fn insert(&mut self, position: usize) {
        self.0[position / 64] |= 1 << (position % 64);
    }

    /// Adds all of another set of the same relation.
    pub fn extend(&mut self, other: &ColumnSet) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    /// Whether a column is in both.
    #[inline]
    pub fn meets(&self, other: &ColumnSet) -> bool {
        self.0.iter().zip(&other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    #[inline]
    fn contains(&self, position: usize) -> bool {
        self.0[position / 64] & 1 << (position % 64) != 0
    }
}

/// How updates of one relation are compared.
#[derive(Clone, Debug)]
pub struct Comparing {
    identity: ReplicaIdentity,
    count: usize,
    /// The columns that rules ask about.
    watched: ColumnSet,
    /// Those that the replica identity does not carry.
    outside: ColumnSet,
    /// Those that the relation lacks.
    lacking: ColumnSet,
}

impl Comparing {
    /// Of no column yet.
    pub fn new(relation: &Relation) -> Self {
        let count = relation.columns.len();
        let (mut lacking, mut all) = (ColumnSet::none(count), ColumnSet::none(count));
        lacking.insert(count);
        all.insert(count);
        for (position, _) in relation.columns.iter().enumerate().filter(|(_, column)| !column.in_identity) {
            all.insert(position);
        }
        Comparing { identity: relation.identity, count, watched: ColumnSet::none(count), outside: all, lacking }
    }

    /// Rules ask about these as well.
    pub fn watch(&mut self, columns: &ColumnSet) {
        self.watched.extend(columns);
    }

    /// The watched columns that may have changed; others may or may not be among them.
    #[inline]
    pub fn changed(&self, old: Old<'_>, new: Tuple<'_>) -> ColumnSet {
        match old {
            Old::Full(old) => self.compared(&self.lacking, old, new),
            // What an old key holds of other columns is not real, whatever it is.
            Old::Key(old) => self.compared(&self.outside, old, new),
            // Nothing was sent because the identity's columns are as they were: `ExtractReplicaIdentity`
            // (src/backend/access/heap/heapam.c). With FULL the old row always comes, so its absence tells nothing.
            Old::Absent if self.identity != ReplicaIdentity::Full => self.outside.clone(),
            Old::Absent => self.all(),
        }
    }

    #[inline]
    fn compared(&self, surely: &ColumnSet, old: Tuple<'_>, new: Tuple<'_>) -> ColumnSet {
        if old.columns() != self.count || new.columns() != self.count {
            return self.all();
        }
        let mut changed = surely.clone();
        for (position, (old, new)) in old.values().zip(new.values()).enumerate() {
            // A new value that is not in the stream is an unchanged TOAST: `logicalrep_write_tuple`
            // (src/backend/replication/logical/proto.c).
            if self.watched.contains(position) && new != Value::Unknown && (old == Value::Unknown || old != new) {
                changed.insert(position);
            }
        }
        changed
    }

    fn all(&self) -> ColumnSet {
        ColumnSet(self.watched.0.iter().map(|_| u64::MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Column, Oid};

    #[test]
    fn sets_hold_columns_beyond_the_first_64() {
        let columns =
            |names: usize| (0..names).map(|_| Column { name: String::new(), type_oid: Oid(25), in_identity: true });
        for count in [1, 63, 64, 65, 200, 1600] {
            let (schema, name) = (String::new(), String::new());
            let identity = ReplicaIdentity::Full;
            let relation = Relation { oid: Oid(1), schema, name, identity, columns: columns(count).collect() };
            let mut comparing = Comparing::new(&relation);
            let (mut last, mut lacking) = (ColumnSet::none(count), ColumnSet::none(count));
            last.insert(count - 1);
            lacking.insert(count);
            comparing.watch(&last);
            let image = |byte: u8| [vec![b'n'; count - 1], vec![b't', 0, 0, 0, 1, byte]].concat();
            let (before, after) = (image(b'a'), image(b'b'));
            let (before, after) = (Tuple::checked(count as u16, &before), Tuple::checked(count as u16, &after));
            let changed = comparing.changed(Old::Full(before), after);
            assert!(changed.meets(&last) && changed.meets(&lacking), "{count}");
            let same = comparing.changed(Old::Full(after), after);
            assert!(!same.meets(&last) && same.meets(&lacking), "{count}");
            assert!(comparing.changed(Old::Absent, after).meets(&last), "{count}");
        }
    }
}
