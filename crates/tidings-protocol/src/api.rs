//! The JSON bodies that servers and clients exchange.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The answer of `POST /auth/sse-token`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamTokenGrant {
    /// The secret that opens one stream, once.
    pub token: String,
    /// How long it can be used, in seconds.
    pub expires_in: u64,
}

/// The answer of `POST /tenants/{tenant_id}/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishReceipt {
    /// How many of the body's events are newly stored.
    pub accepted: u64,
    /// How many were stored before, under the same key.
    pub duplicates: u64,
    /// The cursor of the body's first event.
    pub first: String,
    /// The cursor of the body's last event.
    pub last: String,
}

/// One event of the history, `GET /tenants/{tenant_id}/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryEvent {
    /// The event's cursor.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its device, or null.
    pub device_id: Option<String>,
    /// When it was appended, RFC 3339.
    pub time: String,
    /// The payload, a JSON object.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: Box<RawValue>,
}

/// A page of the history.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryPage {
    /// Ascending by position.
    pub events: Vec<HistoryEvent>,
    /// The `after` of the next page.
    pub next: String,
    /// What was asked for and can't be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// The last event of a living subject. Also the data of a `snapshot` event.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubjectState {
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The event's cursor.
    pub id: String,
    /// The payload, a JSON object.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: Box<RawValue>,
}

/// The answer of `GET /tenants/{tenant_id}/state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantState {
    /// Where all of it is true: with the events after it, it is the state of later.
    pub cursor: String,
    /// By kind of subject and key.
    pub subjects: Vec<SubjectState>,
}

/// Why a stretch of the log can't be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum GapReason {
    /// Retention has removed it.
    Expired,
    /// The cursor is of another log than the one that is here.
    UnknownEpoch,
    /// The cursor lies behind the end of the log.
    AheadOfLog,
    /// The text is no cursor.
    Malformed,
}

/// The data of a `gap` event, and the `gap` of a history page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gap {
    /// What was asked for; at most 128 bytes of it.
    pub requested: String,
    /// The cursor that the stream goes on after.
    pub resumed_at: String,
    /// Why.
    pub reason: GapReason,
    /// Which source, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Why the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosingReason {
    /// The access token's `exp` has passed.
    Expired,
    /// The access token was revoked.
    Revoked,
    /// The server is going away; another will answer.
    Draining,
    /// The tenant was purged.
    Deleted,
    /// A device group that bounds the stream has changed.
    ViewChanged,
    /// An operator disconnected the stream.
    Disconnected,
    /// The peer took no byte for the stall timeout.
    Stalled,
}

impl ClosingReason {
    /// The reason as it stands on the wire and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Draining => "draining",
            Self::Deleted => "deleted",
            Self::ViewChanged => "view_changed",
            Self::Disconnected => "disconnected",
            Self::Stalled => "stalled",
        }
    }
}

/// The data of a `closing` event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closing {
    /// Why.
    pub reason: ClosingReason,
    /// When to come back, in milliseconds.
    pub retry: u64,
    /// How many events conflation left out of this stream.
    #[serde(default)]
    pub conflated: u64,
}
