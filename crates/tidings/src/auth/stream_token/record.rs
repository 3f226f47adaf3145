//! What stands in Redis for a stream token.
//!
//! Two layouts. Our own, `tidings:token:{SHA-256 of the token in hexadecimal}`, holds all that a stream must obey. The
//! shared one, `sse_token:{token}`, is that of another back end and says who the user is and nothing else. A token
//! of ours that goes there has a record under our own key too, so that here it keeps its `exp`, `iat` and `jti`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidings_protocol::{DeviceId, EventType, TenantId};

use crate::auth::claims;
use crate::auth::identity::Identity;
use crate::auth::{hexadecimal, sha256};

/// What the keys of our own layout begin with.
pub(super) const OWN_PREFIX: &str = "tidings:token:";

/// What the keys of the shared layout begin with.
pub(super) const SHARED_PREFIX: &str = "sse_token:";

/// The key of a token in our own layout. Who reads Redis's keys, or its slow log, learns no token.
pub(super) fn own_key(token: &str) -> String {
    format!("{OWN_PREFIX}{}", hexadecimal(&sha256(token.as_bytes())))
}

/// The key of a token in the shared layout.
pub(super) fn shared_key(token: &str) -> String {
    format!("{SHARED_PREFIX}{token}")
}

/// An identity in our own layout. A field that a newer version adds may be a bound, so an unknown one is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    user_id: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant_id: Option<TenantId>,
    role: Arc<str>,
    #[serde(default, skip_serializing_if = "is_false")]
    super_admin: bool,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    devices: Option<Arc<[DeviceId]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    types: Option<Arc<[EventType]>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_group: Option<Arc<str>>,
    /// The token stands under the shared key too, and whoever takes it from there has it.
    #[serde(default, skip_serializing_if = "is_false")]
    shared: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

/// The identity in our own layout; `shared` says that the token stands in the shared one too.
///
/// # Panics
///
/// Never: a plain structure can always be written.
#[must_use]
pub fn write_own(identity: &Identity, shared: bool) -> Vec<u8> {
    let record = Record {
        user_id: Arc::clone(&identity.user),
        tenant_id: identity.tenant,
        role: Arc::clone(&identity.role),
        super_admin: identity.super_admin,
        exp: identity.expires_at,
        iat: identity.issued_at,
        jti: identity.token_id.clone(),
        devices: identity.devices.clone(),
        types: identity.types.clone(),
        device_group: identity.device_group.clone(),
        shared,
    };
    serde_json::to_vec(&record).expect("a plain struct")
}

/// Reads what [`write_own`] wrote; `None` where it is something else.
#[must_use]
pub fn read_own(bytes: &[u8]) -> Option<(Identity, bool)> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let identity = Identity {
        user: record.user_id,
        tenant: record.tenant_id,
        role: record.role,
        super_admin: record.super_admin,
        expires_at: record.exp,
        issued_at: record.iat,
        token_id: record.jti,
        devices: record.devices,
        types: record.types,
        device_group: record.device_group,
    };
    // Only a super admin sees without a tenant; a record that says otherwise is not ours.
    (identity.super_admin || identity.tenant.is_some()).then_some((identity, record.shared))
}

/// Whether the shared layout can say all that bounds what the identity sees.
pub(super) fn fits_shared(identity: &Identity) -> bool {
    identity.devices.is_none() && identity.types.is_none() && identity.device_group.is_none()
}

/// The identity in the shared layout.
#[must_use]
pub fn write_shared(identity: &Identity) -> Vec<u8> {
    let tenant = identity.tenant.filter(|_| !identity.super_admin);
    // Keys in this order and spaces as Python's `json.dumps` sets them, for readers that compare texts.
    format!(
        "{{\"user_id\": {}, \"tenant_id\": {}, \"role\": {}}}",
        Value::from(&*identity.user),
        tenant.map_or(Value::Null, |tenant| tenant.to_string().into()),
        Value::from(&*identity.role),
    )
    .into_bytes()
}

/// Reads another back end's token. It says nothing of the end of its user's authority, which is `expires_at`
/// therefore, nor when that was given.
///
/// A field beyond the layout's three could be a bound that we do not know, so it is refused.
#[must_use]
pub fn read_shared(bytes: &[u8], super_admin_role: &str, expires_at: i64) -> Option<Identity> {
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let user = claims::user("user_id", &fields.remove("user_id")?).ok()?;
    let role = claims::bounded_text("role", &fields.remove("role")?).ok()?;
    let super_admin = *role == *super_admin_role;
    let tenant = match fields.remove("tenant_id") {
        None | Some(Value::Null) if super_admin => None,
        Some(Value::String(text)) => Some(text.parse().ok()?),
        _ => return None,
    };
    fields.is_empty().then_some(Identity {
        user,
        tenant,
        role,
        super_admin,
        expires_at,
        issued_at: None,
        token_id: None,
        devices: None,
        types: None,
        device_group: None,
    })
}

/// Whether what stands under the shared key is what a token of `identity` has there.
#[must_use]
pub fn is_shared_form_of(bytes: &[u8], identity: &Identity) -> bool {
    bytes == write_shared(identity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TENANT: &str = "11111111-1111-4111-8111-111111111111";

    fn texts() -> impl Strategy<Value = Arc<str>> {
        "\\PC{1,40}".prop_map(Arc::from)
    }

    prop_compose! {
        fn identities()(
            user in texts(),
            tenant in proptest::option::of(any::<[u8; 16]>()),
            role in texts(),
            super_admin: bool,
            expires_at in 0..1_i64 << 52,
            issued_at in proptest::option::of(0..1_i64 << 52),
            token_id in proptest::option::of(texts()),
            devices in proptest::option::of(proptest::collection::vec("[A-Za-z0-9_.:]{1,20}", 0..4)),
            types in proptest::option::of(proptest::collection::vec("[a-z][a-z0-9_]{9,20}", 0..4)),
            device_group in proptest::option::of(texts()),
        ) -> Identity {
            let super_admin = super_admin || tenant.is_none();
            Identity {
                user,
                tenant: tenant.map(TenantId::from_bytes),
                role,
                super_admin,
                expires_at,
                issued_at,
                token_id,
                devices: devices.map(|ids| ids.iter().map(|id| id.parse().unwrap()).collect()),
                types: types.map(|names| names.iter().map(|name| name.parse().unwrap()).collect()),
                device_group,
            }
        }
    }

    proptest! {
        #[test]
        fn our_own_layout_keeps_the_whole_identity(identity in identities(), shared: bool) {
            let read = read_own(&write_own(&identity, shared));
            prop_assert_eq!(read, Some((identity, shared)));
        }

        #[test]
        fn the_shared_layout_keeps_who_it_is(identity in identities()) {
            let written = write_shared(&identity);
            prop_assert!(is_shared_form_of(&written, &identity));
            let role = if identity.super_admin { &*identity.role } else { "nobody's role" };
            let read = read_shared(&written, role, 77).unwrap();
            prop_assert_eq!(&read.user, &identity.user);
            prop_assert_eq!(&read.role, &identity.role);
            prop_assert_eq!(read.super_admin, identity.super_admin);
            prop_assert_eq!(read.tenant, identity.tenant.filter(|_| !identity.super_admin));
            prop_assert_eq!(read.expires_at, 77);
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes: Vec<u8>) {
            let _ = read_own(&bytes);
            let _ = read_shared(&bytes, "super_admin", 0);
        }
    }

    fn shared(json: &str) -> Option<Identity> {
        read_shared(json.as_bytes(), "super_admin", 0)
    }

    #[test]
    fn a_shared_token_has_a_tenant_unless_its_role_sees_all() {
        let user = shared(&format!(
            r#"{{"user_id":"ada","tenant_id":"{TENANT}","role":"viewer"}}"#
        ));
        assert_eq!(user.unwrap().tenant, Some(TENANT.parse().unwrap()));
        let root = shared(r#"{"user_id":7,"tenant_id":null,"role":"super_admin"}"#).unwrap();
        assert!(root.super_admin && root.tenant.is_none());
        assert_eq!(&*root.user, "7");
        assert_eq!(
            shared(r#"{"user_id":"ada","tenant_id":null,"role":"viewer"}"#),
            None
        );
        assert_eq!(shared(r#"{"user_id":"ada","role":"viewer"}"#), None);
    }

    #[test]
    fn what_could_be_a_bound_is_never_passed_over() {
        let with = |field: &str| {
            shared(&format!(
                r#"{{"user_id":"ada","tenant_id":"{TENANT}","role":"viewer",{field}}}"#
            ))
        };
        assert_eq!(with(r#""devices":["r1"]"#), None);
        assert_eq!(with(r#""exp":1"#), None);
        let own =
            br#"{"user_id":"ada","role":"super_admin","super_admin":true,"exp":9,"sites":["a"]}"#;
        assert_eq!(read_own(own), None);
        assert_eq!(
            read_own(br#"{"user_id":"ada","role":"viewer","exp":9}"#),
            None
        );
    }

    #[test]
    fn the_shared_layout_is_written_as_the_other_back_end_writes_it() {
        let identity = Identity {
            tenant: Some(TENANT.parse().unwrap()),
            ..shared(r#"{"user_id":"ada","role":"super_admin"}"#).unwrap()
        };
        let tenants = Identity {
            super_admin: false,
            role: "viewer".into(),
            ..identity.clone()
        };
        assert_eq!(
            String::from_utf8(write_shared(&tenants)).unwrap(),
            format!(r#"{{"user_id": "ada", "tenant_id": "{TENANT}", "role": "viewer"}}"#)
        );
        assert_eq!(
            String::from_utf8(write_shared(&identity)).unwrap(),
            r#"{"user_id": "ada", "tenant_id": null, "role": "super_admin"}"#
        );
    }
}
