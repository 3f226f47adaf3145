//! How much each may take: open streams, and calls in a time.
//!
//! [`Limits`] is asked before something is given; [`Place`] is what an open stream holds. A limit of 0 does
//! not limit. Of IPv6 the /64 network counts as one address, since that is what one client gets.

mod budget;
mod rate;
mod reads;
mod streams;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tidings_protocol::TenantId;

use crate::config::Config;
use budget::Budget;
pub use budget::Share;
use rate::Rates;
pub use reads::ReadPlace;
use reads::Reads;
pub use streams::{Place, StreamCounts};

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// The key of the limit, such as `limits.streams_per_user`.
    pub which: &'static str,
    /// Its value.
    pub limit: u64,
    /// After how long trying again makes sense.
    pub retry_after: Duration,
}

impl fmt::Display for LimitReached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit;
        match self.which {
            STREAMS => write!(formatter, "the server has its {limit} open streams"),
            STREAMS_PER_TENANT => write!(formatter, "the tenant has its {limit} open streams"),
            STREAMS_PER_USER => write!(formatter, "the user has {limit} open streams"),
            STREAMS_PER_ADDRESS => write!(
                formatter,
                "there are {limit} open streams from this address"
            ),
            MINTS_PER_ADDRESS => write!(
                formatter,
                "this address asks for more than {limit} stream tokens a minute"
            ),
            FAILURES_PER_ADDRESS => write!(
                formatter,
                "more than {limit} credentials a minute from this address were refused"
            ),
            PUBLISH_RATE_PER_KEY => write!(
                formatter,
                "the API key publishes more than {limit} events a second"
            ),
            READS_PER_TENANT => write!(
                formatter,
                "{limit} requests that read are under way for the tenant"
            ),
            _ => write!(
                formatter,
                "the tenant publishes more than {limit} events a second"
            ),
        }
    }
}

impl std::error::Error for LimitReached {}

const STREAMS: &str = "limits.streams";
const STREAMS_PER_TENANT: &str = "limits.streams_per_tenant";
const STREAMS_PER_USER: &str = "limits.streams_per_user";
const STREAMS_PER_ADDRESS: &str = "limits.streams_per_address";
const MINTS_PER_ADDRESS: &str = "limits.mints_per_address";
const FAILURES_PER_ADDRESS: &str = "limits.failures_per_address";
const PUBLISH_RATE: &str = "limits.publish_rate";
const PUBLISH_RATE_PER_KEY: &str = "limits.publish_rate_per_key";

const READS_PER_TENANT: &str = "limits.reads_per_tenant";

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

/// All limits of a server, shared by whoever asks.
#[derive(Debug)]
pub struct Limits {
    streams: streams::Streams,
    mints: Rates<IpAddr>,
    failures: Rates<IpAddr>,
    publishes: Rates<TenantId>,
    requests: Arc<Budget>,
    bodies: Arc<Budget>,
    answers: Arc<Budget>,
    reads: Arc<Reads>,
    key_publishes: Rates<Arc<str>>,
}

impl Limits {
    /// Limits as configured, with nothing taken.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let own_publish_rates = publish_rates(config);
        let streams = streams::Streams::new(config);
        let config = &config.limits;
        Self {
            streams,
            mints: Rates::new(MINTS_PER_ADDRESS, config.mints_per_address, MINUTE),
            failures: Rates::new(FAILURES_PER_ADDRESS, config.failures_per_address, MINUTE),
            publishes: Rates::new(PUBLISH_RATE, config.publish_rate, SECOND)
                .with_own(own_publish_rates),
            key_publishes: Rates::new(PUBLISH_RATE_PER_KEY, config.publish_rate_per_key, SECOND),
            requests: Budget::new(config.requests),
            bodies: Budget::new(config.bodies_in_memory),
            answers: Budget::new(config.answers_in_memory),
            reads: Reads::new(config.reads_per_tenant, config.answers_in_memory),
        }
    }

    /// Takes over other limits. What is taken stays taken: who has more streams than are allowed now keeps them.
    pub fn set(&self, config: &Config) {
        self.streams.set(config);
        let limits = &config.limits;
        self.mints.set(limits.mints_per_address, HashMap::new());
        self.failures
            .set(limits.failures_per_address, HashMap::new());
        self.publishes
            .set(limits.publish_rate, publish_rates(config));
        self.key_publishes
            .set(limits.publish_rate_per_key, HashMap::new());
        self.requests.set(limits.requests);
        self.bodies.set(limits.bodies_in_memory);
        self.answers.set(limits.answers_in_memory);
        self.reads
            .set(limits.reads_per_tenant, limits.answers_in_memory);
    }

    /// Reserves a place for a stream of `user` in `tenant` (`None` for a super admin without one) from
    /// `address`. All limits or none are charged, and the place is free again when it is dropped.
    pub fn reserve(
        &self,
        tenant: Option<TenantId>,
        user: &str,
        address: IpAddr,
    ) -> Result<Place, LimitReached> {
        self.streams.reserve(tenant, user, counted_address(address))
    }

    /// Room for one more request; `None` where the server has its hands full. It is over when the share is
    /// dropped.
    #[must_use]
    pub fn request(&self) -> Option<Share> {
        self.requests.take(1)
    }

    /// Room in memory for a body that begins to come: none yet, it is to [grow](Share::grow) with the body.
    #[must_use]
    pub fn body(&self) -> Share {
        self.bodies.none()
    }

    /// A place for one more request that reads, for whoever is of this tenant (`None`: a super admin). It is to be held until
    /// the answer is written: as an extension of the response.
    pub fn read(&self, tenant: Option<TenantId>) -> Result<ReadPlace, LimitReached> {
        self.reads.take(tenant)
    }

    /// Room in memory for an answer of this size until it is written; `None` where too many are not read yet.
    #[must_use]
    pub fn answer(&self, bytes: u64) -> Option<Share> {
        self.answers.take(bytes)
    }

    /// How many streams each tenant's users have open, of those who have any.
    #[must_use]
    pub fn tenant_streams(&self) -> HashMap<TenantId, u64> {
        self.streams.of_tenants()
    }

    /// What is open now.
    #[must_use]
    pub fn stream_counts(&self) -> StreamCounts {
        self.streams.counts()
    }

    /// Charges one request for a stream token from `address`.
    pub fn mint_allowed(&self, address: IpAddr) -> Result<(), LimitReached> {
        self.mints.take(counted_address(address), 1)
    }

    /// Notes that a credential from `address` was refused.
    pub fn failure_recorded(&self, address: IpAddr) {
        // What it returns is for those who ask beforehand.
        let _ = self.failures.take(counted_address(address), 1);
    }

    /// Refuses addresses from which too many credentials were refused. Charges nothing.
    pub fn failures_exceeded(&self, address: IpAddr) -> Result<(), LimitReached> {
        self.failures.check(&counted_address(address))
    }

    /// Charges `events` published at once for `tenant`.
    ///
    /// They pass whole as soon as the tenant has credit for one event, and what they take beyond the credit
    /// is paid off before the next pass. So a body of any size passes, one after the other, and the rate
    /// still holds in the long run; were a large body to wait for a full credit, small ones would starve it.
    pub fn publish_allowed(&self, tenant: TenantId, events: u32) -> Result<(), LimitReached> {
        self.publishes.take(tenant, events)
    }

    /// Charges `events` published at once with the API key of this id, as [`publish_allowed`](Self::publish_allowed)
    /// does for the tenant. `own` is the key's own limit, where it has one.
    pub fn key_allowed(
        &self,
        id: &Arc<str>,
        own: Option<u32>,
        events: u32,
    ) -> Result<(), LimitReached> {
        match own {
            Some(own) => self
                .key_publishes
                .take_within(Arc::clone(id), events, own.into()),
            None => self.key_publishes.take(Arc::clone(id), events),
        }
    }
}

/// The tenants with a rate of their own.
fn publish_rates(config: &Config) -> HashMap<TenantId, u64> {
    let tenants = config.tenants.iter();
    tenants
        .filter_map(|(tenant, own)| Some((*tenant, own.publish_rate?)))
        .collect()
}

/// The address that is counted: IPv4 also where it comes mapped into IPv6, and of IPv6 the /64 network.
fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests;
