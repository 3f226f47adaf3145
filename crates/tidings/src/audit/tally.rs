//! What is counted instead of told one by one: publishes, and refusals beyond those that are told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidings_protocol::TenantId;
use tidings_protocol::audit::{AuditEntry, AuditKind};

use super::Author;

/// Of how many authors publishes are counted apart; those of further ones are told without a name.
const MOST_AUTHORS: usize = 10_000;

/// How many refusals are told one by one between two looks of the writer; so nobody turns the log over by being refused.
pub(super) const MOST_REFUSALS: u64 = 200;

/// Counts since the writer has last looked.
#[derive(Default)]
pub(super) struct Tally {
    refusals: AtomicU64,
    published: Mutex<Published>,
}

#[derive(Default)]
struct Published {
    /// Somebody has published of whom nothing was told yet.
    has_new: bool,
    authors: usize,
    by: HashMap<TenantId, Authors>,
    /// Of those who have no place.
    others: Count,
}

#[derive(Default)]
struct Authors {
    keys: HashMap<String, Count>,
    users: HashMap<String, (bool, Count)>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    bodies: u64,
    events: u64,
    /// Something was told of whom it is about, since all was taken.
    told: bool,
}

impl Count {
    fn add(&mut self, events: u64) {
        self.bodies += 1;
        self.events += events;
    }

    /// What is to be told; counts from nothing again.
    fn take(&mut self, only_new: bool) -> Option<AuditEntry> {
        if self.bodies == 0 || (only_new && self.told) {
            return None;
        }
        let Self { bodies, events, .. } = *self;
        *self = Self {
            told: true,
            ..Self::default()
        };
        Some(AuditEntry {
            count: Some(bodies),
            events: Some(events),
            ..AuditEntry::new(AuditKind::Published)
        })
    }
}

impl Tally {
    /// Whether a refusal is told by itself; it is counted in any case.
    pub(super) fn may_tell_refusal(&self) -> bool {
        self.refusals.fetch_add(1, Ordering::Relaxed) < MOST_REFUSALS
    }

    /// Counts a body.
    pub(super) fn published(&self, tenant: TenantId, author: Author<'_>, events: u64) {
        let mut published = self.published.lock();
        let Published {
            has_new,
            authors,
            by,
            others,
        } = &mut *published;
        let of_tenant = by.entry(tenant).or_default();
        let known = match author {
            Author::Key(id) => of_tenant.keys.get_mut(id),
            Author::User(user, _) => of_tenant.users.get_mut(user).map(|(_, count)| count),
        };
        if let Some(count) = known {
            count.add(events);
            return;
        }
        *has_new = true;
        if *authors >= MOST_AUTHORS {
            others.add(events);
            return;
        }
        *authors += 1;
        let mut count = Count::default();
        count.add(events);
        match author {
            Author::Key(id) => {
                of_tenant.keys.insert(id.to_owned(), count);
            }
            Author::User(user, is_super_admin) => {
                of_tenant
                    .users
                    .insert(user.to_owned(), (is_super_admin, count));
            }
        }
    }

    /// The refusals that were not told, if there are any; counts from nothing again.
    pub(super) fn take_refusals(&self) -> Option<AuditEntry> {
        let refused = self.refusals.swap(0, Ordering::Relaxed);
        let untold = refused.saturating_sub(MOST_REFUSALS);
        (untold > 0).then(|| AuditEntry {
            count: Some(untold),
            ..AuditEntry::new(AuditKind::MoreRefused)
        })
    }

    /// Who has published of whom nothing was told since all was taken, and how much.
    pub(super) fn take_new(&self) -> Vec<AuditEntry> {
        let mut published = self.published.lock();
        if !std::mem::take(&mut published.has_new) {
            return Vec::new();
        }
        published.take(true)
    }

    /// What was published and not told; counts from nothing again.
    pub(super) fn take_published(&self) -> Vec<AuditEntry> {
        let mut published = std::mem::take(&mut *self.published.lock());
        published.take(false)
    }
}

impl Published {
    fn take(&mut self, only_new: bool) -> Vec<AuditEntry> {
        let mut entries = Vec::new();
        for (tenant, Authors { keys, users }) in &mut self.by {
            let tenant_id = Some(*tenant);
            for (id, count) in keys {
                entries.extend(count.take(only_new).map(|entry| AuditEntry {
                    tenant_id,
                    key_id: Some(id.clone()),
                    ..entry
                }));
            }
            for (user, (super_admin, count)) in users {
                entries.extend(count.take(only_new).map(|entry| AuditEntry {
                    tenant_id,
                    user_id: Some(user.clone()),
                    super_admin: *super_admin,
                    ..entry
                }));
            }
        }
        entries.extend(self.others.take(only_new));
        entries
    }
}
