//! Opening streams: `GET /tenants/{tenant_id}/events/stream` and `GET /events/stream`.
//!
//! - [`request`]: the parameters.
//! - [`start`]: which position a stream begins after.
//! - [`open`]: the checks, in their order, and the handing over to an engine.
//! - [`token`]: `POST /auth/sse-token`, the secret that opens a stream.
//! - [`preamble`]: what a stream's bytes begin with.

pub mod open;
pub mod preamble;
pub mod request;
pub mod start;
pub mod token;
