//! The connection to the NATS servers.
//!
//! - [`options`]: from the configuration to what a connection needs: secrets and certificates read, and
//!   looked at before anything is started.
//! - [`connect`]: the node's connection, which comes back by itself, and what is known of its health.
//! - [`single`]: a connection that ends when it is lost, for publishing in order.
//!
//! NATS can be away when a node starts: it starts, and says at `/readyz` what it waits for.

pub mod connect;
pub mod options;
pub mod single;

pub use connect::{Connectivity, Nats};
pub use options::NatsOptions;
