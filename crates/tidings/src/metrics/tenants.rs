//! The busiest tenants: a bounded number of series for whom they matter.
//!
//! At most so many tenants are named. Who is named stays so until another publishes more than twice as much
//! over a period; all others are counted together. A tenant that is named anew begins at zero, which is what a
//! counter that was reset looks like, and the sum of the others never shrinks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_protocol::TenantId;

/// How often it is looked at who is busiest.
const PERIOD: Duration = Duration::from_mins(1);

/// How many tenants without a name are watched in a period, for each named one.
const CHALLENGERS: usize = 16;

/// What was published for a tenant, or for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Events.
    pub events: u64,
    /// Bytes of bodies.
    pub bytes: u64,
}

impl Published {
    fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// The busiest tenants. Handlers add under one short lock, and not at all where no tenant is named.
pub struct BusyTenants {
    most: usize,
    table: Mutex<Table>,
}

struct Table {
    named: HashMap<TenantId, Named>,
    /// Events of this period, of those that are not named.
    challengers: HashMap<TenantId, u64>,
    others: Published,
    period_ends: Instant,
}

#[derive(Default)]
struct Named {
    all: Published,
    /// Events of this period.
    lately: u64,
}

impl BusyTenants {
    /// Names at most so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            table: Mutex::new(Table {
                named: HashMap::new(),
                challengers: HashMap::new(),
                others: Published::default(),
                period_ends: Instant::now() + PERIOD,
            }),
        }
    }

    /// Counts what was published for a tenant.
    pub fn add(&self, tenant: TenantId, events: u64, bytes: u64) {
        if self.most > 0 {
            self.add_at(tenant, events, bytes, Instant::now());
        }
    }

    fn add_at(&self, tenant: TenantId, events: u64, bytes: u64, now: Instant) {
        let mut table = self.table.lock();
        if now >= table.period_ends {
            table.turn();
            table.period_ends = now + PERIOD;
        }
        if table.named.len() < self.most {
            table.named.entry(tenant).or_default();
        }
        if let Some(named) = table.named.get_mut(&tenant) {
            named.all.add(events, bytes);
            named.lately += events;
            return;
        }
        table.others.add(events, bytes);
        if table.challengers.len() < self.most * CHALLENGERS
            || table.challengers.contains_key(&tenant)
        {
            *table.challengers.entry(tenant).or_default() += events;
        }
    }

    /// The named tenants, and all others together; `None` where none are to be named.
    #[must_use]
    pub fn read(&self) -> Option<(Vec<(TenantId, Published)>, Published)> {
        if self.most == 0 {
            return None;
        }
        let table = self.table.lock();
        let named = table.named.iter();
        Some((
            named.map(|(tenant, named)| (*tenant, named.all)).collect(),
            table.others,
        ))
    }

    /// Lets go of a tenant that was purged: nothing names it any more.
    pub fn forget(&self, tenant: TenantId) {
        let mut table = self.table.lock();
        table.named.remove(&tenant);
        table.challengers.remove(&tenant);
    }
}

impl Table {
    /// Begins a period: the busiest of those without a name takes the place of the least busy that has one,
    /// where it was clearly busier.
    fn turn(&mut self) {
        let challengers = self.challengers.drain();
        let busiest = challengers.max_by_key(|(_, events)| *events);
        let idlest = self.named.iter().min_by_key(|(_, named)| named.lately);
        let idlest = idlest.map(|(tenant, named)| (*tenant, named.lately));
        if let (Some((tenant, events)), Some((idle, lately))) = (busiest, idlest)
            && events > 2 * lately
        {
            self.named.remove(&idle);
            self.named.insert(tenant, Named::default());
        }
        for named in self.named.values_mut() {
            named.lately = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u16) -> TenantId {
        let [high, low] = number.to_be_bytes();
        TenantId::from_bytes([1, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    #[test]
    fn however_many_tenants_there_are_only_so_many_are_named_or_watched() {
        let tenants = BusyTenants::new(3);
        for number in 0..5000 {
            tenants.add(tenant(number), 1, 10);
        }
        let (named, others) = tenants.read().unwrap();
        assert_eq!(named.len(), 3);
        let all: u64 = named.iter().map(|(_, published)| published.events).sum();
        assert_eq!(all + others.events, 5000);
        assert!(tenants.table.lock().challengers.len() <= 3 * CHALLENGERS);
    }

    #[test]
    fn a_tenant_that_is_clearly_busier_takes_the_place_of_the_idlest_and_the_others_never_shrink() {
        let tenants = BusyTenants::new(2);
        let start = Instant::now();
        tenants.add_at(tenant(1), 100, 0, start);
        tenants.add_at(tenant(2), 10, 0, start);
        tenants.add_at(tenant(3), 15, 0, start);
        // Not twice as busy as the idlest.
        tenants.add_at(tenant(1), 0, 0, start + 2 * PERIOD);
        let names = |tenants: &BusyTenants| {
            let (named, others) = tenants.read().unwrap();
            let mut names: Vec<_> = named.into_iter().map(|(tenant, _)| tenant).collect();
            names.sort_unstable();
            (names, others.events)
        };
        assert_eq!(names(&tenants), (vec![tenant(1), tenant(2)], 15));
        tenants.add_at(tenant(1), 100, 0, start + 2 * PERIOD);
        tenants.add_at(tenant(3), 50, 0, start + 2 * PERIOD);
        tenants.add_at(tenant(3), 7, 0, start + 4 * PERIOD);
        assert_eq!(names(&tenants), (vec![tenant(1), tenant(3)], 65));
        let (named, _) = tenants.read().unwrap();
        let third = named.iter().find(|(name, _)| *name == tenant(3)).unwrap();
        assert_eq!(third.1.events, 7, "it begins anew");
        tenants.forget(tenant(3));
        assert_eq!(names(&tenants).0, [tenant(1)]);
    }

    #[test]
    fn where_none_is_to_be_named_none_is() {
        let tenants = BusyTenants::new(0);
        tenants.add(tenant(1), 1, 1);
        assert!(tenants.read().is_none());
        assert!(tenants.table.lock().named.is_empty());
    }
}
