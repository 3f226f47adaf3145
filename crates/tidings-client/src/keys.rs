//! Operators' calls about publishers' API keys.

use hyper::Method;
use serde::Serialize;
use tidings_protocol::keys::{IssuedKey, KeyList, KeyRotation, NewKey};

use crate::client::{Client, JSON};
use crate::error::ClientError;
use crate::request::Target;

impl Client {
    /// The API keys that the caller may know of: `GET /keys`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's.
    pub async fn keys(&self) -> Result<KeyList, ClientError> {
        self.ask_for(Method::GET, Target::new("/keys"), None).await
    }

    /// Makes an API key: `POST /keys`. It is in the answer and never shown again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 for tenants or types that are not the caller's to give, 409 where the tenant
    /// has as many keys as it may.
    pub async fn create_key(&self, key: &NewKey) -> Result<IssuedKey, ClientError> {
        let body = self.json(key)?;
        self.ask_for(Method::POST, Target::new("/keys"), Some((JSON, body)))
            .await
    }

    /// Gives an API key a new secret: `POST /keys/{id}/rotate`. The key is in the answer and never shown again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such key, 409 where it was revoked.
    pub async fn rotate_key(
        &self,
        id: &str,
        rotation: &KeyRotation,
    ) -> Result<IssuedKey, ClientError> {
        let body = self.json(rotation)?;
        let target = Target::new("/keys").segment(id).segment("rotate");
        self.ask_for(Method::POST, target, Some((JSON, body))).await
    }

    /// Revokes an API key, for good: `DELETE /keys/{id}`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such key.
    pub async fn revoke_key(&self, id: &str) -> Result<(), ClientError> {
        let target = Target::new("/keys").segment(id);
        self.command(Method::DELETE, target, None).await
    }

    fn json(&self, body: &impl Serialize) -> Result<bytes::Bytes, ClientError> {
        let json = serde_json::to_vec(body);
        json.map(Into::into)
            .map_err(|error| self.server().unexpected(error.to_string()))
    }
}
