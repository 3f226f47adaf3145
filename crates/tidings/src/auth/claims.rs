//! Reading and writing claims under configured names.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::access_token::AccessTokenError;

/// The claims of a token whose signature is verified.
pub(super) struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// The claim with this name, or where there is none the value that its dots lead to.
    fn find(&self, name: &str) -> Option<&Value> {
        self.0.get(name).or_else(|| {
            let mut parts = name.split('.');
            let first = self.0.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.as_object()?.get(part))
        })
    }

    /// The claim, with null counting as absent. Only for claims whose absence grants nothing.
    pub(super) fn present(&self, name: &str) -> Option<&Value> {
        self.find(name).filter(|value| !value.is_null())
    }

    /// The claim, also where it is null.
    pub(super) fn any(&self, name: &str) -> Option<&Value> {
        self.find(name)
    }

    pub(super) fn required(&self, name: &str) -> Result<&Value, AccessTokenError> {
        self.present(name)
            .ok_or_else(|| AccessTokenError::MissingClaim { claim: name.into() })
    }
}

/// A malformed claim; `expected` completes "the claim `x` is not …".
pub(super) fn malformed(claim: &str, expected: &'static str) -> AccessTokenError {
    AccessTokenError::MalformedClaim {
        claim: claim.into(),
        expected,
    }
}

/// Text of 1 to 256 bytes without control characters, so that it can stand in a log line and a key.
pub(super) fn bounded_text(claim: &str, value: &Value) -> Result<Arc<str>, AccessTokenError> {
    value
        .as_str()
        .filter(|text| is_bounded_text(text))
        .map(Arc::from)
        .ok_or_else(|| malformed(claim, "text of 1 to 256 bytes without control characters"))
}

/// Whether a text can be a claim: 1 to 256 bytes without control characters.
pub(crate) fn is_bounded_text(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The user: RFC 7519 wants `sub` to be text, but back ends that number their users write a number.
pub(super) fn user(claim: &str, value: &Value) -> Result<Arc<str>, AccessTokenError> {
    match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            Ok(number.to_string().into())
        }
        value => bounded_text(claim, value),
    }
}

/// A `NumericDate` (RFC 7519, section 2) in whole seconds, a fraction cut off downwards.
pub(super) fn seconds(claim: &str, value: &Value) -> Result<i64, AccessTokenError> {
    // Far beyond any date that is meant, and small enough that sums of such numbers don't overflow.
    const MOST: i64 = 1 << 52;
    let read = value.as_i64().or_else(|| {
        let fractional = value
            .as_f64()
            .filter(|seconds| seconds.abs() <= MOST as f64)?;
        // Bounded above, so nothing but the fraction is lost.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "bounded by the filter above"
        )]
        Some(fractional.floor() as i64)
    });
    read.filter(|seconds| (0..=MOST).contains(seconds))
        .ok_or_else(|| malformed(claim, "a time in Unix seconds"))
}

/// A list of texts that each parse; an empty list is a list.
pub(super) fn list<T: std::str::FromStr>(
    claim: &str,
    value: &Value,
    expected: &'static str,
) -> Result<Arc<[T]>, AccessTokenError> {
    value
        .as_array()
        .and_then(|items| {
            items
                .iter()
                .map(|item| item.as_str()?.parse().ok())
                .collect()
        })
        .ok_or_else(|| malformed(claim, expected))
}

/// Writes a claim so that [`Claims`] finds it under the same name: a dotted name becomes objects, except
/// one that is a URL, as namespaced claims are.
pub(super) fn write(claims: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        Some((first, rest)) if !name.contains("://") => {
            let inner = claims
                .entry(first)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                write(inner, rest, value);
            }
        }
        _ => {
            claims.insert(name.to_owned(), value);
        }
    }
}
