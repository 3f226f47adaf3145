//! Event type names as small numbers, so that a filter is a few bits and a match an index.

use std::collections::HashMap;

use parking_lot::RwLock;
use smallvec::SmallVec;

/// The number of an event type in this process; it means nothing outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

/// The numbers given so far. Names are only ever added: they come from the configuration, from
/// signed claims and from the log, all bounded by those who operate the server.
#[derive(Debug, Default)]
pub struct TypeTable {
    numbers: RwLock<HashMap<Box<str>, TypeId>>,
}

/// The number for every name after the table is full. Nothing is ever selected by it, so a type
/// beyond the table is seen by views without a type rule only.
const OVERFLOW: TypeId = TypeId(u16::MAX);

impl TypeTable {
    /// The number of `name`, which gets one if it has none.
    pub fn number(&self, name: &str) -> TypeId {
        if let Some(&number) = self.numbers.read().get(name) {
            return number;
        }
        let mut numbers = self.numbers.write();
        let Ok(next) = u16::try_from(numbers.len()) else {
            return OVERFLOW;
        };
        if next == OVERFLOW.0 {
            return OVERFLOW;
        }
        *numbers.entry(name.into()).or_insert(TypeId(next))
    }

    /// The set of these names.
    pub fn set<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> TypeSet {
        let mut set = TypeSet::default();
        for name in names {
            set.insert(self.number(name));
        }
        set
    }
}

/// A set of event types, a bit for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TypeSet {
    words: SmallVec<[u64; 2]>,
}

impl TypeSet {
    fn insert(&mut self, number: TypeId) {
        if number == OVERFLOW {
            return;
        }
        let word = usize::from(number.0 / 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (number.0 % 64);
    }

    /// Whether the type is in the set.
    #[must_use]
    pub fn contains(&self, number: TypeId) -> bool {
        self.words
            .get(usize::from(number.0 / 64))
            .is_some_and(|word| word & (1 << (number.0 % 64)) != 0)
    }

    /// The types that are in both sets. Trailing empty words are dropped, so that equal sets are
    /// equal as keys.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut words: SmallVec<[u64; 2]> = self
            .words
            .iter()
            .zip(&other.words)
            .map(|(left, right)| left & right)
            .collect();
        while words.last() == Some(&0) {
            words.pop();
        }
        Self { words }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_selects_nothing_by_the_names_it_has_no_number_for() {
        let table = TypeTable::default();
        for index in 0..u16::MAX {
            assert_ne!(table.number(&format!("type_{index}")), OVERFLOW);
        }
        let beyond = table.number("one_too_many");
        assert_eq!(beyond, OVERFLOW);
        assert!(!table.set(["one_too_many", "type_3"]).contains(beyond));
    }

    #[test]
    fn equal_sets_are_equal_as_keys() {
        let table = TypeTable::default();
        for index in 0..100 {
            table.number(&format!("type_{index}"));
        }
        let low = table.set(["type_1"]);
        let both = table.set(["type_1", "type_99"]);
        assert_eq!(both.intersection(&low), low);
        assert!(!both.intersection(&low).contains(table.number("type_99")));
    }
}
