//! Idempotency keys: which events were published lately, under which key.

use std::collections::{HashMap, VecDeque};

use tidings_protocol::{Position, TenantId};

use crate::event::IdempotencyKey;

/// The keys of the last while. The frames hold them; after a start they are read from there.
pub(crate) struct KeyWindow {
    window: i64,
    limit: usize,
    entries: HashMap<Name, Entry>,
    /// Run time of each entry and its name, oldest first.
    order: VecDeque<(i64, Name)>,
}

/// A key is its tenant's own.
type Name = (TenantId, [u8; 16]);

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: [u8; 16],
    position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The key is new, or forgotten.
    New,
    /// The event was stored before.
    Duplicate(Position),
    /// The key was used for something else.
    Conflict,
}

impl KeyWindow {
    pub(crate) fn new(window: i64, limit: usize) -> Self {
        Self {
            window,
            limit,
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Frames with a lesser run time need not be read for their keys.
    pub(crate) fn oldest(&self, now: i64) -> i64 {
        now.saturating_sub(self.window)
    }

    /// Forgets what is older than the window.
    pub(crate) fn forget(&mut self, now: i64) {
        let oldest = self.oldest(now);
        while let Some((run, name)) = self.order.front()
            && *run < oldest
        {
            self.entries.remove(name);
            self.order.pop_front();
        }
    }

    pub(crate) fn look_up(&self, tenant: TenantId, key: &IdempotencyKey) -> Known {
        match self.entries.get(&(tenant, key.key)) {
            None => Known::New,
            Some(entry) if entry.digest == key.digest => Known::Duplicate(entry.position),
            Some(_) => Known::Conflict,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.order.len() >= self.limit
    }

    /// Remembers a key that [`KeyWindow::look_up`] found to be new. `run` never decreases.
    pub(crate) fn insert(
        &mut self,
        tenant: TenantId,
        key: &IdempotencyKey,
        position: Position,
        run: i64,
    ) {
        let name = (tenant, key.key);
        let entry = Entry {
            digest: key.digest,
            position,
        };
        if self.entries.insert(name, entry).is_none() {
            self.order.push_back((run, name));
        }
    }

    /// Forgets all keys of a tenant.
    pub(crate) fn forget_tenant(&mut self, tenant: TenantId) {
        self.entries.retain(|(owner, _), _| *owner != tenant);
        self.order.retain(|(_, (owner, _))| *owner != tenant);
    }

    /// Takes back the last `count` insertions: what they stood for was not stored.
    pub(crate) fn retract(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((_, name)) = self.order.pop_back() {
                self.entries.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8, digest: u8) -> IdempotencyKey {
        IdempotencyKey {
            key: [byte; 16],
            digest: [digest; 16],
        }
    }

    #[test]
    fn a_key_is_one_tenants_and_ends_with_its_window() {
        let one = TenantId::from_bytes([1; 16]);
        let two = TenantId::from_bytes([2; 16]);
        let mut keys = KeyWindow::new(10, 100);
        keys.insert(one, &key(9, 1), 5, 100);
        assert_eq!(keys.look_up(one, &key(9, 1)), Known::Duplicate(5));
        assert_eq!(keys.look_up(one, &key(9, 2)), Known::Conflict);
        assert_eq!(keys.look_up(two, &key(9, 1)), Known::New);
        keys.forget(110);
        assert_eq!(keys.look_up(one, &key(9, 1)), Known::Duplicate(5));
        keys.forget(111);
        assert_eq!(keys.look_up(one, &key(9, 1)), Known::New);
    }

    #[test]
    fn a_tenants_keys_go_with_it_and_no_others() {
        let one = TenantId::from_bytes([1; 16]);
        let two = TenantId::from_bytes([2; 16]);
        let mut keys = KeyWindow::new(10, 100);
        for tenant in [one, two] {
            keys.insert(tenant, &key(9, 1), 5, 100);
        }
        keys.forget_tenant(one);
        assert_eq!(keys.look_up(one, &key(9, 1)), Known::New);
        assert_eq!(keys.look_up(two, &key(9, 1)), Known::Duplicate(5));
        keys.forget(111);
        assert_eq!(keys.look_up(two, &key(9, 1)), Known::New);
    }

    #[test]
    fn a_retracted_key_is_new_again() {
        let tenant = TenantId::from_bytes([1; 16]);
        let mut keys = KeyWindow::new(10, 2);
        keys.insert(tenant, &key(1, 1), 1, 0);
        keys.insert(tenant, &key(2, 1), 2, 0);
        assert!(keys.is_full());
        keys.retract(1);
        assert!(!keys.is_full());
        assert_eq!(keys.look_up(tenant, &key(1, 1)), Known::Duplicate(1));
        assert_eq!(keys.look_up(tenant, &key(2, 1)), Known::New);
    }
}
