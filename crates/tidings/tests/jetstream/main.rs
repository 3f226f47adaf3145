//! The streams in NATS JetStream, against real `nats-server` processes.

mod cluster;
mod fleet;
mod login;
mod publish;
mod sources;
mod support;
