//! Opening streams: `GET /tenants/{tenant_id}/events/stream` and `GET /events/stream`.
//!
//! - [`request`]: the parameters.
//! - [`start`]: which place a stream begins at.
//! - [`passage`]: the way there from a cursor of another node.
//! - [`open`]: the checks, in their order, and the handing over to an engine.
//! - [`token`]: `POST /auth/sse-token`, the secret that opens a stream.
//! - [`preamble`]: what a stream's bytes begin with.

pub mod open;
pub mod passage;
pub mod preamble;
pub mod request;
pub mod start;
pub mod token;
