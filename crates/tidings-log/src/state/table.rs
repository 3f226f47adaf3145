//! The state in memory: for each tenant and kind its subjects in the order of their keys.
//!
//! A snapshot shares it: it takes a few counted references under the lock and no more. What is
//! changed while a snapshot has it is copied first, and since subjects stand in chunks of a few
//! hundred, that is a chunk and never a whole table. Who wants one subject finds it by a hash: a search
//! through chunks would go through memory from miss to miss.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use super::entry::StateEntry;

/// A chunk is split when it has more subjects than this.
const CHUNK: usize = 256;

/// Subjects in the order of their keys; never empty.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    /// No key in it is less, none in those before it as great.
    from: Arc<str>,
    pub(super) entries: Arc<Vec<Arc<StateEntry>>>,
}

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
    /// Every subject by its hash; where two have the same, one of them.
    index: HashMap<u64, Arc<StateEntry>, BuildHasherDefault<AsItIs>>,
    hash: RandomState,
    /// Two subjects had the same hash at some time, so that one may be missing in the index.
    collided: bool,
}

/// Of what is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only whole hashes are looked up");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Table {
    pub(super) fn kind(&self, tenant: TenantId, kind: &str) -> Option<&Kind> {
        let state = self.tenants.get(&tenant)?;
        let place = state.place(kind).ok()?;
        Some(&state.kinds[place])
    }

    /// The last event of a subject.
    pub(super) fn get(&self, tenant: TenantId, kind: &str, key: &str) -> Option<&Arc<StateEntry>> {
        let found = self.index.get(&self.hash_of(tenant, kind, key));
        match found.filter(|entry| entry.is_of(tenant, kind, key)) {
            None if self.collided => self.kind(tenant, kind)?.get(key),
            found => found,
        }
    }

    fn hash_of(&self, tenant: TenantId, kind: &str, key: &str) -> u64 {
        self.hash.hash_one((tenant, kind, key))
    }

    /// Keeps a subject's last event; answers the one before it.
    pub(super) fn put(&mut self, entry: Arc<StateEntry>) -> Option<Arc<StateEntry>> {
        let hash = self.hash_of(entry.tenant, &entry.kind, entry.key());
        let same = self.index.insert(hash, Arc::clone(&entry));
        self.collided |=
            same.is_some_and(|other| !other.is_of(entry.tenant, &entry.kind, entry.key()));
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
        self.get(tenant, kind, key)?;
        self.unindex(tenant, kind, key);
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
        let chunks = state.kinds.iter().flat_map(|kind| kind.chunks.iter());
        for entry in chunks.flat_map(|chunk| chunk.entries.iter()) {
            self.unindex(tenant, &entry.kind, entry.key());
        }
        Some(state)
    }

    fn unindex(&mut self, tenant: TenantId, kind: &str, key: &str) {
        let hash = self.hash_of(tenant, kind, key);
        if self
            .index
            .get(&hash)
            .is_some_and(|entry| entry.is_of(tenant, kind, key))
        {
            self.index.remove(&hash);
        }
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

    fn get(&self, key: &str) -> Option<&Arc<StateEntry>> {
        let entries = &self.chunks.get(place_of_chunk(&self.chunks, key))?.entries;
        let place = place_in(entries, key).ok()?;
        Some(&entries[place])
    }

    fn put(&mut self, entry: Arc<StateEntry>) -> Option<Arc<StateEntry>> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk_place = place_of_chunk(chunks, entry.key());
        if chunks.is_empty() {
            chunks.push(Chunk::of(vec![entry]));
            self.count = 1;
            return None;
        }
        let is_last = chunk_place + 1 == chunks.len();
        let chunk = &mut chunks[chunk_place];
        let entries = Arc::make_mut(&mut chunk.entries);
        let place = match place_in(entries, entry.key()) {
            Ok(place) => return Some(std::mem::replace(&mut entries[place], entry)),
            Err(place) => place,
        };
        if place == 0 {
            chunk.from = entry.key().into();
        }
        entries.insert(place, entry);
        self.count += 1;
        if entries.len() > CHUNK {
            // Keys that ascend, as when the state is read from disk, fill chunk after chunk.
            let ascending = is_last && place == CHUNK;
            let upper = entries.split_off(if ascending { CHUNK } else { CHUNK / 2 });
            chunks.insert(chunk_place + 1, Chunk::of(upper));
        }
        None
    }

    fn take(&mut self, key: &str) -> Option<Arc<StateEntry>> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk_place = place_of_chunk(chunks, key);
        let entries = Arc::make_mut(&mut chunks.get_mut(chunk_place)?.entries);
        let place = place_in(entries, key).ok()?;
        let taken = entries.remove(place);
        if entries.is_empty() {
            chunks.remove(chunk_place);
        }
        self.count -= 1;
        Some(taken)
    }
}

impl Chunk {
    fn of(entries: Vec<Arc<StateEntry>>) -> Self {
        Self {
            from: entries[0].key().into(),
            entries: Arc::new(entries),
        }
    }
}

/// The chunk that has a key, or would have it.
fn place_of_chunk(chunks: &[Chunk], key: &str) -> usize {
    chunks
        .partition_point(|chunk| *chunk.from <= *key)
        .saturating_sub(1)
}

fn place_in(entries: &[Arc<StateEntry>], key: &str) -> Result<usize, usize> {
    entries.binary_search_by(|entry| entry.key().cmp(key))
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
            origin: None,
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
                let now = table.get(tenant, kind, &key).map(|entry| entry.position());
                prop_assert_eq!(table.kind(tenant, kind).and_then(|kind| kind.get(&key)).map(|entry| entry.position()), now);
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

    /// A tenant that is forgotten leaves nothing behind, and the others all.
    #[test]
    fn a_forgotten_tenant_is_found_in_no_way() {
        let mut table = Table::default();
        let [one, two] = [1, 2].map(|number| TenantId::from_bytes([number; 16]));
        for number in 0..1_000 {
            table.put(entry(one, "job", &number.to_string(), number));
            table.put(entry(two, "job", &number.to_string(), number));
        }
        assert_eq!(table.forget(one).unwrap().count(), 1_000);
        assert!(table.forget(one).is_none());
        assert!(table.get(one, "job", "7").is_none());
        assert_eq!(table.get(two, "job", "7").unwrap().position(), 7);
        assert_eq!((table.count, table.index.len()), (1_000, 1_000));
    }

    /// No pair of keys is known to collide, so the index is made to forget one as a collision would.
    #[test]
    fn a_subject_that_a_collision_keeps_out_of_the_index_is_found() {
        let mut table = Table::default();
        let tenant = TenantId::from_bytes([1; 16]);
        table.put(entry(tenant, "job", "a", 1));
        let hash = table.hash_of(tenant, "job", "a");
        table.index.insert(hash, entry(tenant, "job", "b", 2));
        table.collided = true;
        assert_eq!(table.get(tenant, "job", "a").unwrap().position(), 1);
        assert!(table.get(tenant, "job", "c").is_none());
        // What is said of it again finds the other in its place, and takes it.
        table.collided = false;
        table.put(entry(tenant, "job", "a", 3));
        assert!(table.collided);
        assert_eq!(table.take(tenant, "job", "a").unwrap().position(), 3);
        assert!(table.get(tenant, "job", "a").is_none());
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
