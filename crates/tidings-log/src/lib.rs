//! The embedded log of Tidings: events appended durably and in order, read back by tenant.
//!
//! In the order in which an event meets it:
//!
//! - [`Log::submit`] puts a body into a bounded queue (`queue`).
//! - The writer thread (`writer`, `intake`, `group`) looks for repeated keys (`keys`), writes bodies as frames
//!   (`format`: the byte layout and its invariants) to the active segment, syncs once for all that
//!   wait, shows them to readers (`view`), tells the [`Listener`] and answers.
//! - The upkeep thread (`upkeep`, `workshop`) prepares the next segment, writes the index of a sealed
//!   one (`index`, `index_file`), and takes what is too old or too much (`retention`, `horizon`,
//!   `tenant_caps`), remembering it in a small database (`meta`), and rewrites segments that hold a purged
//!   tenant (`purge`).
//! - [`Log::tenants`] says what there is of each tenant (`tenants`).
//! - [`Log::read`] finds frames by tenant or position (`read`, `reading`, `segment`, `cache`), on any thread, and
//!   copes with damage (`repair`).
//! - The state thread (`state`) folds the last event of each living subject from what is durable and
//!   makes it durable itself; [`Log::state`] is asked for snapshots.
//! - [`Log::open`] puts the log together from what a crash has left (`folder`, `recovery`, `scan`);
//!   [`verify`] says what is wrong with a folder.
//! - [`Log::backup`] copies the log while it goes on, [`restore`] makes a log of the copy (`backup`). Such a log,
//!   and one that [`fork()`] is told of, has an epoch of its own and knows its ancestors (`lineage`, `fork`);
//!   [`downgrade()`] makes it readable for an older program.
//!
//! What goes wrong with every attempt is said now and then ([`seldom!`]).
//!
//! Below all of it are two seams, [`storage`] and [`clock`], at which tests inject faults.

mod active;
mod backup;
mod cache;
mod chain;
pub mod clock;
mod database;
mod downgrade;
mod error;
mod event;
mod folder;
mod fork;
mod format;
mod group;
mod horizon;
mod index;
mod index_file;
mod intake;
mod keys;
mod lineage;
mod log;
mod meta;
mod options;
mod purge;
mod queue;
mod read;
mod read_buffer;
mod reading;
mod recovery;
mod repair;
mod retention;
mod scan;
mod segment;
mod seldom;
mod state;
pub mod storage;
mod tenant_caps;
mod tenants;
mod text_file;
mod upkeep;
mod verify;
mod view;
mod workshop;
mod writer;

pub use backup::restore::{
    Finish, RestoreError, RestoreOptions, RestoreReport, restore, restore_with,
};
pub use backup::{BackupError, BackupReport, Companions, Stop, is_backup};
pub use chain::Chain;
pub use downgrade::{Downgrade, downgrade};
pub use error::{AppendError, Busy, Health, OpenError, ReadError};
pub use event::{
    Appended, Commit, EventRef, Expired, IdempotencyKey, Lost, MAX_ORIGIN, NewEvent, NewSubject,
    ReadEnd, ReadLimit, Resume, Scope, Subject, TenantUsage, Usage,
};
pub use folder::holder;
pub use fork::{Fork, fork, purged_in};
pub use lineage::{Ancestor, Kinship, Lineage};
pub use log::{Answer, HeldState, Listener, Log};
pub use options::{Doubt, LogOptions, TenantOptions};
pub use seldom::{Seldom, lines_withheld};
pub use state::{State, StateEntries, StateEntry, StateError, StateHealth, StateSnapshot};
pub use verify::{Finding, VerifyError, VerifyReport, verify, verify_with};

/// For [`seldom!`].
#[doc(hidden)]
pub use tracing;
