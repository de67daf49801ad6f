//! The conditions of a plan, each part of them held once: forty rules ask the same few things of a row.
//!
//! What a part may be is found when a rule first asks, and kept for the image. Of an old image, a part whose columns did
//! not change is what it is of the new one.

use std::cell::Cell;

use smallvec::SmallVec;

use crate::rules::plan::columns::ColumnSet;
use crate::rules::plan::images::{Image, ValueSource};
use crate::rules::value::condition::{Condition, Kind, Possible};

/// One value of a condition.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Operand {
    /// Where it comes from.
    pub source: ValueSource,
    /// How it is compared.
    pub kind: Kind,
    /// Its column's position, that behind the last one when the relation lacks it.
    pub column: usize,
}

/// A part of a condition; parts inside of it by their index.
#[derive(Clone, PartialEq, Debug)]
enum Asked {
    All(Vec<usize>),
    One(Vec<usize>),
    Not(usize),
    Test(Condition<Operand>),
}

#[derive(Clone, PartialEq, Debug)]
struct Part {
    asked: Asked,
    /// The columns that it is about.
    reads: ColumnSet,
}

/// All conditions of one relation.
#[derive(Clone, Debug)]
pub struct Conditions {
    parts: Vec<Part>,
    /// How many columns the relation has.
    columns: usize,
}

/// What is known of one image.
pub struct Side<'s, 'a, 'p> {
    image: &'s Image<'a, 'p>,
    /// By part; nothing is possible of what was not asked.
    found: SmallVec<[Cell<Possible>; 64]>,
    /// Columns that differ from those of another side.
    other: Option<(&'s ColumnSet, &'s Side<'s, 'a, 'p>)>,
}

impl Conditions {
    /// None yet, of a relation with so many columns.
    pub fn none(columns: usize) -> Self {
        Conditions { parts: Vec::new(), columns }
    }

    /// Adds a condition; its index.
    pub fn add(&mut self, condition: &Condition<Operand>) -> usize {
        let mut reads = ColumnSet::none(self.columns);
        condition.visit(&mut |operand: &Operand| reads.insert(operand.column));
        let asked = match condition {
            Condition::And(all) => Asked::All(all.iter().map(|each| self.add(each)).collect()),
            Condition::Or(all) => Asked::One(all.iter().map(|each| self.add(each)).collect()),
            Condition::Not(inner) => Asked::Not(self.add(inner)),
            Condition::Compare(..)
            | Condition::Like(..)
            | Condition::IsNull(_)
            | Condition::Holds(_)
            | Condition::Constant(_) => Asked::Test(condition.clone()),
        };
        let part = Part { asked, reads };
        self.parts.iter().position(|known| *known == part).unwrap_or_else(|| {
            self.parts.push(part);
            self.parts.len() - 1
        })
    }

    /// The columns that a condition is about.
    pub fn reads(&self, index: usize) -> &ColumnSet {
        &self.parts[index].reads
    }

    /// An image of which nothing was asked yet.
    #[inline]
    pub fn of<'s, 'a, 'p>(&self, image: &'s Image<'a, 'p>) -> Side<'s, 'a, 'p> {
        Side { image, found: SmallVec::from_elem(Cell::new(Possible::NOTHING), self.parts.len()), other: None }
    }

    /// An image that differs from another one in these columns at most.
    #[inline]
    pub fn beside<'s, 'a, 'p>(
        &self,
        image: &'s Image<'a, 'p>,
        changed: &'s ColumnSet,
        other: &'s Side<'s, 'a, 'p>,
    ) -> Side<'s, 'a, 'p> {
        Side { other: Some((changed, other)), ..self.of(image) }
    }

    /// Which truth values a condition may have.
    pub fn possible(&self, index: usize, side: &Side<'_, '_, '_>) -> Possible {
        let found = side.found[index].get();
        if found != Possible::NOTHING {
            return found;
        }
        let Part { asked, reads } = &self.parts[index];
        let found = match side.other {
            Some((changed, other)) if !reads.meets(changed) => self.possible(index, other),
            Some(_) | None => self.ask(asked, side),
        };
        side.found[index].set(found);
        found
    }

    fn ask(&self, asked: &Asked, side: &Side<'_, '_, '_>) -> Possible {
        match asked {
            Asked::All(parts) => Possible::all(parts.iter().map(|part| self.possible(*part, side))),
            Asked::One(parts) => Possible::all(parts.iter().map(|part| self.possible(*part, side).negated())).negated(),
            Asked::Not(part) => self.possible(*part, side).negated(),
            Asked::Test(test) => test.possible(&|operand: &Operand| (side.image.value(operand.source), operand.kind)),
        }
    }
}
