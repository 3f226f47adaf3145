//! Publishing: `POST /tenants/{tenant_id}/events`.
//!
//! - [`publisher`]: who publishes, and what they may.
//! - `receive`: the body's bytes, into memory.
//! - [`body`]: its lines.
//! - [`envelope`]: one event of it, checked field by field.
//! - [`json_text`]: its strings.
//! - `members`: what an object holds, once its text was checked.
//! - [`payload`]: its `data`, made to name its tenant and device.
//! - [`subject`]: what it is the latest state of.
//! - [`store`]: where it goes: into the log, or into the stream that the log is a copy of.
//! - [`publish`]: the handler: admits the body, stores it and answers when it is durable.

pub mod body;
pub mod envelope;
pub mod json_text;
mod members;
pub mod payload;
pub mod publish;
pub mod publisher;
pub(crate) mod receive;
pub mod store;
pub mod subject;
