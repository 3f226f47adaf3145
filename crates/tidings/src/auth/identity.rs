//! What an access token says of its user.

use std::sync::Arc;

use tidings_protocol::{DeviceId, EventType, TenantId};

/// A verified user and the bounds of what it may see: the authority under which a stream runs.
///
/// Its bounds are `None` where the access token has no such claim. A claim that is present but could not
/// be read never becomes `None`: such a token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user's id, 1 to 256 bytes without control characters.
    pub user: Arc<str>,
    /// The tenant that the user belongs to; only a super admin may have none.
    pub tenant: Option<TenantId>,
    /// The role as the token names it.
    pub role: Arc<str>,
    /// Whether the role is the one that sees all tenants.
    pub super_admin: bool,
    /// When the authority ends, in Unix seconds; it is over at this second.
    pub expires_at: i64,
    /// When the access token was issued, in Unix seconds.
    pub issued_at: Option<i64>,
    /// The access token's id, by which it can be revoked.
    pub token_id: Option<Arc<str>>,
    /// The only devices whose events may be seen.
    pub devices: Option<Arc<[DeviceId]>>,
    /// The only event types that may be seen.
    pub types: Option<Arc<[EventType]>>,
    /// The device group whose devices may be seen, beside [`devices`](Self::devices).
    pub device_group: Option<Arc<str>>,
}

impl Identity {
    /// The tenant whose share it is when this identity reads; `None` for a super admin, who is no tenant's.
    #[must_use]
    pub fn reads_for(&self) -> Option<TenantId> {
        self.tenant.filter(|_| !self.super_admin)
    }

    /// The only devices whose events may be seen, or `None` for all.
    ///
    /// The view is the union of the `devices` claim and of `group`, the members of the claimed group. A
    /// group that does not exist has none, so that alone it leaves nothing to be seen. Without the claim
    /// `group` counts for nothing.
    #[must_use]
    pub fn allowed_devices(&self, group: &[DeviceId]) -> Option<Arc<[DeviceId]>> {
        match (&self.devices, &self.device_group) {
            (None, None) => None,
            (Some(devices), None) => Some(Arc::clone(devices)),
            (Some(devices), Some(_)) if group.is_empty() => Some(Arc::clone(devices)),
            (Some(devices), Some(_)) => Some(devices.iter().chain(group).cloned().collect()),
            (None, Some(_)) => Some(group.into()),
        }
    }

    /// Whether the authority is over at `now`, in Unix seconds (RFC 7519, section 4.1.4).
    #[must_use]
    pub fn expired(&self, now: i64) -> bool {
        now >= self.expires_at
    }

    /// About how many bytes it takes in memory.
    #[must_use]
    pub fn weight(&self) -> usize {
        // An `Arc<str>` is two words for its counts, its text and two words where it is held.
        const TEXT: usize = 32;
        let texts = [
            Some(&self.user),
            Some(&self.role),
            self.token_id.as_ref(),
            self.device_group.as_ref(),
        ];
        let of_texts: usize = texts
            .into_iter()
            .flatten()
            .map(|text| TEXT + text.len())
            .sum();
        let of_devices: usize = self
            .devices
            .iter()
            .flat_map(|devices| devices.iter())
            .map(|device| TEXT + device.as_str().len())
            .sum();
        let of_types: usize = self
            .types
            .iter()
            .flat_map(|types| types.iter())
            .map(|event_type| TEXT + event_type.as_str().len())
            .sum();
        size_of::<Self>() + of_texts + of_devices + of_types
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(devices: Option<&[&str]>, device_group: Option<&str>) -> Identity {
        Identity {
            user: "ada".into(),
            tenant: Some(TenantId::from_bytes([1; 16])),
            role: "viewer".into(),
            super_admin: false,
            expires_at: 100,
            issued_at: None,
            token_id: None,
            devices: devices.map(|ids| ids.iter().map(|id| id.parse().unwrap()).collect()),
            types: None,
            device_group: device_group.map(Into::into),
        }
    }

    fn allowed(devices: Option<&[&str]>, group: Option<&str>) -> Option<Vec<String>> {
        allowed_with(devices, group, &[])
    }

    fn allowed_with(
        devices: Option<&[&str]>,
        group: Option<&str>,
        members: &[&str],
    ) -> Option<Vec<String>> {
        let members: Vec<DeviceId> = members.iter().map(|id| id.parse().unwrap()).collect();
        identity(devices, group)
            .allowed_devices(&members)
            .map(|devices| devices.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_a_user_without_either_claim_sees_all_devices() {
        assert_eq!(allowed(None, None), None);
        assert_eq!(allowed(Some(&[]), None), Some(vec![]));
        assert_eq!(allowed(Some(&["r1"]), None), Some(vec!["r1".to_owned()]));
        assert_eq!(allowed(None, Some("core")), Some(vec![]));
        assert_eq!(
            allowed(Some(&["r1"]), Some("core")),
            Some(vec!["r1".to_owned()])
        );
    }

    #[test]
    fn a_group_adds_its_members_only_where_it_is_claimed() {
        let both = Some(vec!["r1".to_owned(), "r2".to_owned()]);
        assert_eq!(allowed_with(Some(&["r1"]), Some("core"), &["r2"]), both);
        assert_eq!(
            allowed_with(None, Some("core"), &["r2"]),
            Some(vec!["r2".to_owned()])
        );
        assert_eq!(
            allowed_with(Some(&["r1"]), None, &["r2"]),
            Some(vec!["r1".to_owned()])
        );
        assert_eq!(allowed_with(None, None, &["r2"]), None);
    }

    #[test]
    fn authority_is_over_at_the_second_it_names() {
        assert!(!identity(None, None).expired(99));
        assert!(identity(None, None).expired(100));
    }

    #[test]
    fn every_listed_device_weighs() {
        let none = identity(None, None).weight();
        let two = identity(Some(&["r1", "r2"]), None).weight();
        assert!(two >= none + 2 * 34, "{none} {two}");
    }
}
