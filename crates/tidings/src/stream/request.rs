//! The parameters of a stream and of the history.

use std::collections::HashMap;

use http::HeaderMap;
use tidings_protocol::{DeviceId, EventType, TenantId};

use crate::error::Refusal;
use crate::fanout::ViewRequest;
use crate::time;

/// What a stream can be asked with: its parameters, and the tenant of its path.
pub(super) const PARAMETERS: [&str; 9] = [
    "token",
    "last_event_id",
    "since",
    "types",
    "device_id",
    "snapshot",
    "conflate",
    "scope",
    "tenant_id",
];

/// How many characters of a parameter are told back where it is wrong.
const ECHOED: usize = 32;

/// The header that browsers resume with.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// The parameters of a query, each given once.
#[derive(Debug)]
pub struct Query(HashMap<String, String>);

impl Query {
    /// Reads a query (WHATWG URL, section 5.1).
    ///
    /// # Errors
    ///
    /// When a parameter comes twice: which of them was meant can't be known.
    pub fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if parameters
                .insert(name.clone().into_owned(), value.into_owned())
                .is_some()
            {
                let beginning: String = name.chars().take(ECHOED).collect();
                return Err(Refusal::parameter(
                    &beginning,
                    "given more than once; give it once",
                ));
            }
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter; an empty one counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The value of a parameter, an empty one too. For operators' calls: what a script's unset variable leaves must
    /// not count as absent, where that means *all*.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The tenant that an operator's call is bounded to, of the parameter `tenant`.
    ///
    /// # Errors
    ///
    /// 422 when it is no UUID, or empty.
    pub fn tenant(&self) -> Result<Option<TenantId>, Refusal> {
        self.given("tenant")
            .map(|text| read_tenant_in("tenant", text))
            .transpose()
    }

    /// The types and devices asked for.
    ///
    /// # Errors
    ///
    /// When a name is malformed, or a type is none that this deployment has.
    pub fn view(&self, known_types: &[EventType]) -> Result<ViewRequest, Refusal> {
        Ok(ViewRequest {
            types: self
                .get("types")
                .map(|list| read_types("types", list, known_types))
                .transpose()?,
            devices: self.get("device_id").map(read_devices).transpose()?,
        })
    }

    /// Whether a switch is on; absent is off.
    ///
    /// # Errors
    ///
    /// When it is neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::parameter(name, "can only be true or false")),
        }
    }

    /// A time, in microseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// When it is no RFC 3339 time.
    pub fn time(&self, name: &str) -> Result<Option<i64>, Refusal> {
        self.get(name)
            .map(|text| {
                time::parse_rfc3339(text).ok_or_else(|| {
                    Refusal::parameter(
                        name,
                        "must be an RFC 3339 time with an offset, such as 2026-11-23T18:00:00Z (write + as %2B)",
                    )
                })
            })
            .transpose()
    }
}

fn read_types(
    parameter: &str,
    list: &str,
    known_types: &[EventType],
) -> Result<Vec<String>, Refusal> {
    list.split(',')
        .map(|name| {
            let known = known_types.iter().any(|known| known.as_str() == name);
            known.then(|| name.to_owned()).ok_or_else(|| {
                let names: Vec<&str> = known_types.iter().map(EventType::as_str).collect();
                Refusal::parameter(
                    parameter,
                    format!(
                        "{} is no event type here; there are {}",
                        echoed(name),
                        names.join(", ")
                    ),
                )
            })
        })
        .collect()
}

/// What a client has sent, as it is told that it is not understood: the beginning of it, since it may be a token that came
/// to the wrong place, and may be as long as a head.
fn echoed(text: &str) -> String {
    let mut characters = text.chars();
    let beginning: String = characters.by_ref().take(ECHOED).collect();
    if characters.next().is_none() {
        format!("{beginning:?}")
    } else {
        format!("{beginning:?} and what follows it")
    }
}

fn read_devices(list: &str) -> Result<Vec<DeviceId>, Refusal> {
    list.split(',')
        .map(|id| {
            id.parse()
                .map_err(|error: tidings_protocol::event::InvalidDeviceId| {
                    Refusal::parameter("device_id", error.to_string())
                })
        })
        .collect()
}

/// Where a stream is asked to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartRequest {
    /// At the tail.
    Tail,
    /// After a cursor, as the client gave it.
    Cursor(String),
    /// With the first event appended at or after this time, in microseconds since the Unix epoch.
    Since(i64),
}

/// What opens a stream.
#[derive(Clone)]
pub enum Credential {
    /// A stream token.
    StreamToken(String),
    /// An access token.
    AccessToken(String),
}

/// The parameters of one stream.
pub struct StreamRequest {
    /// The tenant in the path, if the path has one.
    pub tenant: Option<TenantId>,
    /// What opens it.
    pub credential: Credential,
    /// Where it begins.
    pub start: StartRequest,
    /// What it shows.
    pub view: ViewRequest,
    /// A super admin asks for the path's tenant only.
    pub tenant_only: bool,
    /// It is to begin with a snapshot, unless it resumes.
    pub snapshot: bool,
    /// The types of which it can do with the latest while it lags.
    pub conflate: Option<Vec<String>>,
}

impl StreamRequest {
    /// Reads the parameters of a stream.
    ///
    /// # Errors
    ///
    /// 422, naming the parameter.
    pub fn parse(
        tenant: Option<&str>,
        query: Option<&str>,
        headers: &HeaderMap,
        known_types: &[EventType],
        conflated_by_default: &[EventType],
    ) -> Result<Self, Refusal> {
        let tenant = tenant.map(read_tenant).transpose()?;
        let query = Query::parse(query)?;
        let view = query.view(known_types)?;
        let since = query.time("since")?;
        let cursor = headers
            .get(LAST_EVENT_ID)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .filter(|cursor| !cursor.is_empty())
            .or_else(|| query.get("last_event_id").map(str::to_owned));
        let start = match (cursor, since) {
            (Some(cursor), _) => StartRequest::Cursor(cursor),
            (None, Some(since)) => StartRequest::Since(since),
            (None, None) => StartRequest::Tail,
        };
        let tenant_only = match query.get("scope") {
            None => false,
            Some("tenant") if tenant.is_some() => true,
            Some("tenant") => {
                return Err(Refusal::parameter("scope", "this path names no tenant"));
            }
            Some(_) => return Err(Refusal::parameter("scope", "can only be \"tenant\"")),
        };
        let snapshot = query.flag("snapshot")?;
        if snapshot && since.is_some() {
            return Err(Refusal::parameter(
                "snapshot",
                "a snapshot is of now; it can't be had together with since",
            ));
        }
        let conflate = match query.get("conflate") {
            None => None,
            Some("default") => Some(
                conflated_by_default
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            Some(list) => Some(read_types("conflate", list, known_types)?),
        };
        let credential = match (query.get("token"), bearer(headers)) {
            (Some(token), _) => Credential::StreamToken(token.to_owned()),
            (None, Some(token)) => Credential::AccessToken(token.to_owned()),
            (None, None) => return Err(Refusal::parameter("token", "Field required")),
        };
        Ok(Self {
            tenant,
            credential,
            start,
            view,
            tenant_only,
            snapshot,
            conflate,
        })
    }
}

/// Reads the tenant in a path.
///
/// # Errors
///
/// 422 when it is no UUID.
pub fn read_tenant(text: &str) -> Result<TenantId, Refusal> {
    read_tenant_in("tenant_id", text)
}

fn read_tenant_in(parameter: &str, text: &str) -> Result<TenantId, Refusal> {
    text.parse()
        .map_err(|error: tidings_protocol::tenant::InvalidTenantId| {
            Refusal::parameter(parameter, error.to_string())
        })
}

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1).
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}
