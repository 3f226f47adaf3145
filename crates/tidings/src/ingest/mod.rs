//! Publishing: `POST /tenants/{tenant_id}/events`.
//!
//! - [`publisher`]: who publishes, and what they may.
//! - [`body`]: the body's lines.
//! - [`envelope`]: one event of it, checked field by field.
//! - [`json_text`]: its strings.
//! - [`payload`]: its `data`, made to name its tenant and device.
//! - [`subject`]: what it is the latest state of.
//! - [`store`]: where it goes: into the log, or into the stream that the log is a copy of.
//! - [`publish`]: the handler: admits the body, stores it and answers when it is durable.

pub mod body;
pub mod envelope;
pub mod json_text;
pub mod payload;
pub mod publish;
pub mod publisher;
pub mod store;
pub mod subject;
