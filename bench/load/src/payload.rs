//! What is published: an event whose last bytes say which it is and when it was sent.
//!
//! The two fields stand at the end of the payload in a fixed width, so that a receiver finds them
//! from the end of a block without reading the rest.

use std::io::Write as _;

const SEQUENCE_DIGITS: usize = 12;
const SENT_DIGITS: usize = 16;
const BEFORE_SENT: &[u8] = b"\",\"sent\":\"";
const END: &[u8] = b"\"}";

/// Where an event goes: a tenant's device.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The tenant's UUID.
    pub tenant: String,
    /// The device within it.
    pub device: String,
    /// How many events were published to it.
    pub published: u64,
    /// How many open streams receive its events.
    pub streams: u64,
}

impl Lane {
    /// The lane of a tenant's device by number.
    #[must_use]
    pub fn new(tenant: usize, device: usize) -> Self {
        Self {
            tenant: format!("00000000-0000-4000-8000-{tenant:012x}"),
            device: format!("device-{device:06}"),
            published: 0,
            streams: 0,
        }
    }

    /// Appends the next event's `data`, `bytes` long (or as long as it must be), to `body`.
    pub fn write_data(&mut self, body: &mut Vec<u8>, bytes: usize, now: u64) {
        self.published += 1;
        let start = body.len();
        // Writing to a Vec can't fail.
        let _ = write!(
            body,
            "{{\"tenant_id\":\"{}\",\"device_id\":\"{}\",\"status\":\"online\",\"note\":\"",
            self.tenant, self.device
        );
        let tail =
            b"\",\"seq\":\"".len() + SEQUENCE_DIGITS + BEFORE_SENT.len() + SENT_DIGITS + END.len();
        let filled = (start + bytes).saturating_sub(tail).max(body.len());
        body.resize(filled, b'.');
        let _ = write!(
            body,
            "\",\"seq\":\"{:0SEQUENCE_DIGITS$}\",\"sent\":\"{now:0SENT_DIGITS$}\"}}",
            self.published
        );
    }

    /// Appends the next event in the envelope that `POST /tenants/{id}/events` takes.
    pub fn write_event(&mut self, body: &mut Vec<u8>, bytes: usize, now: u64) {
        let _ = write!(
            body,
            "{{\"type\":\"device_status\",\"device_id\":\"{}\",\"data\":",
            self.device
        );
        self.write_data(body, bytes, now);
        body.push(b'}');
    }
}

/// What the end of a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The how-manieth event of its lane it is, from 1.
    pub sequence: u64,
    /// When it was sent, by [`crate::clock::now`].
    pub sent: u64,
}

/// Reads the stamp at the end of `payload`; `None` where there is none.
#[must_use]
pub fn stamp(payload: &[u8]) -> Option<Stamp> {
    let rest = payload.strip_suffix(END)?;
    let (rest, sent) = rest.split_at_checked(rest.len().checked_sub(SENT_DIGITS)?)?;
    let rest = rest.strip_suffix(BEFORE_SENT)?;
    let sequence = rest.get(rest.len().checked_sub(SEQUENCE_DIGITS)?..)?;
    Some(Stamp {
        sequence: digits(sequence)?,
        sent: digits(sent)?,
    })
}

/// A decimal number, digits only.
#[must_use]
pub fn digits(text: &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.wrapping_mul(10).wrapping_add(digit.into());
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_length_that_was_asked_for_and_says_what_it_is() {
        let mut lane = Lane::new(7, 3);
        for sequence in 1..=3 {
            let mut body = Vec::new();
            lane.write_data(&mut body, 250, 123_456 + sequence);
            assert_eq!(body.len(), 250);
            assert_eq!(
                stamp(&body),
                Some(Stamp {
                    sequence,
                    sent: 123_456 + sequence
                })
            );
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
        let mut envelope = Vec::new();
        lane.write_event(&mut envelope, 250, 1);
        let value: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
        assert_eq!(value["data"]["seq"], "000000000004");
        assert_eq!(value["data"]["device_id"], value["device_id"]);
    }

    #[test]
    fn other_text_has_no_stamp() {
        for text in [
            "",
            "{}",
            "\"}",
            "{\"seq\":\"000000000001\",\"sent\":\"000000000000000x\"}",
        ] {
            assert_eq!(stamp(text.as_bytes()), None, "{text}");
        }
    }
}
