//! The header and claims of a token that is signed well: `HEADER \0 CLAIMS`, which the target signs.
//!
//! Promises: who is let in has a tenant or is a super admin, and its authority ends later than now; a claim
//! that bounds the view is never dropped.

#![no_main]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tidings::auth::AccessTokens;
use tidings_fuzz::deployment::{SECRET, deployment};
use tidings_fuzz::input;

/// Now, in Unix seconds.
const NOW: i64 = 1_700_000_000;

fuzz_target!(|bytes: &[u8]| {
    let [header, claims] = input::split(bytes);
    let header = if header.is_empty() {
        br#"{"alg":"HS256"}"#
    } else {
        header
    };
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    let tokens = AccessTokens::from_config(&deployment().config.auth).expect("a secret is there");
    let Ok(identity) = tokens.verify(&token, NOW) else {
        return;
    };
    assert!(identity.tenant.is_some() || identity.super_admin);
    assert!(identity.expires_at > NOW);
    let claims: Value = serde_json::from_slice(claims).expect("claims that are taken are JSON");
    assert_eq!(claims.get("devices").is_some(), identity.devices.is_some());
    assert_eq!(claims.get("types").is_some(), identity.types.is_some());
    let bounded = claims.get("device_group").is_some();
    assert_eq!(bounded, identity.device_group.is_some());
});
