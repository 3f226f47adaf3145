//! Operators' calls: open streams, the audience of an event, tenants, device groups.

use hyper::Method;
use tidings_protocol::operate::{
    AccessRevoked, Audience, ConnectionRevoked, DeviceGroup, DeviceGroupList, StreamList,
    TenantList, TenantPurge,
};
use tidings_protocol::{DeviceId, TenantId};

use crate::client::{ANSWER_TIMEOUT, Client, JSON};
use crate::error::ClientError;
use crate::request::Target;

/// Which open streams to list.
#[derive(Clone, Debug, Default)]
pub struct StreamListOptions {
    /// Only those that show this tenant and no other.
    pub tenant: Option<TenantId>,
    /// Only those of this user.
    pub user: Option<String>,
    /// Only those behind this one; the `next` of the page before.
    pub after: Option<String>,
    /// At most so many, 1 to 1,000; the server's own default is 100.
    pub limit: Option<u16>,
}

impl Client {
    /// One page of the open streams: `GET /streams`. Its `next` is the `after` of the page behind it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's.
    pub async fn open_streams(
        &self,
        options: &StreamListOptions,
    ) -> Result<StreamList, ClientError> {
        let tenant = options.tenant.map(|tenant| tenant.to_string());
        let limit = options.limit.map(|limit| limit.to_string());
        let target = Target::new("/streams")
            .with("tenant", tenant.as_deref())
            .with("user", options.user.as_deref())
            .with("after", options.after.as_deref())
            .with("limit", limit.as_deref());
        self.ask_for(Method::GET, target, None).await
    }

    /// Ends an open stream: `DELETE /streams/{connection_id}`. Whoever has a valid access token may come
    /// back at once.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such stream that the operator may know of.
    pub async fn disconnect(&self, connection_id: &str) -> Result<(), ClientError> {
        let target = Target::new("/streams").segment(connection_id);
        self.command(Method::DELETE, target, None).await
    }

    /// Ends an open stream, and revokes the access token that opened it where that has an id (`jti`):
    /// `DELETE /streams/{connection_id}?revoke=true`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such stream that the operator may know of.
    pub async fn revoke_connection(
        &self,
        connection_id: &str,
    ) -> Result<ConnectionRevoked, ClientError> {
        let target = Target::new("/streams")
            .segment(connection_id)
            .with("revoke", Some("true"));
        self.ask_for(Method::DELETE, target, None).await
    }

    /// Revokes the access tokens of a user that were issued up to now, and ends the streams that they opened:
    /// `DELETE /users/{user_id}/streams`. With a tenant only that tenant's user is meant.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's, or not this tenant's.
    pub async fn revoke_user(
        &self,
        user: &str,
        tenant: Option<TenantId>,
    ) -> Result<AccessRevoked, ClientError> {
        let tenant = tenant.map(|tenant| tenant.to_string());
        let target = Target::new("/users")
            .segment(user)
            .segment("streams")
            .with("tenant", tenant.as_deref());
        self.ask_for(Method::DELETE, target, None).await
    }

    /// Revokes the access tokens of all users of a tenant but super admins that were issued up to now, and
    /// ends the streams that they opened: `DELETE /tenants/{tenant_id}/streams`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's, or not this tenant's.
    pub async fn revoke_tenant(&self, tenant: TenantId) -> Result<AccessRevoked, ClientError> {
        let target = Target::new(format!("/tenants/{tenant}/streams"));
        self.ask_for(Method::DELETE, target, None).await
    }

    /// Revokes the access token with this id (`jti`), and ends the streams that it opened:
    /// `DELETE /tokens/{token_id}/streams`. With a tenant only where it is that tenant's.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's, or not this tenant's.
    pub async fn revoke_token(
        &self,
        token_id: &str,
        tenant: Option<TenantId>,
    ) -> Result<AccessRevoked, ClientError> {
        let tenant = tenant.map(|tenant| tenant.to_string());
        let target = Target::new("/tokens")
            .segment(token_id)
            .segment("streams")
            .with("tenant", tenant.as_deref());
        self.ask_for(Method::DELETE, target, None).await
    }

    /// One page of the streams that were shown an event, and of those that were not:
    /// `GET /tenants/{tenant_id}/events/{cursor}/audience`. `after` is the `next` of the page before.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where the tenant has no such event, 410 where it has expired.
    pub async fn audience(
        &self,
        tenant: TenantId,
        cursor: &str,
        after: Option<&str>,
        limit: Option<u16>,
    ) -> Result<Audience, ClientError> {
        let limit = limit.map(|limit| limit.to_string());
        let target = Target::new(format!("/tenants/{tenant}/events"))
            .segment(cursor)
            .segment("audience")
            .with("after", after)
            .with("limit", limit.as_deref());
        self.ask_for(Method::GET, target, None).await
    }

    /// One page of the tenants, of which a tenant's operator is told its own only: `GET /tenants`. `after` is
    /// the `next` of the page before.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no operator's.
    pub async fn tenants(
        &self,
        after: Option<&str>,
        limit: Option<u16>,
    ) -> Result<TenantList, ClientError> {
        let limit = limit.map(|limit| limit.to_string());
        let target = Target::new("/tenants")
            .with("after", after)
            .with("limit", limit.as_deref());
        self.ask_for(Method::GET, target, None).await
    }

    /// Purges a tenant, for good: `DELETE /tenants/{tenant_id}`. `confirm` is the same id once more. When it
    /// answers, the tenant is refused and hidden on every path; its events are gone from the disk a while
    /// later, which [`Client::tenants`] tells.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 403 where the access token is no super admin's, 410 where the tenant was
    /// purged before, 422 where `confirm` is another id.
    pub async fn purge_tenant(
        &self,
        tenant: TenantId,
        confirm: TenantId,
    ) -> Result<TenantPurge, ClientError> {
        let target =
            Target::new(format!("/tenants/{tenant}")).with("confirm", Some(&confirm.to_string()));
        self.ask_for(Method::DELETE, target, None).await
    }

    /// A tenant's device groups, by name: `GET /tenants/{tenant_id}/device-groups`.
    pub async fn device_groups(&self, tenant: TenantId) -> Result<DeviceGroupList, ClientError> {
        self.ask_for(Method::GET, groups(tenant), None).await
    }

    /// The devices of a group: `GET /tenants/{tenant_id}/device-groups/{name}`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such group.
    pub async fn device_group(
        &self,
        tenant: TenantId,
        name: &str,
    ) -> Result<DeviceGroup, ClientError> {
        let target = groups(tenant).segment(name);
        self.ask_for(Method::GET, target, None).await
    }

    /// Makes these devices the group: `PUT /tenants/{tenant_id}/device-groups/{name}`. When it answers, no
    /// stream that the group bounds shows what it showed before.
    pub async fn put_device_group(
        &self,
        tenant: TenantId,
        name: &str,
        devices: Vec<DeviceId>,
    ) -> Result<(), ClientError> {
        let body = serde_json::to_vec(&DeviceGroup { devices })
            .map_err(|error| self.server().unexpected(error.to_string()))?;
        let target = groups(tenant).segment(name);
        self.command(Method::PUT, target, Some((JSON, body.into())))
            .await
    }

    /// Removes a group: `DELETE /tenants/{tenant_id}/device-groups/{name}`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with 404 where there is no such group.
    pub async fn remove_device_group(
        &self,
        tenant: TenantId,
        name: &str,
    ) -> Result<(), ClientError> {
        let target = groups(tenant).segment(name);
        self.command(Method::DELETE, target, None).await
    }

    /// Asks for what has no body in its answer.
    pub(crate) async fn command(
        &self,
        method: Method,
        target: Target,
        body: Option<(&'static str, bytes::Bytes)>,
    ) -> Result<(), ClientError> {
        let access_token = self.access().get().await?;
        let answered = self
            .server()
            .send(method, target, Some(&access_token), body, ANSWER_TIMEOUT)
            .await;
        answered.map(drop)
    }
}

fn groups(tenant: TenantId) -> Target {
    Target::new(format!("/tenants/{tenant}/device-groups"))
}
