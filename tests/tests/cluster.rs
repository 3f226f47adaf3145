//! Several nodes over one JetStream, each a process of its own: what they share and ask each other, and what becomes
//! of it, and of what is published and read meanwhile, when NATS, Redis or a node is killed, frozen, slow, full or
//! out of reach.

#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/losses.rs"]
mod losses;
#[path = "cluster/recorded.rs"]
mod recorded;
#[path = "cluster/recorder.rs"]
mod recorder;
#[path = "cluster/shared.rs"]
mod shared;
#[path = "cluster/state.rs"]
mod state;
#[path = "cluster/streams.rs"]
mod streams;
#[path = "cluster/subjects.rs"]
mod subjects;
#[path = "cluster/support.rs"]
mod support;
