//! Rust client of Tidings.
//!
//! - [`Client`]: one server and one identity; mints stream tokens, publishes, reads the history and the
//!   state, and makes operators' calls.
//! - [`EventStream`]: a stream that opens itself again, with a fresh stream token and the cursor of
//!   the last event that was taken from it, until the server says that there is no use.
//! - [`AccessToken`]: where the access token comes from, a fixed text or a function that yields a
//!   fresh one.
//! - [`ClientError`]: what can go wrong; a server's refusal keeps its
//!   [`Problem`](tidings_protocol::Problem).
//!
//! ```no_run
//! # async fn example() -> Result<(), tidings_client::ClientError> {
//! use tidings_client::{AccessToken, Client, StreamEvent, StreamOptions};
//!
//! let client = Client::new("http://127.0.0.1:8080", AccessToken::fixed("eyJ…"))?;
//! let mut stream = client.stream(StreamOptions::default());
//! while let Some(next) = stream.next().await {
//!     if let StreamEvent::Event(event) = next? {
//!         println!("{} {}", event.event, event.data);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Plain `http://` only, so far.

mod access;
mod audit;
mod backoff;
mod client;
mod connect;
mod error;
mod event;
mod keys;
mod operate;
mod request;
mod stream;

pub use access::{AccessToken, BoxError};
pub use audit::AuditOptions;
pub use client::{Client, HistoryOptions, StateOptions};
pub use connect::tls_config;
pub use error::ClientError;
pub use event::NewEvent;
pub use operate::StreamListOptions;
pub use stream::{Conflate, EventStream, Stale, StreamEvent, StreamOptions};
pub use tidings_protocol::sse::Event;
