//! The log's source streams in NATS JetStream.
//!
//! In the order in which an event passes through:
//!
//! - [`publish`]: gives bodies to the stream of the layout `own`, in order and durably.
//! - [`message`]: what an event looks like there: subject, headers, payload; both ways.
//! - [`own`]: that stream, made or adapted where it has to be.
//! - [`fleet`]: what the subjects of streams that others publish to mean; only read.
//! - [`source`]: one reader for each source stream and node, which hands on decoded events in batches, in
//!   order, none lost and none twice; [`pull`] is its consumer in the broker, and `pace` how
//!   much that is asked for when.
//! - [`api`]: the few calls of JetStream's API that these need.
//!
//! Nothing here knows streams of clients or cursors: the mirror writes what the sources bring into the log.

pub mod api;
pub mod fleet;
pub mod message;
pub mod own;
mod pace;
pub mod publish;
pub mod pull;
pub mod source;

pub use own::OwnStream;
pub use publish::{PublishError, Published, Publisher};
pub use source::{
    Decoder, Source, SourceBatch, SourceCounters, SourceEvent, SourceMessage, SourcePlace,
    SourceReport, SourceSpec,
};
