//! Requests that another reader could take for something else.
//!
//! hyper refuses most of them: lengths that are none or that differ, names with a blank behind them, folded lines,
//! codings that don't end with `chunked`. A length beside a coding it drops and closes the connection behind the answer
//! (RFC 9112, section 6.3), so that nothing hidden behind it is read. What is left is refused here.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};

use crate::error::Refusal;

/// Whether every reader sees the same request in this head.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    // In HTTP/2 frames say where a body ends, and a head with a coding is malformed.
    if request.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let headers = request.headers();
    if let Some(coding) = only(headers, &header::TRANSFER_ENCODING)? {
        // A reader that knows no gzip, or forgets what it has read of one line at the next, sees another end.
        if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(refused("the only transfer coding is chunked, once"));
        }
    }
    // RFC 9112, section 3.2.
    only(headers, &header::HOST).map(drop)
}

fn only<'h>(
    headers: &'h HeaderMap,
    name: &header::HeaderName,
) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(refused(&format!("the header {name} comes once"))),
    }
}

fn refused(detail: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, detail)
}

/// The answer, behind which nothing is read any more.
pub(super) fn refuse(refusal: Refusal) -> Response {
    let mut response = refusal.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    crate::routes::forbid_sniffing(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(version: Version, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn one_coding_and_one_host_are_taken() {
        for (headers, taken) in [
            (&[("host", "a"), ("transfer-encoding", "chunked")][..], true),
            (&[("host", "a"), ("transfer-encoding", "CHUNKED")], true),
            (&[], true),
            (&[("transfer-encoding", "gzip, chunked")], false),
            (&[("transfer-encoding", "chunked, chunked")], false),
            (
                &[("transfer-encoding", "x"), ("transfer-encoding", "chunked")],
                false,
            ),
            (
                &[
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                false,
            ),
            (&[("host", "a"), ("host", "a")], false),
        ] {
            assert_eq!(is_taken(Version::HTTP_11, headers), taken, "{headers:?}");
        }
        assert!(is_taken(Version::HTTP_2, &[("host", "a"), ("host", "b")]));
    }
}
