//! What stands in Redis for a stream token, in our own layout and in that of another back end.
//!
//! Promises: nobody without a tenant but a super admin comes out of it; what was read is written and read again as the
//! same; a field that is not known, which could be a bound, refuses the whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};
use tidings::auth::Identity;
use tidings::auth::stream_token::record;

const SUPER_ADMIN: &str = "super_admin";

fuzz_target!(|bytes: &[u8]| {
    if let Some((identity, shared)) = record::read_own(bytes) {
        assert!(identity.super_admin || identity.tenant.is_some());
        let written = record::write_own(&identity, shared);
        assert_eq!(record::read_own(&written), Some((identity, shared)));
    }
    if let Some(identity) = record::read_shared(bytes, SUPER_ADMIN, 77) {
        assert!(identity.super_admin || identity.tenant.is_some());
        assert_eq!(identity.super_admin, &*identity.role == SUPER_ADMIN);
        assert_eq!(identity.expires_at, 77);
        let written = record::write_shared(&identity);
        assert!(record::is_shared_form_of(&written, &identity));
        let tenant = identity.tenant.filter(|_| !identity.super_admin);
        let again = Identity { tenant, ..identity };
        assert_eq!(record::read_shared(&written, SUPER_ADMIN, 77), Some(again));
    }
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return;
    };
    fields.insert("sites".to_owned(), Value::Null);
    let longer = Value::Object(fields).to_string();
    assert_eq!(record::read_own(longer.as_bytes()), None);
    assert_eq!(
        record::read_shared(longer.as_bytes(), SUPER_ADMIN, 77),
        None
    );
});
