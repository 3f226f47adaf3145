//! The API's description (`OpenAPI` 3.1), generated from the handlers.

use std::sync::OnceLock;

use tidings_protocol::Problem;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

/// One event as it is published.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "only described here; ingest reads it field by field"
)]
pub struct PublishedEvent {
    /// Its type.
    #[schema(example = "device_status")]
    r#type: String,
    /// Its device; without it `data.device_id`.
    #[schema(example = "r1")]
    device_id: Option<String>,
    /// The payload.
    #[schema(value_type = Object)]
    data: serde_json::Value,
    /// Makes the event safe to repeat for two minutes.
    key: Option<String>,
    /// The publisher's own time, RFC 3339; informative.
    time: Option<String>,
}

/// The parameters of a stream.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; stream::request reads them")]
pub struct StreamParameters {
    /// The stream token. Clients that can set headers may send `Authorization: Bearer` instead.
    token: Option<String>,
    /// Resume after this cursor. The header `Last-Event-ID` wins.
    last_event_id: Option<String>,
    /// Begin with the first event appended at or after this time (RFC 3339). A cursor wins.
    since: Option<String>,
    /// Only these types, separated by commas.
    types: Option<String>,
    /// Only these devices, separated by commas.
    device_id: Option<String>,
    /// Begin with the last event of each living subject, as `snapshot` events and a `snapshot_end`. A cursor
    /// wins; not together with `since`.
    snapshot: Option<bool>,
    /// The types of which the latest of each subject will do while the stream lags, separated by commas, or
    /// `default` for the server's own list.
    conflate: Option<String>,
    /// `tenant`: a `super_admin` sees only the tenant in the path.
    scope: Option<String>,
}

/// The parameters of the state.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; state::read reads them")]
pub struct StateParameters {
    /// Only these types, separated by commas.
    types: Option<String>,
    /// Only these devices, separated by commas.
    device_id: Option<String>,
}

/// The parameters of the history.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; history reads them")]
pub struct HistoryParameters {
    /// The page begins after this cursor.
    after: Option<String>,
    /// Begin with the first event appended at or after this time (RFC 3339). A cursor wins.
    since: Option<String>,
    /// End before the first event appended at or after this time (RFC 3339).
    until: Option<String>,
    /// At most so many events.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// Only these types, separated by commas.
    types: Option<String>,
    /// Only these devices, separated by commas.
    device_id: Option<String>,
}

/// The parameters of a listing of streams.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; operate::streams reads them")]
pub struct StreamListParameters {
    /// Only streams that show this tenant and no other.
    tenant: Option<uuid::Uuid>,
    /// Only streams of this user.
    user: Option<String>,
    /// The page begins behind this stream: the `next` of the page before.
    after: Option<String>,
    /// At most so many streams.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// The parameters of a listing of tenants.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; operate::tenants reads them")]
pub struct TenantListParameters {
    /// The page begins behind this tenant: the `next` of the page before.
    after: Option<uuid::Uuid>,
    /// At most so many tenants.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Which part of the audit log.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "only described here; operate::audit reads them")]
pub struct AuditParameters {
    /// The page begins behind this entry.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// Begin with this time (RFC 3339).
    since: Option<String>,
    /// End before this time (RFC 3339).
    until: Option<String>,
    /// Only entries of this tenant.
    tenant: Option<uuid::Uuid>,
    /// At most so many entries.
    #[param(minimum = 1, maximum = 10000, default = 1000)]
    limit: Option<u32>,
}

/// Which page of an audience.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(
    dead_code,
    reason = "only described here; operate::audience reads them"
)]
pub struct AudienceParameters {
    /// The page begins behind this stream: the `next` of the page before.
    after: Option<String>,
    /// At most so many streams.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Declares the refusals of an operation: each a status with what it means.
macro_rules! refusals {
    ($(#[$doc:meta])* $name:ident { $($(#[$meaning:meta])* $status:literal $case:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(IntoResponses)]
        #[allow(dead_code, reason = "only described here; error answers them")]
        pub enum $name {
            $(
                $(#[$meaning])*
                #[response(status = $status, content_type = "application/problem+json")]
                $case(Problem)
            ),*
        }
    };
}

refusals! {
    /// Refusals of a stream.
    StreamRefusals {
        /// The token is unknown, used or expired.
        401 Unauthorized,
        /// The token is not for this tenant.
        403 Forbidden,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// A parameter is wrong or missing; `parameter` names it.
        422 Parameter,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The server can't open streams now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// Refusals of a stream token.
    TokenRefusals {
        /// No good access token.
        401 Unauthorized,
        /// The page may not use the cookie.
        403 Forbidden,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// Tokens can't be stored now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// Refusals of a page of the history.
    ReadRefusals {
        /// No good access token.
        401 Unauthorized,
        /// The token is not for this tenant.
        403 Forbidden,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// A parameter is wrong; `parameter` names it.
        422 Parameter,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The log can't be read now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// Refusals of a publish; nothing is stored.
    PublishRefusals {
        /// The body is not JSON; `line` says where.
        400 Malformed,
        /// No good access token or API key.
        401 Unauthorized,
        /// Not for this tenant, type or device, or the role may not publish.
        403 Forbidden,
        /// The body did not arrive in time.
        408 Timeout,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// The body, an event or the number of lines is too large.
        413 TooLarge,
        /// Neither application/json nor application/x-ndjson.
        415 MediaType,
        /// An event is wrong; `line` and `field` name it.
        422 Event,
        /// The rate limit is reached; see Retry-After.
        429 TooMany,
        /// The log can't take events now; see Retry-After.
        503 Unavailable,
        /// The disk under the log is full.
        507 Full,
    }
}

refusals! {
    /// Refusals of an operator's call.
    OperatorRefusals {
        /// No good access token.
        401 Unauthorized,
        /// The token is no operator's, or not for this tenant.
        403 Forbidden,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// A parameter is wrong; `parameter` names it.
        422 Parameter,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The server can't do this now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// A revocation that has no room.
    TooManyRevocations {
        /// The tenant has as many revocations of users and tokens as it may; nothing was revoked.
        409 Conflict,
    }
}

refusals! {
    /// Refusals of a change of a device group; it stays as it was.
    GroupRefusals {
        /// The body is not JSON; `line` says where.
        400 Malformed,
        /// No good access token.
        401 Unauthorized,
        /// The token is no operator's, not for this tenant, or itself limited to devices.
        403 Forbidden,
        /// The body did not arrive in time.
        408 Timeout,
        /// The tenant has as many groups as it may.
        409 TooManyGroups,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// The body is too large.
        413 TooLarge,
        /// Not application/json.
        415 MediaType,
        /// A parameter or a device is wrong, or there are too many devices.
        422 Parameter,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The group can't be stored now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// Refusals of a call about API keys.
    KeyRefusals {
        /// The body is not JSON; `line` says where.
        400 Malformed,
        /// No good access token.
        401 Unauthorized,
        /// The token is no operator's, not for this tenant, or limited itself.
        403 Forbidden,
        /// The body did not arrive in time.
        408 Timeout,
        /// The tenant has as many keys as it may, or the key is revoked or stands in the configuration.
        409 Conflict,
        /// The tenant was purged; its id is never used again.
        410 Gone,
        /// The body is too large.
        413 TooLarge,
        /// Not application/json.
        415 MediaType,
        /// A field is wrong; `field` names it.
        422 Field,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The change can't be stored now; see Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// Refusals of a purge.
    PurgeRefusals {
        /// No good access token.
        401 Unauthorized,
        /// The token is no super admin's.
        403 Forbidden,
        /// The tenant was purged before.
        410 Gone,
        /// `confirm` is missing or another id.
        422 Parameter,
        /// A limit is reached; see Retry-After.
        429 TooMany,
        /// The purge can't be stored, or not all of it yet; `detail` says which. See Retry-After.
        503 Unavailable,
    }
}

refusals! {
    /// There is no event to tell of.
    NoEvent {
        /// The tenant has no event with this cursor, or the caller may not know of it.
        404 Unknown,
        /// The event has expired.
        410 Expired,
    }
}

refusals! {
    /// What is named is not there.
    NothingThere {
        /// There is nothing of this name, or the caller may not know of it.
        404 Unknown,
    }
}

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Default::default);
        let bearer = || SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("access_token", bearer());
        components.add_security_scheme("api_key", bearer());
        let value = |name: &str| ApiKeyValue::new(name);
        components.add_security_scheme(
            "access_token_cookie",
            SecurityScheme::ApiKey(ApiKey::Cookie(value("access_token"))),
        );
        components.add_security_scheme(
            "stream_token",
            SecurityScheme::ApiKey(ApiKey::Query(value("token"))),
        );
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidings",
        description = "Streams what happens to a fleet of network devices, live and without loss, to everyone who may watch.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&Security),
    tags(
        (name = "streams", description = "Watching events as they happen"),
        (name = "events", description = "Publishing events and reading them back"),
        (name = "operators", description = "Open streams, device groups and tenants"),
        (name = "keys", description = "API keys of publishers"),
    )
)]
struct Base;

/// What the description begins with; the routes add themselves.
#[must_use]
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The methods that a path takes, as an `Allow` header has them (RFC 9110, section 10.2.1); the path with its
/// parameters as they are declared, under any mount. `None` where the description has no such path.
#[must_use]
pub fn allowed_methods(matched_path: &str) -> Option<&'static str> {
    static METHODS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let described = METHODS.get_or_init(|| {
        let (_, document) = crate::routes::api().split_for_parts();
        let methods = document.paths.paths.into_iter().map(|(path, item)| {
            let taken = [
                ("GET, HEAD", item.get.is_some()),
                ("POST", item.post.is_some()),
                ("PUT", item.put.is_some()),
                ("DELETE", item.delete.is_some()),
            ];
            let names: Vec<&str> = taken
                .iter()
                .filter_map(|(name, taken)| taken.then_some(*name))
                .collect();
            (path, names.join(", "))
        });
        methods.collect()
    });
    // A path can end like a longer one: `/streams` and `/tenants/{tenant_id}/streams`.
    described
        .iter()
        .filter(|(path, _)| matched_path.ends_with(path.as_str()))
        .max_by_key(|(path, _)| path.len())
        .map(|(_, methods)| methods.as_str())
}

/// The whole description, as JSON with a line break at its end.
///
/// # Panics
///
/// Never: the document is made of plain structs.
#[must_use]
pub fn document() -> String {
    let (_, document) = crate::routes::api().split_for_parts();
    let mut json = document.to_pretty_json().expect("plain structs");
    json.push('\n');
    json
}
