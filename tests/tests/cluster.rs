//! Several nodes over one JetStream, each a process of its own: what they share and ask each other, and what becomes
//! of it when NATS or a node is killed, frozen or out of reach.

#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/shared.rs"]
mod shared;
#[path = "cluster/streams.rs"]
mod streams;
#[path = "cluster/support.rs"]
mod support;
