//! The calls of JetStream's API, as JSON over requests (NATS ADR-2 and ADR-15).
//!
//! Our own, and not the client's, since what the broker answers is looked at as it is: a server of another
//! version leaves out what it does not know without a word.

use std::time::Duration;

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The error code of a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10_059;

/// The error code of a message that does not exist.
const MESSAGE_NOT_FOUND: u64 = 10_037;

/// The error code of a message that could not be deleted, mostly since it is not there.
const DELETE_FAILED: u64 = 10_057;

/// What went wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// There is no such stream.
    #[error("the stream does not exist")]
    NoStream,
    /// There is no such message.
    #[error("the message does not exist")]
    NoMessage,
    /// Nobody answers: JetStream is off, or has no leader at the moment.
    #[error("JetStream does not answer: {0}")]
    Unanswered(String),
    /// The broker refused.
    #[error("{description} (error {code} of JetStream)")]
    Refused {
        /// The error code of JetStream (`err_code`).
        code: u64,
        /// What the broker says.
        description: String,
    },
    /// The answer is not what was expected.
    #[error("an answer of JetStream can't be read: {0}")]
    Unreadable(String),
}

/// What a stream is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Which stream of this name it is: nanoseconds since the Unix epoch at which it was created.
    pub incarnation: u64,
    /// The sequence of its oldest message; one above the last where it is empty.
    pub first_sequence: u64,
    /// The sequence of its newest message, also where that is gone; 0 where there never was one.
    pub last_sequence: u64,
    /// Its configuration, as the broker has it.
    pub config: Value,
}

#[derive(Deserialize)]
struct RawInfo {
    /// RFC 3339, to the nanosecond.
    created: String,
    config: Value,
    state: RawState,
}

#[derive(Deserialize)]
struct RawState {
    first_seq: u64,
    last_seq: u64,
}

impl TryFrom<RawInfo> for StreamInfo {
    type Error = ApiError;

    fn try_from(raw: RawInfo) -> Result<Self, ApiError> {
        let created = raw.created.parse::<jiff::Timestamp>().ok();
        let incarnation = created
            .and_then(|created| u64::try_from(created.as_nanosecond()).ok())
            .ok_or_else(|| ApiError::Unreadable(format!("created at {}", raw.created)))?;
        Ok(Self {
            incarnation,
            // An empty stream that never had a message says 0.
            first_sequence: raw.state.first_seq.max(1),
            last_sequence: raw.state.last_seq,
            config: raw.config,
        })
    }
}

/// Asks what a stream is.
pub async fn stream_info(client: &Client, stream: &str) -> Result<StreamInfo, ApiError> {
    let raw: RawInfo = call(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await?;
    raw.try_into()
}

/// Makes a stream. The broker takes it as done where there is one that is the same.
pub async fn create_stream(client: &Client, config: &Value) -> Result<StreamInfo, ApiError> {
    let name = config["name"].as_str().unwrap_or_default();
    let raw: RawInfo = call(client, &format!("STREAM.CREATE.{name}"), config).await?;
    raw.try_into()
}

/// Changes a stream's configuration.
pub async fn update_stream(client: &Client, config: &Value) -> Result<StreamInfo, ApiError> {
    let name = config["name"].as_str().unwrap_or_default();
    let raw: RawInfo = call(client, &format!("STREAM.UPDATE.{name}"), config).await?;
    raw.try_into()
}

/// A consumer as the broker made it.
#[derive(Clone, Debug, Deserialize)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// How many messages it has still to deliver.
    #[serde(default)]
    pub num_pending: u64,
    config: Value,
}

/// Makes a consumer that lives no longer than its reader: from a sequence on, in order, acknowledging
/// nothing, in memory, gone after `idle` without a request.
pub async fn create_consumer(
    client: &Client,
    stream: &str,
    from: u64,
    idle: Duration,
    description: &str,
) -> Result<Consumer, ApiError> {
    let config = json!({
        "description": description,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": from,
        "ack_policy": "none",
        "replay_policy": "instant",
        "max_deliver": 1,
        "inactive_threshold": nanoseconds(idle),
        "num_replicas": 1,
        "mem_storage": true,
    });
    let request = json!({ "stream_name": stream, "config": config });
    let made: Consumer = call(client, &format!("CONSUMER.CREATE.{stream}"), &request).await?;
    // What a broker does not know it leaves out without a word, and would deliver something else.
    for name in ["deliver_policy", "opt_start_seq", "ack_policy"] {
        if made.config[name] != config[name] {
            let _ = delete_consumer(client, stream, &made.name).await;
            return Err(ApiError::Unreadable(format!(
                "a consumer was made with another {name} than was asked for"
            )));
        }
    }
    Ok(made)
}

/// Deletes a consumer.
pub async fn delete_consumer(
    client: &Client,
    stream: &str,
    consumer: &str,
) -> Result<(), ApiError> {
    let _: Value = call(
        client,
        &format!("CONSUMER.DELETE.{stream}.{consumer}"),
        &Value::Null,
    )
    .await?;
    Ok(())
}

/// The headers of the message with this sequence, as the stream's leader has it: `None` where it has none.
pub async fn message_headers(
    client: &Client,
    stream: &str,
    sequence: u64,
) -> Result<Option<String>, ApiError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    #[derive(Deserialize)]
    struct Answer {
        message: Stored,
    }
    #[derive(Deserialize)]
    struct Stored {
        hdrs: Option<String>,
    }
    let answer: Answer = call(
        client,
        &format!("STREAM.MSG.GET.{stream}"),
        &json!({ "seq": sequence }),
    )
    .await?;
    let unreadable = |what: String| ApiError::Unreadable(what);
    answer
        .message
        .hdrs
        .map(|encoded| {
            let bytes = STANDARD
                .decode(encoded)
                .map_err(|error| unreadable(error.to_string()))?;
            String::from_utf8(bytes).map_err(|error| unreadable(error.to_string()))
        })
        .transpose()
}

/// A message as the stream's leader has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// The last message under a subject.
pub async fn last_message(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<LastMessage, ApiError> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    #[derive(Deserialize)]
    struct Answer {
        message: Stored,
    }
    #[derive(Deserialize)]
    struct Stored {
        seq: u64,
        #[serde(default)]
        data: String,
    }
    let asked = json!({ "last_by_subj": subject });
    let answer: Answer = call(client, &format!("STREAM.MSG.GET.{stream}"), &asked).await?;
    let payload = STANDARD.decode(answer.message.data);
    Ok(LastMessage {
        sequence: answer.message.seq,
        payload: payload.map_err(|error| ApiError::Unreadable(error.to_string()))?,
    })
}

/// Removes one message, without writing over its bytes. One that is not there is as good as removed.
pub async fn delete_message(client: &Client, stream: &str, sequence: u64) -> Result<(), ApiError> {
    let asked = json!({ "seq": sequence, "no_erase": true });
    let subject = format!("STREAM.MSG.DELETE.{stream}");
    match call::<Value>(client, &subject, &asked).await {
        Ok(_) | Err(ApiError::NoMessage) => Ok(()),
        Err(ApiError::Refused { code, .. }) if code == DELETE_FAILED => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes everything under some subjects.
pub async fn purge_subjects(client: &Client, stream: &str, filter: &str) -> Result<(), ApiError> {
    let asked = json!({ "filter": filter });
    let _: Value = call(client, &format!("STREAM.PURGE.{stream}"), &asked).await?;
    Ok(())
}

/// Removes what stands under some subjects before a sequence.
pub async fn purge_older(
    client: &Client,
    stream: &str,
    filter: &str,
    sequence: u64,
) -> Result<(), ApiError> {
    let asked = json!({ "filter": filter, "seq": sequence });
    let _: Value = call(client, &format!("STREAM.PURGE.{stream}"), &asked).await?;
    Ok(())
}

/// A span as JetStream writes it.
#[must_use]
pub fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

async fn call<T: DeserializeOwned>(
    client: &Client,
    subject: &str,
    body: &Value,
) -> Result<T, ApiError> {
    let payload = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let answered = client
        .request(format!("$JS.API.{subject}"), payload)
        .await
        .map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => {
                ApiError::Unanswered("no server has JetStream at the moment".to_owned())
            }
            RequestErrorKind::TimedOut => ApiError::Unanswered("no answer in time".to_owned()),
            _ => ApiError::Unanswered(error.to_string()),
        })?;
    read(&answered.payload)
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<Failure>,
    }
    let unreadable = |error: serde_json::Error| ApiError::Unreadable(error.to_string());
    let failed: Failed = serde_json::from_slice(answer).map_err(unreadable)?;
    match failed.error {
        None => serde_json::from_slice(answer).map_err(unreadable),
        Some(failure) => Err(failure.into()),
    }
}

/// An error as JetStream writes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Failure {
    /// Like an HTTP status.
    pub code: u64,
    /// What exactly.
    #[serde(default)]
    pub err_code: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure.err_code {
            STREAM_NOT_FOUND => Self::NoStream,
            MESSAGE_NOT_FOUND => Self::NoMessage,
            code => Self::Refused {
                code,
                description: failure.description,
            },
        }
    }
}
