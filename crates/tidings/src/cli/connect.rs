//! Which server, and who one is there.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use tidings_client::{AccessToken, Client};
use tidings_protocol::TenantId;

use super::Failure;

/// The server that a client command talks to.
#[derive(Clone, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ConnectArgs {
    /// The server's base URL
    #[arg(
        long,
        value_name = "URL",
        env = "TIDINGS_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// A PEM file with authorities to trust at an https:// URL, besides the system's
    #[arg(long, value_name = "FILE", env = "TIDINGS_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The access token (a JWT) or, to publish, an API key; best given as the variable, since other users of
    /// a machine can see the arguments of a command
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TIDINGS_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// The tenant; where the access token names one, that is the default
    #[arg(long, value_name = "UUID", env = "TIDINGS_TENANT")]
    tenant: Option<TenantId>,
}

impl std::fmt::Debug for ConnectArgs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ConnectArgs")
            .field("url", &self.url)
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

impl ConnectArgs {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn client(&self) -> Result<Client, Failure> {
        let token = self.token.as_deref().map(str::trim).unwrap_or_default();
        if token.is_empty() {
            return Err(Failure::new(
                "no access token; give --token or set TIDINGS_TOKEN (`tidings token` mints one for development)",
            ));
        }
        let access = AccessToken::fixed(token);
        let ca_file = self
            .ca_file
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        Ok(Client::trusting(&self.url, access, ca_file)?)
    }

    /// The tenant that was given, else the one that the access token names.
    pub(super) fn tenant(&self) -> Option<TenantId> {
        self.tenant
            .or_else(|| self.token.as_deref().and_then(tenant_of))
    }

    pub(super) fn required_tenant(&self) -> Result<TenantId, Failure> {
        self.tenant().ok_or_else(|| {
            Failure::new(
                "no tenant; give --tenant or set TIDINGS_TENANT, since the token names none",
            )
        })
    }
}

/// The `tenant_id` of a JWT, unverified: a default for the user's convenience, which the server checks.
pub(super) fn tenant_of(token: &str) -> Option<TenantId> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    claims.get("tenant_id")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_of_a_token_is_the_default() {
        let tenant = "11111111-1111-4111-8111-111111111111";
        let payload = URL_SAFE_NO_PAD.encode(format!("{{\"tenant_id\":\"{tenant}\"}}"));
        assert_eq!(
            tenant_of(&format!("e30.{payload}.c2ln"))
                .unwrap()
                .to_string(),
            tenant
        );
        for token in ["", "tdk_a_b", "a.b.c", "e30.e30.e30"] {
            assert_eq!(tenant_of(token), None, "{token}");
        }
    }
}
