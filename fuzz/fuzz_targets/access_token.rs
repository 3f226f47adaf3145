//! An access token as whoever has no key would make it up.
//!
//! Promise: nothing is taken whose signed part was not signed with the deployment's secret, whatever
//! its header says.

#![no_main]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use tidings::auth::AccessTokens;
use tidings_fuzz::deployment::{SECRET, deployment};
use tidings_fuzz::input;

fuzz_target!(|bytes: &[u8]| {
    let Some(token) = input::text(bytes) else {
        return;
    };
    let tokens = AccessTokens::from_config(&deployment().config.auth).expect("a secret is there");
    if tokens.verify(token, 0).is_err() {
        return;
    }
    let (message, signature) = token.rsplit_once('.').expect("a token has three parts");
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .expect("a signature is base64url");
    let signed = [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512]
        .into_iter()
        .any(|algorithm| {
            let key = hmac::Key::new(algorithm, SECRET.as_bytes());
            hmac::verify(&key, message.as_bytes(), &signature).is_ok()
        });
    assert!(signed, "taken without the secret: {token}");
});
