//! The one place where what went wrong becomes what a client is told.
//!
//! Domain errors know no HTTP; each is turned into a [`Refusal`] here, which is answered as
//! `application/problem+json`. What a log is told is another message, written where it happens.

use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tidings_log::AppendError;

use crate::jetstream::PublishError;
use tidings_protocol::Problem;

use crate::auth::AccessTokenError;
use crate::cluster::BucketError;
use crate::limits::LimitReached;

/// The sentence for a stream token that can't be used, whatever the reason: none of them is the
/// caller's to know.
pub const INVALID_STREAM_TOKEN: &str = "Invalid or expired SSE token";
/// The sentence for a tenant that the caller may not watch.
pub const WRONG_TENANT: &str = "Not authorized for this tenant";

/// A request that is not granted.
#[derive(Clone, Debug)]
pub struct Refusal {
    problem: Box<Problem>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Refusal {
    /// What the caller is told.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// A refusal with this status; the detail says what is wrong and what would be right.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self {
            problem: Box::new(Problem::new(status.as_u16(), title, detail)),
            retry_after: None,
            allow: None,
        }
    }

    /// 401.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 410 for a tenant that was purged.
    #[must_use]
    pub fn gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "the tenant was deleted; its id is never used again",
        )
    }

    /// 422 for a parameter of the path, the query or the head.
    #[must_use]
    pub fn parameter(parameter: &str, detail: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        refusal.problem.parameter = Some(parameter.to_owned());
        refusal
    }

    /// 503, with the time after which another try makes sense.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// 429, with the time after which another try makes sense.
    #[must_use]
    pub fn too_many(detail: impl Into<String>, retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }

    /// 405, with the methods that would do.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        }
    }

    /// 405 where this deployment only reads what others publish.
    #[must_use]
    pub fn read_only() -> Self {
        Self {
            allow: Some("GET, HEAD"),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this server only reads (log.layout = \"fleet\"): publish to the streams in NATS that it copies",
            )
        }
    }

    /// Names the line of the body that is meant, from 1.
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Self {
        self.problem.line = Some(line);
        self
    }

    /// Names the field of the body that is meant.
    #[must_use]
    pub fn at_field(mut self, field: &str) -> Self {
        self.problem.field = Some(field.to_owned());
        self
    }

    /// The status that will be answered.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.problem.status
    }

    /// The sentence that will be answered.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.problem.detail
    }
}

impl From<AccessTokenError> for Refusal {
    fn from(error: AccessTokenError) -> Self {
        match error {
            AccessTokenError::KeysUnavailable => {
                Self::unavailable(error.to_string(), Duration::from_secs(2))
            }
            _ => Self::unauthorized(error.to_string()),
        }
    }
}

impl From<LimitReached> for Refusal {
    fn from(limit: LimitReached) -> Self {
        Self {
            retry_after: Some(limit.retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, limit.to_string())
        }
    }
}

impl From<BucketError> for Refusal {
    fn from(error: BucketError) -> Self {
        const SOON: Duration = Duration::from_secs(2);
        tidings_log::seldom!(warn, %error, "a change of what all nodes share is refused");
        match error {
            BucketError::Unreachable { .. } => Self::unavailable(
                "NATS, which holds what all nodes share, can't be reached; whether the change is stored is not known, \
                 and to repeat it does no harm",
                SOON,
            ),
            BucketError::NotBack { .. } => Self::unavailable(
                "the change is stored, but this node has not heard of it yet and does not obey it; repeat it to know",
                SOON,
            ),
            BucketError::TooLarge { bytes, limit } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "this takes {bytes} bytes, and NATS takes {limit} in one message (its max_payload)"
                ),
            ),
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        const SOON: Duration = Duration::from_secs(5);
        match error {
            AppendError::KeyConflict { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this key was used for another event within the last two minutes; a new event needs a new key",
            )
            .at_field("key"),
            AppendError::KeyWindowFull => Self::unavailable(
                "too many idempotency keys within two minutes; try again, or publish without keys",
                SOON,
            ),
            AppendError::Full(_) => Self {
                retry_after: Some(SOON),
                ..Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "the disk under the log is full; nothing of this body is stored",
                )
            },
            AppendError::TooLarge { bytes, limit } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the log stores a body in one piece of at most {limit} bytes, and this one takes {bytes}; send smaller bodies"),
            ),
            AppendError::Failed(_) => Self::unavailable(
                "the log has stopped after a failed write; nothing of this body is acknowledged",
                SOON,
            ),
            AppendError::Purged => Self::gone(),
            AppendError::Unchained => Self::unavailable("an event before this one was not stored", SOON),
            AppendError::Closed => Self::unavailable("the server is stopping", SOON),
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        const SOON: Duration = Duration::from_secs(2);
        match error {
            PublishError::KeyConflict { index } => AppendError::KeyConflict { index }.into(),
            PublishError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            PublishError::Full { .. } => Self {
                retry_after: Some(SOON),
                ..Self::new(StatusCode::INSUFFICIENT_STORAGE, error.to_string())
            },
            PublishError::Empty => Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
            PublishError::Busy | PublishError::Unavailable { .. } | PublishError::Closed => {
                Self::unavailable(error.to_string(), SOON)
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*self.problem).expect("a plain struct");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(tidings_protocol::problem::CONTENT_TYPE),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            // Whole seconds (RFC 9110, section 10.2.3), and never "at once".
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(after.as_secs().max(1)),
            );
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For who writes down what was refused.
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
