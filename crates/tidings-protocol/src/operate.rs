//! The JSON bodies of operators' calls: open streams, the audience of an event, device groups, tenants.

use serde::{Deserialize, Serialize};

use crate::event::DeviceId;

/// What a stream sees, bound by bound. A list that is absent does not bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamView {
    /// The only tenant that is shown; null for all.
    pub tenant_id: Option<String>,
    /// The event types that the access token allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types_claim: Option<Vec<String>>,
    /// The devices that the access token allows; with `device_group`, beside its members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices_claim: Option<Vec<String>>,
    /// The device group that the access token names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_group: Option<String>,
    /// The event types that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types_filter: Option<Vec<String>>,
    /// The devices that the client asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_filter: Option<Vec<String>>,
}

/// One open stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamInfo {
    /// The stream's name, `sse-` and 12 hex digits.
    #[cfg_attr(feature = "openapi", schema(example = "sse-1f0c9a7be210"))]
    pub connection_id: String,
    /// Whose access token opened it.
    pub user_id: String,
    /// The user's tenant; null for a super admin without one.
    pub tenant_id: Option<String>,
    /// The user's role.
    pub role: String,
    /// What it sees.
    pub view: StreamView,
    /// It has been given everything of its view up to here.
    pub cursor: String,
    /// How many events of its view it has not been given yet.
    pub lag_events: u64,
    /// False where `lag_events` was not counted to its end and there can be more.
    pub lag_exact: bool,
    /// How long ago the oldest of them was appended, in seconds; 0 where there are none.
    pub lag_seconds: f64,
    /// How many events it was given.
    pub events: u64,
    /// How many bytes it was given, as they went out.
    pub bytes: u64,
    /// How many events were left out since a later one superseded them while the stream lagged.
    #[serde(default)]
    pub conflated: u64,
    /// When it was opened, RFC 3339.
    pub opened_at: String,
    /// When its access token ends, RFC 3339.
    pub expires_at: String,
    /// The address that its connection came from.
    pub remote_address: String,
    /// The name of the node that it is on; absent where there is one node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// One node of several, and whether the answer has what it knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeAnswer {
    /// The node's name.
    pub node: String,
    /// Drawn by the node when it started.
    pub id: String,
    /// False where it did not answer in time, so that what it has is missing.
    pub answered: bool,
}

/// The answer of `GET /streams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamList {
    /// Ascending by connection id.
    pub streams: Vec<StreamInfo>,
    /// The `after` of the next page; null where this is the last.
    pub next: Option<String>,
    /// The nodes that were asked, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// The answer of `DELETE /users/{user_id}/streams`, `DELETE /tenants/{tenant_id}/streams` and
/// `DELETE /tokens/{token_id}/streams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessRevoked {
    /// Access tokens that were issued up to this time are good no more, RFC 3339. One that is meant by its id is not,
    /// whenever it was issued.
    pub revoked_at: String,
    /// How many open streams were closed by that.
    pub streams_closed: u64,
    /// The nodes, where there are several, and whether each has said that it obeys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// The answer of `DELETE /streams/{connection_id}?revoke=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConnectionRevoked {
    /// Since when the access token that opened the stream is good no more, RFC 3339; null where it has no id (`jti`) by
    /// which it could be meant: then the stream was closed, and whoever has the token may come back.
    pub revoked_at: Option<String>,
    /// The id of that access token.
    pub token_id: Option<String>,
    /// Whose stream it was; to be revoked instead where the access token could not be.
    pub user_id: String,
    /// The user's tenant; null for a super admin without one.
    pub tenant_id: Option<String>,
    /// How many open streams were closed, all of the same access token.
    pub streams_closed: u64,
    /// The nodes, where there are several, and whether each has said that it obeys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// What became of an event on its way to one stream: `sent`, or what kept it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Outcome {
    /// It was given to the stream's connection.
    Sent,
    /// The stream has left out events of this type while it lagged, perhaps this one.
    PossiblyConflated,
    /// The stream lags and has still to be given it.
    NotYet,
    /// The stream begins behind it.
    OpenedAfter,
    /// The stream had ended before it came to it.
    ClosedBefore,
    /// The access token's types don't have its type.
    TypesClaim,
    /// The access token's devices don't have its device, or it has none.
    DevicesClaim,
    /// Neither the access token's device group nor its devices have its device, or it has none.
    DeviceGroup,
    /// The client asked for other types.
    TypesFilter,
    /// The client asked for other devices.
    DeviceFilter,
}

impl Outcome {
    /// The outcome as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::PossiblyConflated => "possibly_conflated",
            Self::NotYet => "not_yet",
            Self::OpenedAfter => "opened_after",
            Self::ClosedBefore => "closed_before",
            Self::TypesClaim => "types_claim",
            Self::DevicesClaim => "devices_claim",
            Self::DeviceGroup => "device_group",
            Self::TypesFilter => "types_filter",
            Self::DeviceFilter => "device_filter",
        }
    }
}

/// One stream of an event's audience, or of those who are not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AudienceStream {
    /// The stream's name.
    pub connection_id: String,
    /// Whose access token opened it.
    pub user_id: String,
    /// The user's tenant; null for a super admin without one.
    pub tenant_id: Option<String>,
    /// The user's role.
    pub role: String,
    /// What became of the event on its way to this stream.
    pub outcome: Outcome,
    /// The address that its connection came from.
    pub remote_address: String,
    /// When it was opened, RFC 3339.
    pub opened_at: String,
    /// When it ended, RFC 3339; null while it is open.
    pub closed_at: Option<String>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_because: Option<String>,
    /// The name of the node that it is or was on; absent where there is one node only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The event that an audience is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AudienceEvent {
    /// Its cursor.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Its device, or null.
    pub device_id: Option<String>,
    /// When it was appended, RFC 3339.
    pub time: String,
}

/// The answer of `GET /tenants/{tenant_id}/events/{cursor}/audience`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Audience {
    /// The event.
    pub event: AudienceEvent,
    /// Ascending by connection id.
    pub streams: Vec<AudienceStream>,
    /// Streams that ended before this time may be missing, RFC 3339.
    pub complete_since: String,
    /// The `after` of the next page; null where this is the last.
    pub next: Option<String>,
    /// The nodes that were asked, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}

/// The members of a device group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceGroup {
    /// The devices.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub devices: Vec<DeviceId>,
}

/// One device group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceGroupSummary {
    /// Its name.
    pub name: String,
    /// How many devices it has.
    pub devices: u64,
}

/// The answer of `GET /tenants/{tenant_id}/device-groups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceGroupList {
    /// Ascending by name.
    pub groups: Vec<DeviceGroupSummary>,
}

/// What holds for one tenant; 0 means no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantSettings {
    /// How long its events are kept, in seconds.
    pub retention_seconds: f64,
    /// How many bytes of the log it may take.
    pub max_bytes: u64,
    /// Events published for it, a second.
    pub publish_rate: u64,
    /// Its open streams.
    pub streams: u64,
    /// The largest event, in bytes.
    pub event_bytes: u64,
}

/// That a tenant was purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantPurged {
    /// When, RFC 3339.
    pub at: String,
    /// The user who asked for it; empty where that is not known any more.
    pub by: String,
    /// Whether events of it may still be in the log's files, where nothing shows them.
    pub on_disk: bool,
}

/// One tenant in a listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantInfo {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(format = "uuid"))]
    pub id: String,
    /// What the server's configuration calls it.
    pub name: Option<String>,
    /// How many of its events are retained.
    pub events: u64,
    /// How many bytes of the log they take.
    pub bytes: u64,
    /// When the oldest of them was appended, RFC 3339; null where there is none.
    pub oldest_at: Option<String>,
    /// How many of its events came into the log since `appended_since`; unlike `events` it only grows.
    #[serde(default)]
    pub appended: u64,
    /// When the server that answers began to count, RFC 3339: counts with another beginning are not to be compared.
    #[serde(default)]
    pub appended_since: String,
    /// How many streams its users have open.
    pub streams: u64,
    /// What holds for it.
    pub settings: TenantSettings,
    /// That it was purged, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<TenantPurged>,
}

/// The answer of `GET /tenants`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantList {
    /// Ascending by id.
    pub tenants: Vec<TenantInfo>,
    /// The `after` of the next page; null where this is the last.
    pub next: Option<String>,
}

/// The answer of `DELETE /tenants/{tenant_id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantPurge {
    /// The tenant that is no more.
    #[cfg_attr(feature = "openapi", schema(format = "uuid"))]
    pub tenant_id: String,
    /// When it was purged, RFC 3339.
    pub purged_at: String,
    /// How many open streams were closed by that.
    pub streams_closed: u64,
    /// Within how many seconds its events are to be gone from the disk; `GET /tenants` says when they are.
    pub gone_within_seconds: f64,
    /// The nodes, where there are several, and whether each has said that it obeys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeAnswer>,
}
