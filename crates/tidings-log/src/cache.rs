//! A bounded memory of what was used lately.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use parking_lot::Mutex;

/// Keeps what was used most recently, up to a total cost.
pub(crate) struct Cache<K, V> {
    capacity: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// By the moment of last use, oldest first.
    order: BTreeMap<u64, K>,
    uses: u64,
    cost: usize,
}

struct Entry<V> {
    value: V,
    cost: usize,
    used: u64,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inner: Mutex::new(Inner {
                entries: HashMap::new(),
                order: BTreeMap::new(),
                uses: 0,
                cost: 0,
            }),
        }
    }

    pub(crate) fn get(&self, key: K) -> Option<V> {
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let now = inner.uses;
        let entry = inner.entries.get_mut(&key)?;
        let before = std::mem::replace(&mut entry.used, now);
        let value = entry.value.clone();
        inner.order.remove(&before);
        inner.order.insert(now, key);
        Some(value)
    }

    pub(crate) fn put(&self, key: K, value: V, cost: usize) {
        let mut inner = self.inner.lock();
        inner.remove(&key);
        inner.uses += 1;
        let used = inner.uses;
        inner.cost += cost;
        inner.order.insert(used, key);
        inner.entries.insert(key, Entry { value, cost, used });
        // What was just put in stays, whatever it costs: its reader is about to use it again.
        while inner.cost > self.capacity && inner.entries.len() > 1 {
            let Some((_, oldest)) = inner.order.pop_first() else {
                break;
            };
            inner.remove(&oldest);
        }
    }

    pub(crate) fn remove_if(&self, unwanted: impl Fn(&K) -> bool) {
        let mut inner = self.inner.lock();
        let keys: Vec<K> = inner
            .entries
            .keys()
            .copied()
            .filter(|key| unwanted(key))
            .collect();
        for key in keys {
            inner.remove(&key);
        }
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.cost -= entry.cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_goes_first() {
        let cache = Cache::new(10);
        cache.put(1, 'a', 4);
        cache.put(2, 'b', 4);
        assert_eq!(cache.get(1), Some('a'));
        cache.put(3, 'c', 4);
        assert_eq!(cache.get(2), None);
        assert_eq!(cache.get(1), Some('a'));
        cache.put(4, 'd', 100);
        assert_eq!(cache.get(1), None);
        assert_eq!(cache.get(4), Some('d'));
        cache.remove_if(|key| *key == 4);
        assert_eq!(cache.get(4), None);
    }
}
