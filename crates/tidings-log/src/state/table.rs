//! The state in memory: for each tenant and kind its subjects in the order of their keys.
//!
//! A snapshot shares it: it takes a few counted references under the lock and no more. What is
//! changed while a snapshot has it is copied first, and since subjects stand in chunks of a few
//! hundred, that is a chunk and never a whole table.

use std::collections::HashMap;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use super::entry::StateEntry;

/// A chunk is split when it has more subjects than this.
const CHUNK: usize = 256;

/// Subjects in the order of their keys; never empty.
type Chunk = Arc<Vec<Arc<StateEntry>>>;

/// All subjects of a tenant and kind.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) name: Arc<str>,
    pub(super) chunks: Arc<Vec<Chunk>>,
    pub(super) count: usize,
}

/// All subjects of a tenant, by the names of their kinds in order; no kind is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct TenantState {
    pub(super) kinds: Vec<Kind>,
}

/// All subjects.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The position that it is true at.
    pub(super) through: Position,
    pub(super) tenants: HashMap<TenantId, Arc<TenantState>>,
    pub(super) count: usize,
}

impl Table {
    pub(super) fn kind(&self, tenant: TenantId, kind: &str) -> Option<&Kind> {
        let state = self.tenants.get(&tenant)?;
        let place = state.place(kind).ok()?;
        Some(&state.kinds[place])
    }

    /// Keeps a subject's last event; answers the one before it.
    pub(super) fn put(&mut self, entry: Arc<StateEntry>) -> Option<Arc<StateEntry>> {
        let state = Arc::make_mut(self.tenants.entry(entry.tenant).or_default());
        let place = match state.place(&entry.kind) {
            Ok(place) => place,
            Err(place) => {
                state.kinds.insert(place, Kind::new(&entry.kind));
                place
            }
        };
        let before = state.kinds[place].put(entry);
        self.count += usize::from(before.is_none());
        before
    }

    /// Takes a subject away.
    pub(super) fn take(
        &mut self,
        tenant: TenantId,
        kind: &str,
        key: &str,
    ) -> Option<Arc<StateEntry>> {
        // Looked for first, so that nothing is copied for a subject that is not there.
        self.kind(tenant, kind)?.get(key)?;
        let state = Arc::make_mut(self.tenants.get_mut(&tenant)?);
        let place = state.place(kind).ok()?;
        let taken = state.kinds[place].take(key)?;
        self.count -= 1;
        if state.kinds[place].count == 0 {
            state.kinds.remove(place);
        }
        if state.kinds.is_empty() {
            self.tenants.remove(&tenant);
        }
        Some(taken)
    }

    /// Takes all subjects of a tenant away.
    pub(super) fn forget(&mut self, tenant: TenantId) -> Option<Arc<TenantState>> {
        let state = self.tenants.remove(&tenant)?;
        self.count -= state.count();
        Some(state)
    }
}

impl TenantState {
    fn place(&self, kind: &str) -> Result<usize, usize> {
        self.kinds
            .binary_search_by(|known| known.name.as_ref().cmp(kind))
    }

    pub(super) fn count(&self) -> usize {
        self.kinds.iter().map(|kind| kind.count).sum()
    }
}

impl Kind {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            chunks: Arc::default(),
            count: 0,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<StateEntry>> {
        let chunk = self.chunks.get(place_of_chunk(&self.chunks, key))?;
        let place = place_in(chunk, key).ok()?;
        Some(&chunk[place])
    }

    fn put(&mut self, entry: Arc<StateEntry>) -> Option<Arc<StateEntry>> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk_place = place_of_chunk(chunks, entry.key());
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![entry]));
            self.count = 1;
            return None;
        }
        let is_last = chunk_place + 1 == chunks.len();
        let chunk = Arc::make_mut(&mut chunks[chunk_place]);
        let place = match place_in(chunk, entry.key()) {
            Ok(place) => return Some(std::mem::replace(&mut chunk[place], entry)),
            Err(place) => place,
        };
        chunk.insert(place, entry);
        self.count += 1;
        if chunk.len() > CHUNK {
            // Keys that ascend, as when the state is read from disk, fill chunk after chunk.
            let ascending = is_last && place == CHUNK;
            let upper = chunk.split_off(if ascending { CHUNK } else { CHUNK / 2 });
            chunks.insert(chunk_place + 1, Arc::new(upper));
        }
        None
    }

    fn take(&mut self, key: &str) -> Option<Arc<StateEntry>> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk_place = place_of_chunk(chunks, key);
        let chunk = Arc::make_mut(chunks.get_mut(chunk_place)?);
        let place = place_in(chunk, key).ok()?;
        let taken = chunk.remove(place);
        if chunk.is_empty() {
            chunks.remove(chunk_place);
        }
        self.count -= 1;
        Some(taken)
    }
}

/// The chunk that has a key, or would have it.
fn place_of_chunk(chunks: &[Chunk], key: &str) -> usize {
    chunks
        .partition_point(|chunk| chunk[0].key() <= key)
        .saturating_sub(1)
}

fn place_in(chunk: &[Arc<StateEntry>], key: &str) -> Result<usize, usize> {
    chunk.binary_search_by(|entry| entry.key().cmp(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::entry::Names;
    use super::super::snapshot::StateSnapshot;
    use super::*;
    use crate::event::{EventRef, Subject};

    /// (tenant, kind, key) to position, in order.
    type Plain = BTreeMap<(TenantId, String, String), Position>;

    fn entry(tenant: TenantId, kind: &str, key: &str, position: Position) -> Arc<StateEntry> {
        let subject = Subject {
            kind,
            key,
            ends: false,
        };
        let event = EventRef {
            position,
            appended_at: 0,
            time: None,
            tenant,
            event_type: kind,
            device: None,
            subject: Some(subject),
            data: b"{}",
        };
        Arc::new(StateEntry::new(&event, subject, 0, &mut Names::default()))
    }

    fn plain(snapshot: StateSnapshot) -> Vec<((TenantId, String, String), Position)> {
        snapshot
            .into_entries()
            .map(|entry| {
                let name = (entry.tenant(), entry.kind().into(), entry.key().into());
                (name, entry.position())
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Keys are drawn from few and from many, so that chunks split, empty and are met again.
        #[test]
        fn the_table_is_a_map_and_a_snapshot_of_it_does_not_change(
            changes in prop::collection::vec(
                (0_u8..2, 0_usize..2, 0_u32..2_000, prop::bool::weighted(0.7), prop::bool::weighted(0.01)),
                1..3_000,
            ),
        ) {
            let mut table = Table::default();
            let mut model = Plain::new();
            let mut snapshots = Vec::new();
            for ((tenant, kind, key, stays, look), position) in changes.into_iter().zip(1..) {
                let tenant = TenantId::from_bytes([tenant; 16]);
                let (kind, key) = (["device_status", "metric_update"][kind], format!("key-{key}"));
                let name = (tenant, kind.to_owned(), key.clone());
                let before = if stays {
                    prop_assert_eq!(model.get(&name).copied(), table.put(entry(tenant, kind, &key, position)).map(|entry| entry.position()));
                    model.insert(name, position)
                } else {
                    let taken = table.take(tenant, kind, &key).map(|entry| entry.position());
                    prop_assert_eq!(model.get(&name).copied(), taken);
                    model.remove(&name)
                };
                let now = table.kind(tenant, kind).and_then(|kind| kind.get(&key)).map(|entry| entry.position());
                prop_assert_eq!(now, stays.then_some(position), "before: {:?}", before);
                prop_assert_eq!(table.count, model.len());
                if look {
                    snapshots.push((StateSnapshot::of(&table, None), model.clone()));
                }
            }
            snapshots.push((StateSnapshot::of(&table, None), model));
            for (snapshot, model) in snapshots {
                prop_assert_eq!(snapshot.len(), model.len());
                prop_assert_eq!(plain(snapshot), model.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn keys_that_ascend_fill_their_chunks() {
        let mut table = Table::default();
        let tenant = TenantId::from_bytes([1; 16]);
        for number in 0..CHUNK as u64 * 4 {
            table.put(entry(tenant, "job", &format!("{number:08}"), number));
        }
        assert_eq!(table.kind(tenant, "job").unwrap().chunks.len(), 4);
    }
}
