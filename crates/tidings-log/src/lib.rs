//! The embedded log of Tidings: events appended durably and in order, read back by tenant.

pub mod clock;
mod error;
mod event;
mod log;
mod options;
pub mod storage;
mod verify;

pub use error::{AppendError, Busy, Health, OpenError, ReadError};
pub use event::{
    Appended, EventRef, Expired, IdempotencyKey, Lost, NewEvent, ReadEnd, ReadLimit, Resume, Scope,
    Usage,
};
pub use log::{Answer, Listener, Log};
pub use options::LogOptions;
pub use verify::{Finding, VerifyError, VerifyReport, verify};
