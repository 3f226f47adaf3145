//! The audit log.

use http_body_util::{BodyExt as _, Limited};
use hyper::Method;
use tidings_protocol::TenantId;
use tidings_protocol::audit::AuditEntry;

use crate::client::{ANSWER_TIMEOUT, Client};
use crate::error::ClientError;
use crate::request::Target;

/// The largest page that is read, in bytes; the server's are far smaller.
const MAX_PAGE: usize = 64 << 20;

/// Which part of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    /// Only entries of this tenant.
    pub tenant: Option<TenantId>,
    /// Only entries behind this one, by its `id`.
    pub after: Option<u64>,
    /// Begin with this time, RFC 3339.
    pub since: Option<String>,
    /// End before this time, RFC 3339.
    pub until: Option<String>,
    /// At most so many, 1 to 10,000; the server's own default is 1,000.
    pub limit: Option<u16>,
}

impl Client {
    /// A page of the audit log of the node that answers: `GET /audit`. One without entries is the end.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's.
    pub async fn audit(&self, options: &AuditOptions) -> Result<Vec<AuditEntry>, ClientError> {
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        let tenant = options.tenant.map(|tenant| tenant.to_string());
        let target = Target::new("/audit")
            .with("tenant", tenant.as_deref())
            .with("after", text(options.after).as_deref())
            .with("since", options.since.as_deref())
            .with("until", options.until.as_deref())
            .with("limit", text(options.limit.map(u64::from)).as_deref());
        let access_token = self.access().get().await?;
        let server = self.server();
        let response = server
            .send(
                Method::GET,
                target,
                Some(&access_token),
                None,
                ANSWER_TIMEOUT,
            )
            .await?;
        let body = Limited::new(response.into_body(), MAX_PAGE).collect();
        let body = tokio::time::timeout(ANSWER_TIMEOUT, body)
            .await
            .map_err(|_| server.silent(ANSWER_TIMEOUT))?
            .map_err(|error| server.unexpected(error.to_string()))?
            .to_bytes();
        let lines = body.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).map_err(|error| server.unexpected(error.to_string()))
            })
            .collect()
    }
}
