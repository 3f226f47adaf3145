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
//!
//! Below all of it are two seams, [`storage`] and [`clock`], at which tests inject faults.

mod active;
mod cache;
mod chain;
pub mod clock;
mod database;
mod error;
mod event;
mod folder;
mod format;
mod group;
mod horizon;
mod index;
mod index_file;
mod intake;
mod keys;
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
mod state;
pub mod storage;
mod tenant_caps;
mod tenants;
mod upkeep;
mod verify;
mod view;
mod workshop;
mod writer;

pub use chain::Chain;
pub use error::{AppendError, Busy, Health, OpenError, ReadError};
pub use event::{
    Appended, Commit, EventRef, Expired, IdempotencyKey, Lost, MAX_ORIGIN, NewEvent, NewSubject,
    ReadEnd, ReadLimit, Resume, Scope, Subject, TenantUsage, Usage,
};
pub use folder::holder;
pub use log::{Answer, Listener, Log};
pub use options::{LogOptions, TenantOptions};
pub use state::{State, StateEntries, StateEntry, StateError, StateHealth, StateSnapshot};
pub use verify::{Finding, VerifyError, VerifyReport, verify, verify_with};
