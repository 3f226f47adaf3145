//! The state of all nodes in a bucket of JetStream (NATS ADR-8), for nodes that begin with an empty folder.
//!
//! The own layout's stream retains events for a time; a subject outlives them. What a node has folded from its
//! log stays in its folder, and a node without one could not know of subjects that the stream tells nothing of any
//! more. So one node at a time writes each subject's last event into the bucket `TIDINGS_STATE`:
//!
//! - [`entry`]: what a subject looks like there.
//! - [`keep`]: the node that writes: what has changed since the bucket's cursor, and then the cursor.
//! - [`load`]: the node that begins: what the stream does not tell it.
//!
//! **Nobody is elected.** Each write names the last sequence that the bucket's stream must have. Who does not know
//! all that was written is refused, so two that write at once can't mix: one of them goes on and the other
//! stops. A node begins to write when the bucket has said nothing for a while that the node itself has in
//! its log.
//!
//! **The cursor is written last.** What stands in the bucket is at least as new as the cursor says, subject by
//! subject, and what a node that was killed has left half-written is written again by the next.

pub mod entry;
pub mod keep;
pub mod load;

use std::time::Duration;

use async_nats::Client;
use serde_json::json;

use crate::jetstream::api::{self, ApiError, StreamInfo, nanoseconds};

/// The bucket's stream.
pub const STREAM: &str = "KV_TIDINGS_STATE";

/// What the subjects in it begin with.
const PREFIX: &str = "$KV.TIDINGS_STATE.";

/// Where the cursor stands.
const CURSOR: &str = "$KV.TIDINGS_STATE.cursor";

/// What the bucket is, made where it does not exist, on so many servers at least.
async fn ensure(client: &Client, replicas: usize) -> Result<StreamInfo, ApiError> {
    let mut config = json!({
        "name": STREAM,
        "description": "The last event of each subject, as the nodes of Tidings have folded it",
        "subjects": [format!("{PREFIX}>")],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": replicas,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": nanoseconds(Duration::from_mins(2)),
        "allow_rollup_hdrs": true,
        "allow_direct": true,
    });
    let info = match api::stream_info(client, STREAM).await {
        Err(ApiError::NoStream) => api::create_stream(client, &config).await?,
        other => other?,
    };
    let has = info.config["num_replicas"].as_u64().unwrap_or(1);
    if has >= replicas as u64 {
        return Ok(info);
    }
    config.clone_from(&info.config);
    config["num_replicas"] = replicas.into();
    api::update_stream(client, &config).await
}
