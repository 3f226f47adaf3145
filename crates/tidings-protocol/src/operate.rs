//! The JSON bodies of operators' calls: open streams, the audience of an event, device groups.

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
}

/// The answer of `GET /streams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamList {
    /// Ascending by connection id.
    pub streams: Vec<StreamInfo>,
    /// The `after` of the next page; null where this is the last.
    pub next: Option<String>,
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
