//! What can go wrong between a client and its server.

use std::time::Duration;

use tidings_protocol::Problem;
use tidings_protocol::sse::TooLong;

use crate::access::BoxError;

/// A request or a stream that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL can't be used.
    #[error("{url:?} is no base URL of a server: {reason}")]
    InvalidUrl {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS can't be spoken: there are no authorities to trust, or the file that names them can't be used.
    #[error("no TLS: {0}")]
    NoTls(String),
    /// The access token's source failed, or its text can't stand in a header.
    #[error("no access token: {0}")]
    AccessToken(#[source] BoxError),
    /// The server can't be reached, or the connection broke.
    #[error("connection to {server} failed: {}", chain(.source.as_ref()))]
    Connection {
        /// Host and port.
        server: String,
        /// The cause.
        source: BoxError,
    },
    /// The server did not answer, or an open stream stayed without a byte.
    #[error("nothing came from {server} within {} s", .after.as_secs_f64())]
    Silent {
        /// Host and port.
        server: String,
        /// How long was waited.
        after: Duration,
    },
    /// The server refused.
    #[error("{} ({}): {}{}", .problem.title, .problem.status, .problem.detail, place(.problem))]
    Refused {
        /// Its answer.
        problem: Box<Problem>,
        /// Its `Retry-After`, where it gave one in seconds.
        retry_after: Option<Duration>,
    },
    /// Whoever answered does not speak this protocol.
    #[error("unexpected answer from {server}: {reason}")]
    Unexpected {
        /// Host and port.
        server: String,
        /// What was unexpected.
        reason: String,
    },
    /// An event of a stream was longer than the client accepts.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

impl ClientError {
    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { problem, .. } => Some(problem.status),
            _ => None,
        }
    }

    /// The server's problem, where it refused.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// True where the same request can succeed later: the server is away, busy or failing. A
    /// refusal for what was asked or who asked is final.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::AccessToken(_) | Self::Connection { .. } | Self::Silent { .. } => true,
            Self::Refused { problem, .. } => {
                matches!(problem.status, 408 | 425 | 429 | 500..=599) && problem.status != 501
            }
            Self::InvalidUrl { .. }
            | Self::NoTls(_)
            | Self::Unexpected { .. }
            | Self::TooLong(_) => false,
        }
    }

    /// How long the server asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// An error with its causes: hyper's own text says only "client error (Connect)".
fn chain(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn place(problem: &Problem) -> String {
    let mut places = Vec::new();
    if let Some(parameter) = &problem.parameter {
        places.push(format!("parameter {parameter}"));
    }
    if let Some(line) = problem.line {
        places.push(format!("line {line}"));
    }
    if let Some(field) = &problem.field {
        places.push(format!("field {field}"));
    }
    if places.is_empty() {
        String::new()
    } else {
        format!(" [{}]", places.join(", "))
    }
}
