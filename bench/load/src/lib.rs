//! The load generator: many event streams and publishers from one thread, checked and timed.
//!
//! In the order in which data flows: a [`scenario`] tells the [`driver`] which streams to open and
//! what to publish; the [`target`] writes the requests and the [`payload`]s, each stamped with the
//! time; the driver's epoll loop reads the streams, the [`scan`]ner finds the events, each stream
//! checks their order and the [`histogram`] counts their latency; the [`probe`] reads what the
//! server used meanwhile; a [`report`] is printed as JSON.

mod chunks;
pub mod clock;
pub mod coding;
pub mod driver;
pub mod histogram;
mod network;
pub mod payload;
pub mod probe;
pub mod report;
mod requester;
pub mod scan;
pub mod scenario;
mod stream;
pub mod target;
mod tls;
pub mod token;

pub use requester::Answer;
pub use stream::Tally;
