//! Where the access token comes from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::ClientError;

/// Any error, as a token source may have it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Answer = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// The source of the access token (a JWT, or a publisher's API key) that requests show.
///
/// Its `Debug` never shows the token.
#[derive(Clone)]
pub struct AccessToken(Source);

#[derive(Clone)]
enum Source {
    Fixed(Arc<str>),
    Provider(Arc<dyn Fn() -> Answer + Send + Sync>),
}

impl AccessToken {
    /// Always the same token.
    #[must_use]
    pub fn fixed(token: &str) -> Self {
        Self(Source::Fixed(token.into()))
    }

    /// Asks `provider` before every request, so that a stream outlives the token that opened it.
    /// A provider that is costly to ask keeps its token itself until shortly before its `exp`.
    pub fn provider<F, R>(provider: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self(Source::Provider(Arc::new(move || Box::pin(provider()))))
    }

    pub(crate) async fn get(&self) -> Result<String, ClientError> {
        match &self.0 {
            Source::Fixed(token) => Ok(token.to_string()),
            Source::Provider(provider) => provider().await.map_err(ClientError::AccessToken),
        }
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            Source::Fixed(_) => "AccessToken(fixed)",
            Source::Provider(_) => "AccessToken(provider)",
        })
    }
}
