//! Publishing, and what a receipt says.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::http::{Answer, Request, exchange};

/// The answer to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Newly stored.
    pub accepted: u64,
    /// Stored before.
    pub duplicates: u64,
    /// The cursor of the body's first event.
    pub first: String,
    /// The cursor of the body's last event.
    pub last: String,
}

impl Receipt {
    /// Reads it from the body of an answer that must be a 200.
    pub fn of(answer: &Answer) -> Self {
        let body = answer.expect(200);
        let number = |name: &str| {
            body[name]
                .as_u64()
                .unwrap_or_else(|| panic!("{name}: {body}"))
        };
        let cursor = |name: &str| {
            let text = body[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {body}"));
            text.to_owned()
        };
        Self {
            accepted: number("accepted"),
            duplicates: number("duplicates"),
            first: cursor("first"),
            last: cursor("last"),
        }
    }
}

/// The request that publishes one event.
pub fn one(tenant: &str, access_token: &str, event: &Value) -> Request {
    Request::post(&format!("/tenants/{tenant}/events"))
        .bearer(access_token)
        .body("application/json", event.to_string())
}

/// The request that publishes these events, one a line.
pub fn many<'a>(
    tenant: &str,
    access_token: &str,
    events: impl IntoIterator<Item = &'a Value>,
) -> Request {
    let mut lines = String::new();
    for event in events {
        let _ = writeln!(lines, "{event}");
    }
    Request::post(&format!("/tenants/{tenant}/events"))
        .bearer(access_token)
        .body("application/x-ndjson", lines)
}

/// Publishes one event, which must be taken.
pub fn must(address: SocketAddr, request: &Request) -> Receipt {
    Receipt::of(&exchange(address, request))
}

/// A `device_status` of a device with a number, by which the tests know it again.
pub fn status(device: &str, number: u64) -> Value {
    json!({"type": "device_status", "device_id": device, "data": {"status": "online", "n": number}})
}
