//! The stream of the layout `own`: made where it does not exist, adapted where it lacks something.
//!
//! What is there is never shrunk: ages, sizes, replicas and the window of duplicates only grow, and what an
//! operator has set beside them stays. Lowering one is done by hand, with the broker's own tools.

use std::time::Duration;

use async_nats::Client;
use serde_json::{Value, json};

use super::api::{self, ApiError, StreamInfo, nanoseconds};
use super::message;
use crate::config::Config;

/// What the stream is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnStream {
    /// Its name.
    pub name: String,
    /// On how many servers it is kept.
    pub replicas: usize,
    /// For how long a repeated message is recognised.
    pub duplicate_window: Duration,
    /// How long messages are kept; zero means until there are too many.
    pub max_age: Duration,
    /// How many bytes are kept; 0 means no limit.
    pub max_bytes: u64,
}

impl OwnStream {
    /// What the configuration asks for.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            name: config.nats.stream.clone(),
            replicas: config.nats.replicas,
            duplicate_window: config.nats.duplicate_window,
            max_age: config.log.retention,
            max_bytes: config.log.max_bytes,
        }
    }

    /// Makes the stream or adapts it; says what it is now. Repeating it changes nothing.
    ///
    /// # Errors
    ///
    /// When the broker does not answer, refuses, or has a stream of this name that takes other subjects.
    pub async fn ensure(&self, client: &Client) -> Result<StreamInfo, ApiError> {
        let info = match api::stream_info(client, &self.name).await {
            Ok(info) => info,
            Err(ApiError::NoStream) => match api::create_stream(client, &self.wanted()).await {
                Ok(info) => {
                    tracing::info!(stream = self.name, "stream_created");
                    info
                }
                // Another node was faster, with other settings.
                Err(ApiError::Refused { .. }) => api::stream_info(client, &self.name).await?,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let Some(grown) = self.grown(&info.config)? else {
            return Ok(info);
        };
        let info = api::update_stream(client, &grown).await?;
        if let Some(left) = self.grown(&info.config)? {
            // A broker that leaves something out would be asked for it for ever.
            let missing: Vec<&str> = differences(&info.config, &left);
            tracing::warn!(
                stream = self.name,
                missing = missing.join(", "),
                "the stream can't be all that is configured"
            );
        } else {
            tracing::info!(stream = self.name, "stream_updated");
        }
        Ok(info)
    }

    /// The configuration of a new stream.
    fn wanted(&self) -> Value {
        json!({
            "name": self.name,
            "subjects": [message::ALL_SUBJECTS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": self.replicas,
            "max_age": nanoseconds(self.max_age),
            "max_bytes": self.max_bytes_setting(),
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "duplicate_window": nanoseconds(self.duplicate_window),
            "allow_direct": true,
        })
    }

    fn max_bytes_setting(&self) -> i64 {
        match i64::try_from(self.max_bytes) {
            Ok(0) | Err(_) => -1,
            Ok(bytes) => bytes,
        }
    }

    /// The configuration that a stream should have instead of `config`; `None` where that will do.
    fn grown(&self, config: &Value) -> Result<Option<Value>, ApiError> {
        let subjects = config["subjects"].as_array();
        if subjects.is_none_or(|subjects| !subjects.iter().any(|one| one == message::ALL_SUBJECTS))
        {
            return Err(ApiError::Refused {
                code: 0,
                description: format!(
                    "the stream {} exists and does not take the subjects {}; set nats.stream to another name",
                    self.name,
                    message::ALL_SUBJECTS
                ),
            });
        }
        let mut grown = config.clone();
        let number = |name: &str| config[name].as_i64().unwrap_or_default();
        let mut set = |name: &str, value: Value| {
            if config[name] != value {
                grown[name] = value;
            }
        };
        // 0 is for ever, -1 is without limit: nothing is more.
        let age = i64::try_from(nanoseconds(self.max_age)).unwrap_or(0);
        let age = match (number("max_age"), age) {
            (0, _) | (_, 0) => 0,
            (has, wanted) => has.max(wanted),
        };
        if age != number("max_age") {
            set("max_age", age.into());
        }
        let bytes = match (number("max_bytes"), self.max_bytes_setting()) {
            (..=0, _) | (_, -1) => -1,
            (has, wanted) => has.max(wanted),
        };
        // A stream without limit says -1, or 0, or nothing.
        if bytes > 0 && bytes != number("max_bytes") || bytes < 0 && number("max_bytes") > 0 {
            set("max_bytes", bytes.into());
        }
        let replicas = i64::try_from(self.replicas).unwrap_or(1);
        if number("num_replicas") < replicas {
            set("num_replicas", replicas.into());
        }
        let window = i64::try_from(nanoseconds(self.duplicate_window)).unwrap_or(i64::MAX);
        if number("duplicate_window") < window {
            set("duplicate_window", window.into());
        }
        if config["allow_direct"] != true {
            set("allow_direct", true.into());
        }
        Ok((grown != *config).then_some(grown))
    }
}

/// The settings in which two configurations differ.
fn differences<'a>(one: &Value, other: &'a Value) -> Vec<&'a str> {
    let fields = other.as_object().into_iter().flatten();
    fields
        .filter(|(name, value)| one[name.as_str()] != **value)
        .map(|(name, _)| name.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> OwnStream {
        OwnStream {
            name: "TIDINGS".to_owned(),
            replicas: 1,
            duplicate_window: Duration::from_mins(2),
            max_age: Duration::from_hours(24),
            max_bytes: 1 << 30,
        }
    }

    #[test]
    fn what_is_there_grows_and_never_shrinks() {
        let small = stream();
        let large = OwnStream {
            replicas: 3,
            duplicate_window: Duration::from_mins(4),
            max_age: Duration::from_hours(48),
            max_bytes: 2 << 30,
            ..stream()
        };
        assert_eq!(small.grown(&small.wanted()), Ok(None));
        assert_eq!(small.grown(&large.wanted()), Ok(None));
        assert_eq!(large.grown(&small.wanted()), Ok(Some(large.wanted())));
        let endless = OwnStream {
            max_age: Duration::ZERO,
            max_bytes: 0,
            ..stream()
        };
        assert_eq!(endless.grown(&small.wanted()), Ok(Some(endless.wanted())));
        assert_eq!(small.grown(&endless.wanted()), Ok(None));
    }

    #[test]
    fn what_an_operator_has_set_stays() {
        let mut config = stream().wanted();
        config["placement"] = json!({ "tags": ["ssd"] });
        config["allow_direct"] = false.into();
        config["discard"] = "new".into();
        let grown = stream().grown(&config).unwrap().unwrap();
        assert_eq!(grown["placement"], config["placement"]);
        assert_eq!(grown["discard"], "new");
        assert_eq!(grown["allow_direct"], true);
        assert_eq!(stream().grown(&grown), Ok(None));
    }

    #[test]
    fn a_stream_of_the_same_name_with_other_subjects_is_left_alone() {
        let mut config = stream().wanted();
        config["subjects"] = json!(["orders.>"]);
        assert!(stream().grown(&config).is_err());
    }
}
