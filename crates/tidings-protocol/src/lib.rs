//! The pure part of Tidings: what can be said about events without a socket, a file or a clock.
//!
//! In the order in which data meets it:
//!
//! - [`tenant`]: whose an event is.
//! - [`event`]: event types and device identifiers, and what they may look like.
//! - [`cursor`]: the text of an SSE `id:` field, a position in the log.
//! - [`merged`]: cursors over several sources.
//! - [`sse`]: the bytes on the wire, to them ([`sse::write_event`]) and from them ([`sse::Decoder`]).
//! - [`api`], [`operate`], [`keys`], [`audit`]: the JSON bodies that servers and clients exchange.
//! - [`problem`]: `application/problem+json` (RFC 9457).

pub mod api;
pub mod audit;
pub mod cursor;
pub mod event;
pub mod keys;
pub mod merged;
pub mod operate;
pub mod problem;
pub mod sse;
pub mod tenant;

pub use cursor::{Cursor, Epoch, Position};
pub use event::{DeviceId, EventType, SubjectKey};
pub use merged::MergedCursor;
pub use problem::Problem;
pub use tenant::TenantId;
