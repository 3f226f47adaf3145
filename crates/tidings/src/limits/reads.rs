//! What each tenant may have read at once, so that one that reads much leaves room for the others: how many requests that
//! read are under way until their answers are written, how many of them read the log at a time, and how much memory
//! their answers take.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidings_protocol::TenantId;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::{LimitReached, READS_PER_TENANT, SECOND};

/// How many of those who read the log are one tenant's at a time: half, so that others never wait for it alone.
const TURNS: usize = 2;

/// Which part of the memory for answers is one tenant's.
const PART_OF_ANSWERS: u64 = 4;

/// The reads of all tenants; those of super admins are of one more.
pub(super) struct Reads {
    /// 0 for no limit.
    most: AtomicU64,
    /// 0 for no limit.
    most_bytes: AtomicU64,
    tenants: Mutex<HashMap<Option<TenantId>, Tenant>>,
}

struct Tenant {
    places: u64,
    bytes: u64,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Reads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenants = self.tenants.lock().len();
        write!(formatter, "Reads(of {tenants})")
    }
}

impl Reads {
    pub(super) fn new(most: u64, answers: u64) -> Arc<Self> {
        let reads = Self {
            most: AtomicU64::new(0),
            most_bytes: AtomicU64::new(0),
            tenants: Mutex::default(),
        };
        reads.set(most, answers);
        Arc::new(reads)
    }

    /// Changes the limits. What is taken stays.
    pub(super) fn set(&self, most: u64, answers: u64) {
        self.most.store(most, Ordering::Relaxed);
        self.most_bytes
            .store(answers.div_ceil(PART_OF_ANSWERS), Ordering::Relaxed);
    }

    pub(super) fn take(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
    ) -> Result<ReadPlace, LimitReached> {
        let most = self.most.load(Ordering::Relaxed);
        let mut tenants = self.tenants.lock();
        let known = tenants.entry(tenant).or_insert_with(|| Tenant {
            places: 0,
            bytes: 0,
            turns: Arc::new(Semaphore::new(TURNS)),
        });
        if most != 0 && known.places >= most {
            return Err(LimitReached {
                which: READS_PER_TENANT,
                limit: most,
                retry_after: SECOND,
            });
        }
        known.places += 1;
        Ok(ReadPlace {
            turns: Arc::clone(&known.turns),
            reads: Arc::clone(self),
            tenant,
            bytes: AtomicU64::new(0),
        })
    }
}

/// The place of one request that reads, until its answer is written; dropping it gives it back.
#[derive(Debug)]
pub struct ReadPlace {
    reads: Arc<Reads>,
    turns: Arc<Semaphore>,
    tenant: Option<TenantId>,
    /// What its answer takes.
    bytes: AtomicU64,
}

impl ReadPlace {
    /// Waits for the tenant's turn to read the log.
    ///
    /// # Errors
    ///
    /// Never: the turns are not closed.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.turns).acquire_owned().await
    }

    /// Takes memory for the answer. False, with nothing taken, where the tenant has not so much left.
    #[must_use]
    pub fn hold(&self, bytes: u64) -> bool {
        let most = self.reads.most_bytes.load(Ordering::Relaxed);
        let mut tenants = self.reads.tenants.lock();
        // It is there for as long as one of its places is.
        let Some(known) = tenants.get_mut(&self.tenant) else {
            return false;
        };
        // One answer always has room, however large it is and however little there is.
        if most != 0 && known.bytes != 0 && known.bytes + bytes > most {
            return false;
        }
        known.bytes += bytes;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for ReadPlace {
    fn drop(&mut self) {
        let mut tenants = self.reads.tenants.lock();
        if let Some(known) = tenants.get_mut(&self.tenant) {
            known.places -= 1;
            known.bytes -= self.bytes.load(Ordering::Relaxed);
            if known.places == 0 {
                tenants.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{Either, select};

    use super::*;

    const ONE: Option<TenantId> = Some(TenantId::from_bytes([1; 16]));
    const TWO: Option<TenantId> = Some(TenantId::from_bytes([2; 16]));

    async fn other_turn(place: &ReadPlace) {
        tokio::task::yield_now().await;
        drop(place.turn().await.unwrap());
    }

    #[tokio::test]
    async fn each_tenant_has_its_own_and_gives_it_back() {
        let reads = Reads::new(3, 400);
        let mut places: Vec<_> = (0..3).map(|_| reads.take(ONE).unwrap()).collect();
        assert_eq!(reads.take(ONE).unwrap_err().which, READS_PER_TENANT);
        let other = reads.take(TWO).unwrap();
        assert!(reads.take(None).is_ok());

        assert!(places[0].hold(60) && !places[1].hold(60) && places[1].hold(40));
        assert!(other.hold(1000), "the first always has room");
        let turns = [
            places[0].turn().await.unwrap(),
            places[1].turn().await.unwrap(),
        ];
        let waiting = Box::pin(places[2].turn());
        let Either::Left(((), waiting)) = select(Box::pin(other_turn(&other)), waiting).await
        else {
            panic!("there were two turns");
        };
        drop(turns);
        drop(waiting.await.unwrap());

        places.remove(0);
        assert!(places[0].hold(60));
        assert!(reads.take(ONE).is_ok());
        drop((places, other));
        assert!(reads.tenants.lock().is_empty());
        reads.set(0, 0);
        let many: Vec<_> = (0..100).map(|_| reads.take(ONE).unwrap()).collect();
        assert!(many.iter().all(|place| place.hold(1 << 40)));
    }
}
