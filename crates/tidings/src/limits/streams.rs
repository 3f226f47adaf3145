//! Counts of open streams.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidings_protocol::TenantId;

use super::{LimitReached, STREAMS, STREAMS_PER_ADDRESS, STREAMS_PER_TENANT, STREAMS_PER_USER};
use crate::config::Config;

/// When a refused stream may be asked for again: nobody knows when another ends, so this only spaces
/// the attempts.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How many streams are open, and of how many different ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Open streams.
    pub streams: u64,
    /// Tenants with open streams, counting super admins without a tenant as one.
    pub tenants: usize,
    /// Addresses with open streams.
    pub addresses: usize,
}

#[derive(Debug)]
pub(super) struct Streams {
    shared: Arc<Shared>,
}

struct Shared {
    /// One lock for all counts, since a reservation takes all of them or none.
    counts: Mutex<Counts>,
}

/// How many there may be.
#[derive(Default)]
struct Terms {
    streams: u64,
    per_tenant: u64,
    /// Of tenants with a limit of their own.
    own: HashMap<TenantId, u64>,
    per_user: u64,
    per_address: u64,
}

impl Terms {
    fn of(config: &Config) -> Self {
        let own = config.tenants.iter();
        let own = own.filter_map(|(tenant, own)| Some((*tenant, own.streams?)));
        let limits = &config.limits;
        Self {
            streams: limits.streams,
            per_tenant: limits.streams_per_tenant,
            own: own.collect(),
            per_user: limits.streams_per_user,
            per_address: limits.streams_per_address,
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shared")
    }
}

/// Entries exist while they count something.
#[derive(Default)]
struct Counts {
    terms: Terms,
    streams: u64,
    tenants: HashMap<Option<TenantId>, Tenant>,
    addresses: HashMap<IpAddr, u64>,
}

#[derive(Default)]
struct Tenant {
    streams: u64,
    users: HashMap<Arc<str>, u64>,
}

/// The place of one open stream within the limits; dropping it frees the place.
pub struct Place {
    shared: Arc<Shared>,
    user: Arc<str>,
    tenant: Option<TenantId>,
    address: IpAddr,
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Place")
            .field("user", &self.user)
            .field("tenant", &self.tenant)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

// There is one for every open stream, and those are budgeted at little more than a kilobyte.
const _: () = assert!(size_of::<Place>() <= 64);

impl Streams {
    pub(super) fn new(config: &Config) -> Self {
        let counts = Counts {
            terms: Terms::of(config),
            ..Counts::default()
        };
        Self {
            shared: Arc::new(Shared {
                counts: Mutex::new(counts),
            }),
        }
    }

    /// Takes over other limits.
    pub(super) fn set(&self, config: &Config) {
        self.shared.counts.lock().terms = Terms::of(config);
    }

    pub(super) fn reserve(
        &self,
        tenant: Option<TenantId>,
        user: &str,
        address: IpAddr,
    ) -> Result<Place, LimitReached> {
        let mut counts = self.shared.counts.lock();
        counts.check(tenant, user, address)?;
        counts.streams += 1;
        *counts.addresses.entry(address).or_default() += 1;
        let of_tenant = counts.tenants.entry(tenant).or_default();
        of_tenant.streams += 1;
        let user: Arc<str> = match of_tenant.users.get_key_value(user) {
            Some((user, _)) => Arc::clone(user),
            None => user.into(),
        };
        *of_tenant.users.entry(Arc::clone(&user)).or_default() += 1;
        drop(counts);
        Ok(Place {
            shared: Arc::clone(&self.shared),
            user,
            tenant,
            address,
        })
    }

    pub(super) fn of_tenants(&self) -> HashMap<TenantId, u64> {
        let counts = self.shared.counts.lock();
        let tenants = counts.tenants.iter();
        tenants
            .filter_map(|(tenant, of_tenant)| Some(((*tenant)?, of_tenant.streams)))
            .collect()
    }

    pub(super) fn counts(&self) -> StreamCounts {
        let counts = self.shared.counts.lock();
        StreamCounts {
            streams: counts.streams,
            tenants: counts.tenants.len(),
            addresses: counts.addresses.len(),
        }
    }
}

impl Counts {
    fn check(
        &self,
        tenant: Option<TenantId>,
        user: &str,
        address: IpAddr,
    ) -> Result<(), LimitReached> {
        let of_tenant = self.tenants.get(&tenant);
        let of_user = of_tenant.and_then(|of_tenant| of_tenant.users.get(user));
        // Super admins without a tenant do not share one.
        let per_tenant = tenant.map_or(0, |tenant| {
            self.terms
                .own
                .get(&tenant)
                .copied()
                .unwrap_or(self.terms.per_tenant)
        });
        let taken = [
            (STREAMS, self.terms.streams, self.streams),
            (
                STREAMS_PER_TENANT,
                per_tenant,
                of_tenant.map_or(0, |of_tenant| of_tenant.streams),
            ),
            (
                STREAMS_PER_USER,
                self.terms.per_user,
                of_user.copied().unwrap_or(0),
            ),
            (
                STREAMS_PER_ADDRESS,
                self.terms.per_address,
                self.addresses.get(&address).copied().unwrap_or(0),
            ),
        ];
        for (which, limit, taken) in taken {
            if limit != 0 && taken >= limit {
                return Err(LimitReached {
                    which,
                    limit,
                    retry_after: RETRY_AFTER,
                });
            }
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.shared.counts.lock();
        counts.streams -= 1;
        decrease(&mut counts.addresses, self.address);
        if let Entry::Occupied(mut tenant) = counts.tenants.entry(self.tenant) {
            let of_tenant = tenant.get_mut();
            of_tenant.streams -= 1;
            decrease(&mut of_tenant.users, Arc::clone(&self.user));
            if of_tenant.streams == 0 {
                tenant.remove();
            }
        }
    }
}

/// Counts one less, and forgets what is at zero.
fn decrease<K: Hash + Eq>(counts: &mut HashMap<K, u64>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
