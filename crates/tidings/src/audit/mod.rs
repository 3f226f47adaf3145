//! The audit log: who opened, who was refused and why, who published by which key, who changed what.
//!
//! - [`Audit`]: takes entries, without waiting for anything.
//! - `tally`: what is counted instead of told one by one.
//! - `files`: two rings of files beside the log, and their pages.
//! - `writer`: the thread that owns the files.
//!
//! Whoever notes something never waits for the disk: a bounded queue leads to the thread, and what does not fit is
//! dropped, counted, and told in the log itself. No entry holds a credential or a payload: they are made of identities
//! that were verified, and of sentences of the server's own.

mod files;
mod tally;
mod writer;

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidings_protocol::TenantId;
use tidings_protocol::audit::{AuditEntry, AuditKind};
use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::error::Refusal;

pub use files::{AuditPage, PageRequest};

use files::Rings;
use tally::Tally;
use writer::{Command, Writer};

/// How many entries may wait for the thread; further ones are dropped.
const QUEUE: usize = 16 * 1024;

/// How long a page waits until what was noted before is in the files.
const PATIENCE: Duration = Duration::from_secs(1);

/// The name of the folder beside the log.
const FOLDER: &str = "audit";

/// Takes what is to be audited.
pub struct Audit {
    /// `None` where nothing is audited.
    to: Option<Sender>,
}

struct Sender {
    queue: SyncSender<Command>,
    shared: Arc<Shared>,
    rings: Rings,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What is counted where it happens, and taken by the thread.
#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    /// How many were dropped in all.
    dropped_ever: AtomicU64,
    tally: Tally,
}

impl fmt::Debug for Audit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Audit")
            .field("enabled", &self.to.is_some())
            .finish()
    }
}

/// Who publishes, as far as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author<'a> {
    /// By the API key of this id.
    Key(&'a str),
    /// By an access token of this user; whether it is a super admin.
    User(&'a str, bool),
}

impl Audit {
    /// An audit log in the log's folder, of at most so many bytes, of the node of this name.
    ///
    /// # Errors
    ///
    /// The folder can't be made or read.
    pub fn start(log: &Path, most_bytes: u64, node: &str) -> std::io::Result<Self> {
        let rings = Rings::open(&log.join(FOLDER), most_bytes)?;
        let (queue, commands) = sync_channel(QUEUE);
        let shared = Arc::<Shared>::default();
        let writer = Writer::new(rings.clone(), Arc::clone(&shared), node)?;
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&commands))?;
        let audit = Self {
            to: Some(Sender {
                queue,
                shared,
                rings,
                thread: Mutex::new(Some(thread)),
            }),
        };
        audit.note(AuditEntry::new(AuditKind::Started));
        Ok(audit)
    }

    /// One that takes nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { to: None }
    }

    /// Notes what happened.
    pub fn note(&self, entry: AuditEntry) {
        let Some(to) = &self.to else { return };
        if let Err(TrySendError::Full(_)) = to.queue.try_send(Command::Entry(Box::new(entry))) {
            to.shared.dropped.fetch_add(1, Ordering::Relaxed);
            to.shared.dropped_ever.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes a change that somebody made.
    pub fn changed(
        &self,
        what: AuditKind,
        by: &Identity,
        tenant: Option<TenantId>,
        target: impl fmt::Display,
    ) {
        if self.to.is_none() {
            return;
        }
        let mut entry = by_whom(what, by);
        // A super admin's change is told by the tenant that it is about.
        entry.tenant_id = tenant.or(entry.tenant_id);
        entry.target = Some(target.to_string());
        self.note(entry);
    }

    /// Notes that somebody was refused, where it is one of the refusals that tell something of who asks. `asked` is the
    /// tenant that was asked for, which counts where nobody knows who it was.
    pub fn refused(
        &self,
        what: AuditKind,
        refusal: &Refusal,
        who: Option<&Identity>,
        asked: Option<TenantId>,
        address: IpAddr,
    ) {
        if self.to.is_none() {
            return;
        }
        let who = match who {
            Some(identity) => by_whom(what, identity),
            None => AuditEntry {
                tenant_id: asked,
                ..AuditEntry::new(what)
            },
        };
        self.refused_as(who, refusal, address);
    }

    /// The same where the entry says already who it was.
    pub fn refused_as(&self, mut entry: AuditEntry, refusal: &Refusal, address: IpAddr) {
        let Some(to) = &self.to else { return };
        if !matches!(refusal.status(), 401 | 403 | 410 | 429) || !to.shared.tally.may_tell_refusal()
        {
            return;
        }
        entry.address = Some(address.to_string());
        entry.status = Some(refusal.status());
        // These refusals are sentences of our own, in which nothing stands that the caller has sent.
        entry.reason = Some(refusal.detail().to_owned());
        self.note(entry);
    }

    /// Counts a body that was published.
    pub fn published(&self, tenant: TenantId, author: Author<'_>, events: u64) {
        if let Some(to) = &self.to {
            to.shared.tally.published(tenant, author, events);
        }
    }

    /// How many entries were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let to = self.to.as_ref();
        to.map_or(0, |to| to.shared.dropped_ever.load(Ordering::Relaxed))
    }

    /// Waits until what was noted up to now is in the files, or for a second.
    pub async fn settle(&self) {
        let Some(to) = &self.to else { return };
        let (done, settled) = oneshot::channel();
        if to.queue.try_send(Command::Settle(done)).is_ok() {
            let _ = tokio::time::timeout(PATIENCE, settled).await;
        }
    }

    /// A page of it. Reads files.
    ///
    /// # Errors
    ///
    /// The files can't be read.
    pub fn page(&self, request: &PageRequest) -> std::io::Result<AuditPage> {
        match &self.to {
            Some(to) => to.rings.page(request),
            None => Ok(AuditPage::default()),
        }
    }

    /// Writes what waits, and ends. What is noted afterwards is lost.
    pub fn stop(&self) {
        let Some(to) = &self.to else { return };
        let Some(thread) = to.thread.lock().take() else {
            return;
        };
        // The thread takes what waits, so there is room in a moment.
        if to.queue.send(Command::Stop).is_ok() {
            let _ = thread.join();
        }
    }
}

/// Whether entries are of this tenant's operators to see: those of its own, and nothing of super admins.
fn is_for(entry: &AuditEntry, tenant: TenantId) -> bool {
    entry.tenant_id == Some(tenant) && !entry.super_admin
}

/// An entry about somebody.
#[must_use]
pub fn by_whom(what: AuditKind, identity: &Identity) -> AuditEntry {
    AuditEntry {
        tenant_id: identity.tenant,
        user_id: Some(identity.user.to_string()),
        role: Some(identity.role.to_string()),
        super_admin: identity.super_admin,
        ..AuditEntry::new(what)
    }
}

#[cfg(test)]
mod tests;
