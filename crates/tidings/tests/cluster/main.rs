//! Several nodes over one JetStream, each a server of its own in this process with a log of its own: what they share
//! and ask each other, against real `nats-server` processes.

mod faults;
mod shared;
mod streams;
mod support;
