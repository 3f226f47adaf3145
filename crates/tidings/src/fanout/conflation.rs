//! Conflation: which events a stream that lags can do without.

use tidings_log::State;

use super::block::Block;
use super::types::{TypeId, TypeSet, TypeTable};

/// The types of which a stream wants the latest only, while it lags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflation {
    types: TypeSet,
}

impl Conflation {
    /// Of these types.
    #[must_use]
    pub fn new<'a>(types: &TypeTable, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            types: types.set(names),
        }
    }

    /// Whether events of this type can be left out at all.
    #[must_use]
    pub fn is_of(&self, kind: TypeId) -> bool {
        self.types.contains(kind)
    }

    /// Whether the log holds a later event of the same tenant, type, device and subject. Whatever the view,
    /// it belongs there if this one does, since a view knows nothing else of events; so whoever is not
    /// given this one is given that one, or a later one still.
    #[must_use]
    pub fn supersedes(
        &self,
        block: &Block,
        index: usize,
        state: &State,
        types: &TypeTable,
    ) -> bool {
        let facts = block.facts(index);
        let Some((kind, key)) = block.subject(index) else {
            return false;
        };
        state.latest(facts.tenant, kind, key).is_some_and(|latest| {
            latest.position() > block.position(index)
                && latest.device() == facts.device
                && types.number(latest.event().event_type) == facts.kind
        })
    }
}
