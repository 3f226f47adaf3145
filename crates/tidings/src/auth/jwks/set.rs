//! From the text of a JWKS to keys that verify.
//!
//! A key counts with what it says of itself: another `use` than `sig`, a `key_ops` without `verify`, or an `alg` that
//! is no signature of its kind leaves it out. Symmetric keys (`oct`) are always left out, wherever the set comes from:
//! a set is for publishing, and whoever can read a secret can sign with it. So are keys that carry their private half.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::super::verifying_key::{Algorithms as _, VerifyingKey};

/// The most keys that are taken from a set: a token that names none is tried with each.
pub const MOST_KEYS: usize = 64;

/// The sizes of RSA keys that are taken, in bits (RFC 7518, section 3.3, and what can be verified in decent time).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of a set, and why others are left out.
#[derive(Debug)]
pub struct KeySet {
    /// Those that verify.
    pub keys: Vec<VerifyingKey>,
    /// A sentence for each, without its full stop.
    pub left_out: Vec<String>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// What is read of a key (RFC 7517, section 4; RFC 7518, section 6; RFC 8037). Hints to certificates are not.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    meant_for: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private half, of any kind.
    d: Option<Value>,
}

/// Reads a set, of which the algorithms in `configured` are accepted; none for the usual ones.
///
/// # Errors
///
/// The text is no JWKS. A set without any usable key is one.
pub fn read(text: &[u8], configured: &[Algorithm]) -> Result<KeySet, String> {
    let set: Set = serde_json::from_slice(text)
        .map_err(|_| "what was read is no JWKS, a JSON object with a list of keys".to_owned())?;
    let mut read = KeySet {
        keys: Vec::new(),
        left_out: Vec::new(),
    };
    for (index, jwk) in set.keys.into_iter().enumerate() {
        if read.keys.len() == MOST_KEYS {
            read.left_out
                .push(format!("there are more than {MOST_KEYS} keys"));
            break;
        }
        match key(jwk, configured) {
            Ok(key) => read.keys.push(key),
            Err(why) => read.left_out.push(format!("key {} {why}", index + 1)),
        }
    }
    Ok(read)
}

fn key(jwk: Value, configured: &[Algorithm]) -> Result<VerifyingKey, &'static str> {
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|_| "is no JWK")?;
    if jwk.meant_for.as_deref().is_some_and(|one| one != "sig") {
        return Err("is not for signatures (use)");
    }
    if jwk
        .key_ops
        .as_ref()
        .is_some_and(|ops| !ops.iter().any(|one| one == "verify"))
    {
        return Err("is not for verifying (key_ops)");
    }
    if jwk.d.is_some() {
        return Err("holds a private key, which whoever reads the set can sign with");
    }
    let (key, suits) = match &*jwk.kty {
        "RSA" => rsa(&jwk)?,
        "EC" => ec(&jwk)?,
        "OKP" => okp(&jwk)?,
        "oct" => return Err("is a shared secret (oct), which no JWKS may hold here"),
        _ => return Err("is of a kind that is not supported (kty)"),
    };
    let meant_for = match jwk.alg.as_deref() {
        None => None,
        // RFC 9864 names the curve.
        Some("Ed25519") => Some(Algorithm::EdDSA),
        Some(name) => Some(
            name.parse()
                .map_err(|_| "names an unknown algorithm (alg)")?,
        ),
    };
    if meant_for.is_some_and(|algorithm| !suits.contains(&algorithm)) {
        return Err("names an algorithm that is not of its kind (alg)");
    }
    let id = jwk.kid.map(String::into_boxed_str);
    VerifyingKey::of_jwks(key, suits, id, meant_for, configured)
        .ok_or("is for an algorithm that is not accepted here (alg)")
}

type Read = Result<(DecodingKey, &'static [Algorithm]), &'static str>;

fn rsa(jwk: &Jwk) -> Read {
    let wrong = "is no RSA key (n, e)";
    let modulus = number(jwk.n.as_deref()).ok_or(wrong)?;
    let exponent = number(jwk.e.as_deref()).ok_or(wrong)?;
    let first = modulus.first().ok_or(wrong)?;
    let bits = 8 * modulus.len() - first.leading_zeros() as usize;
    if !RSA_BITS.contains(&bits) {
        return Err("is an RSA key of fewer than 2048 or more than 8192 bits");
    }
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    // 1 verifies anything, and what is longer costs whoever verifies.
    if !odd(&modulus) || !odd(&exponent) || exponent == [1] || exponent.len() > 4 {
        return Err(wrong);
    }
    let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
    Ok((key, AlgorithmFamily::Rsa.algorithms_of()))
}

fn ec(jwk: &Jwk) -> Read {
    let (length, suits): (usize, &[Algorithm]) = match jwk.crv.as_deref() {
        Some("P-256") => (32, &[Algorithm::ES256]),
        Some("P-384") => (48, &[Algorithm::ES384]),
        _ => return Err("is of a curve that is not supported (crv)"),
    };
    // RFC 7518, section 6.2.1.2: the coordinates have the length of the field.
    let coordinate = |text: Option<&str>| bytes(text).filter(|bytes| bytes.len() == length);
    let (x, y) = coordinate(jwk.x.as_deref())
        .zip(coordinate(jwk.y.as_deref()))
        .ok_or("is no point of its curve (x, y)")?;
    let point = [&[4], &*x, &*y].concat();
    Ok((DecodingKey::from_ec_der(&point), suits))
}

fn okp(jwk: &Jwk) -> Read {
    if jwk.crv.as_deref() != Some("Ed25519") {
        return Err("is of a curve that is not supported (crv)");
    }
    let point = bytes(jwk.x.as_deref()).filter(|bytes| bytes.len() == 32);
    let point = point.ok_or("is no point of its curve (x)")?;
    let key = DecodingKey::from_ed_der(&point);
    Ok((key, AlgorithmFamily::Ed.algorithms_of()))
}

fn bytes(text: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

/// A number in its bytes, the highest first, without zeros before them.
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn modulus(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    fn usable_rsa() -> Value {
        json!({"kty": "RSA", "n": modulus(256), "e": "AQAB", "kid": "one"})
    }

    fn with(mut jwk: Value, changes: &[(&str, Value)]) -> Value {
        for (name, value) in changes {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn read_one(jwk: &Value, configured: &[Algorithm]) -> Result<VerifyingKey, String> {
        let text = json!({"keys": [jwk]}).to_string();
        let mut set = read(text.as_bytes(), configured).unwrap();
        set.keys.pop().ok_or_else(|| set.left_out.remove(0))
    }

    #[test]
    fn a_key_is_used_with_the_algorithm_that_it_names_and_else_with_the_usual_one() {
        let accepted = |jwk: &Value, configured: &[Algorithm]| {
            let key = read_one(jwk, configured).unwrap();
            let all = [
                Algorithm::HS256,
                Algorithm::RS256,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::ES256,
            ];
            let accepted = all.into_iter().filter(|one| key.accepts(*one));
            accepted.collect::<Vec<_>>()
        };
        let plain = usable_rsa();
        assert_eq!(accepted(&plain, &[]), [Algorithm::RS256]);
        let named = with(plain.clone(), &[("alg", json!("PS256"))]);
        assert_eq!(accepted(&named, &[]), [Algorithm::PS256]);
        let two = [Algorithm::RS512, Algorithm::PS256];
        assert_eq!(accepted(&plain, &two), two);
        assert_eq!(accepted(&named, &two), [Algorithm::PS256]);
        assert!(read_one(&named, &[Algorithm::RS256]).is_err());
    }

    #[test]
    fn what_is_no_public_signature_key_is_left_out() {
        let short = with(usable_rsa(), &[("n", json!(modulus(128)))]);
        let padded = URL_SAFE_NO_PAD.encode([vec![0; 128], vec![0xff; 128]].concat());
        let point = URL_SAFE_NO_PAD.encode([7; 32]);
        let cases = [
            with(usable_rsa(), &[("use", json!("enc"))]),
            with(usable_rsa(), &[("key_ops", json!(["encrypt"]))]),
            with(usable_rsa(), &[("alg", json!("HS256"))]),
            with(usable_rsa(), &[("alg", json!("ES256"))]),
            with(usable_rsa(), &[("alg", json!("none"))]),
            with(usable_rsa(), &[("alg", json!("RSA-OAEP"))]),
            with(usable_rsa(), &[("d", json!("AQAB"))]),
            with(usable_rsa(), &[("e", json!("AQ"))]),
            with(usable_rsa(), &[("e", json!("Ag"))]),
            with(usable_rsa(), &[("n", json!(padded))]),
            with(usable_rsa(), &[("n", json!(modulus(1025)))]),
            with(usable_rsa(), &[("kid", json!(7))]),
            short,
            json!({"kty": "oct", "k": point}),
            json!({"kty": "oct", "k": point, "alg": "HS256", "use": "sig"}),
            json!({"kty": "EC", "crv": "P-256", "x": point}),
            json!({"kty": "EC", "crv": "P-384", "x": point, "y": point}),
            json!({"kty": "EC", "crv": "P-521", "x": point, "y": point}),
            json!({"kty": "OKP", "crv": "X25519", "x": point}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
            json!("RSA"),
            json!({}),
        ];
        for jwk in cases {
            assert!(read_one(&jwk, &[]).is_err(), "{jwk}");
        }
    }

    #[test]
    fn one_key_that_is_of_no_use_does_not_spoil_the_others() {
        let point = URL_SAFE_NO_PAD.encode([7; 32]);
        let text = json!({"keys": [
            {"kty": "oct", "k": "c2VjcmV0"},
            usable_rsa(),
            {"kty": "new", "kid": "later"},
            {"kty": "EC", "crv": "P-256", "x": point, "y": point, "use": "sig", "key_ops": ["verify"]},
            {"kty": "OKP", "crv": "Ed25519", "x": point, "alg": "Ed25519", "x5c": ["MIIB"]},
        ], "extra": 1});
        let set = read(text.to_string().as_bytes(), &[]).unwrap();
        assert_eq!(set.keys.len(), 3);
        assert_eq!(set.left_out.len(), 2);
        assert_eq!(set.keys[0].id(), Some("one"));
        assert!(!format!("{set:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn what_is_no_set_is_refused_and_a_long_one_is_cut() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(read(text.as_bytes(), &[]).is_err(), "{text}");
        }
        assert!(read(br#"{"keys":[]}"#, &[]).unwrap().keys.is_empty());
        let text = json!({ "keys": vec![usable_rsa(); MOST_KEYS + 5] }).to_string();
        assert_eq!(read(text.as_bytes(), &[]).unwrap().keys.len(), MOST_KEYS);
    }
}
