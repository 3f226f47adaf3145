//! The text of a JWKS, as whoever an issuer's address leads to might give it.
//!
//! Promises: no more keys than are allowed, each other one with a reason; none verifies anything with an algorithm of
//! shared secrets, also where those are accepted, since who reads the set could sign with it; none takes nonsense.

#![no_main]

use jsonwebtoken::Algorithm;
use libfuzzer_sys::fuzz_target;
use tidings::auth::jwks::set::{self, MOST_KEYS};

const SECRETS: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fuzz_target!(|bytes: &[u8]| {
    let all: Vec<_> = SECRETS.into_iter().chain(PUBLIC).collect();
    for configured in [&[][..], &all] {
        let Ok(set) = set::read(bytes, configured) else {
            continue;
        };
        assert!(set.keys.len() <= MOST_KEYS);
        for key in &set.keys {
            assert!(!SECRETS.into_iter().any(|algorithm| key.accepts(algorithm)));
            assert!(PUBLIC.into_iter().any(|algorithm| key.accepts(algorithm)));
            for algorithm in &all {
                for signature in ["", "Wlpa", "=", "\u{e9}"] {
                    assert!(!key.verifies(*algorithm, bytes, signature));
                }
            }
        }
    }
});
