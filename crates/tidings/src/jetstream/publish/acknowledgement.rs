//! What the broker answers to a message.

use async_nats::Message;
use serde::Deserialize;

use crate::jetstream::api::Failure;

/// Error codes of JetStream (`server/errors.json` of nats-server) that say that there is no room: insufficient
/// resources, limits of the account, storage or memory.
const NO_ROOM: [u64; 4] = [10_023, 10_002, 10_047, 10_028];

/// The stream's storage refused; the description says why.
const STORE_FAILED: u64 = 10_077;

/// The message is larger than the stream takes.
const TOO_LARGE: u64 = 10_054;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acknowledgement {
    /// It is stored, now or before.
    Stored { sequence: u64, duplicate: bool },
    /// There is no room for it.
    Full(String),
    /// It is too large for the stream.
    TooLarge,
    /// Not now; later it may go.
    Later(String),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Failure>,
}

impl Acknowledgement {
    /// Reads an answer.
    pub(super) fn read(message: &Message) -> Self {
        if let Some(status) = message.status {
            return Self::Later(match status.as_u16() {
                503 => "the stream has no leader, or does not exist".to_owned(),
                other => format!("status {other}"),
            });
        }
        match serde_json::from_slice::<Raw>(&message.payload) {
            Ok(Raw {
                error: Some(failure),
                ..
            }) => Self::failed(failure),
            Ok(raw) if raw.seq > 0 => Self::Stored {
                sequence: raw.seq,
                duplicate: raw.duplicate,
            },
            _ => Self::Later("an acknowledgement can't be read".to_owned()),
        }
    }

    fn failed(failure: Failure) -> Self {
        let description = failure.description;
        let no_room = NO_ROOM.contains(&failure.err_code)
            || failure.err_code == STORE_FAILED
                && ["maximum", "exceeded", "no space", "insufficient"]
                    .iter()
                    .any(|word| description.contains(word));
        if no_room {
            Self::Full(description)
        } else if failure.err_code == TOO_LARGE {
            Self::TooLarge
        } else {
            Self::Later(description)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str, status: Option<u16>) -> Acknowledgement {
        Acknowledgement::read(&Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: status.map(|code| async_nats::StatusCode::from_u16(code).unwrap()),
            description: None,
            length: 0,
        })
    }

    #[test]
    fn what_the_broker_says_is_told_apart() {
        let stored = |sequence, duplicate| Acknowledgement::Stored {
            sequence,
            duplicate,
        };
        assert_eq!(read(r#"{"stream":"T","seq":7}"#, None), stored(7, false));
        assert_eq!(
            read(r#"{"stream":"T","seq":7,"duplicate":true}"#, None),
            stored(7, true)
        );
        let failed = |code: u64, description: &str| {
            let error =
                serde_json::json!({ "code": 503, "err_code": code, "description": description });
            read(&serde_json::json!({ "error": error }).to_string(), None)
        };
        for (code, description) in [
            (10_023, "insufficient resources"),
            (10_047, "insufficient storage resources available"),
            (10_077, "maximum bytes exceeded"),
        ] {
            assert_eq!(
                failed(code, description),
                Acknowledgement::Full(description.to_owned())
            );
        }
        assert_eq!(
            failed(10_054, "message size exceeds maximum allowed"),
            Acknowledgement::TooLarge
        );
        for later in [
            failed(10_008, "JetStream system temporarily unavailable"),
            failed(10_077, "stream not leader"),
            read("", Some(503)),
            read("", None),
            read("{}", None),
        ] {
            assert!(matches!(later, Acknowledgement::Later(_)), "{later:?}");
        }
    }
}
