//! A consumer in the broker, and what it delivers.
//!
//! An ephemeral pull consumer in memory: the broker sends as many messages as were asked for and no more, so
//! that a slow reader holds up nobody, and forgets the consumer when nobody asks any more. How much is asked for, and
//! when, is [`super::pace`]'s to say.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::api::{self, ApiError, Consumer, nanoseconds};
use super::pace::{Mode, Pace};

/// How long the broker keeps a request that it can't fulfil.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the broker says that it is there while it has nothing.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// After how long without a word the consumer is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// After how long without a request the broker forgets the consumer.
const IDLE: Duration = Duration::from_secs(20);

/// The consumer delivers no more; its reader makes a new one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The broker has taken it away, or moves it.
    #[error("the broker has ended the consumer: {0}")]
    Ended(String),
    /// Not even heartbeats come.
    #[error("the broker is silent")]
    Silent,
    /// A message is missing between two others, or is not one of the consumer's.
    #[error("a message of the consumer is missing")]
    Hole,
    /// The broker has nothing to deliver, though something was pending: it was removed from the stream meanwhile, and
    /// nobody says so.
    #[error("what was pending has been removed")]
    Removed,
    /// The client is closed.
    #[error("the connection is closed")]
    Closed,
}

/// Where a message stands in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its sequence among what the consumer delivers, from 1.
    delivery: u64,
    /// When the broker stored it, in nanoseconds since the Unix epoch.
    pub stored_at: i64,
    /// How many messages of the stream come after it.
    pub pending: u64,
}

/// What was delivered: a message of the stream and its place, or a word of the broker's own (`None`).
pub type Pulled = Option<(Message, Place)>;

/// A consumer of one stream. [`Self::close`] takes it away; one that is dropped is forgotten by the broker.
#[derive(Debug)]
pub struct Pull {
    client: Client,
    stream: String,
    consumer: Consumer,
    inbox: String,
    subscription: Subscriber,
    /// The requests that the broker has not answered whole, oldest first.
    requests: VecDeque<Request>,
    pace: Pace,
    next_request: u64,
    /// How many messages were delivered.
    deliveries: u64,
    /// How many more there were to deliver, as far as the broker has said.
    pending: u64,
    heard: Instant,
    /// A fault that came behind good messages.
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Request {
    number: u64,
    mode: Mode,
    /// How many messages it asked for.
    messages: usize,
    /// How many of them are still due.
    due: usize,
}

impl Pull {
    /// Makes a consumer that begins with the message of sequence `from`, or the next that there is.
    ///
    /// # Errors
    ///
    /// When the broker does not answer or refuses.
    pub async fn open(
        client: &Client,
        stream: &str,
        from: u64,
        description: &str,
    ) -> Result<Self, ApiError> {
        let inbox = client.new_inbox();
        let subscription = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| ApiError::Unanswered(error.to_string()))?;
        let consumer = api::create_consumer(client, stream, from, IDLE, description).await?;
        Ok(Self {
            client: client.clone(),
            stream: stream.to_owned(),
            pending: consumer.num_pending,
            consumer,
            inbox,
            subscription,
            requests: VecDeque::new(),
            pace: Pace::default(),
            next_request: 0,
            deliveries: 0,
            heard: Instant::now(),
            broken: None,
        })
    }

    /// How many messages there were to deliver when the consumer was made.
    #[must_use]
    pub fn pending_at_start(&self) -> u64 {
        self.consumer.num_pending
    }

    /// Asks for more where less is on its way than should be, also after a pause. What is not asked for, does not come.
    /// Nothing is lost when the waiting is given up.
    ///
    /// # Errors
    ///
    /// When the client is closed.
    pub async fn top_up(&mut self) -> Result<(), Broken> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let ask = self.pace.ask(self.pending);
        if let Some(at) = ask.at.filter(|_| self.requests.is_empty()) {
            tokio::time::sleep_until(at).await;
        }
        while self.requests.len() < ask.requests {
            let number = self.next_request;
            let body = json!({
                "batch": ask.messages,
                // One that is too small for the next message would be answered with nothing, for ever.
                "max_bytes": ask.bytes.max(2 * self.client.max_payload()),
                "expires": nanoseconds(EXPIRES),
                "idle_heartbeat": nanoseconds(HEARTBEAT),
            });
            let subject = format!(
                "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
                self.stream, self.consumer.name
            );
            self.client
                .publish_with_reply(
                    subject,
                    format!("{}.{number}", self.inbox),
                    Bytes::from(body.to_string()),
                )
                .await
                .map_err(|_| Broken::Closed)?;
            self.requests.push_back(Request {
                number,
                mode: ask.mode,
                messages: ask.messages,
                due: ask.messages,
            });
            self.next_request += 1;
            // A reader that was held up asks again; before that the broker had nothing to say.
            self.heard = Instant::now();
        }
        Ok(())
    }

    /// Waits for the next message or word. Nothing is lost when the waiting is given up.
    ///
    /// # Errors
    ///
    /// When nothing will come any more.
    pub async fn next(&mut self) -> Result<Pulled, Broken> {
        let waiting = tokio::time::timeout_at(self.heard + SILENCE, self.subscription.next());
        match waiting.await {
            Ok(Some(message)) => self.take(message),
            Ok(None) => Err(Broken::Closed),
            Err(_) => Err(Broken::Silent),
        }
    }

    /// What has come already.
    pub fn next_at_hand(&mut self) -> Option<Result<Pulled, Broken>> {
        // A batch is bounded, so it needs no share of the task's time.
        let message = tokio::task::unconstrained(self.subscription.next()).now_or_never()??;
        Some(self.take(message))
    }

    /// Keeps a fault for the next [`Self::top_up`], so that what came before it is used.
    pub fn break_with(&mut self, broken: Broken) {
        self.broken = Some(broken);
    }

    /// Takes the consumer away.
    pub async fn close(mut self) {
        let _ = self.subscription.unsubscribe().await;
        if let Err(error) =
            api::delete_consumer(&self.client, &self.stream, &self.consumer.name).await
        {
            tracing::debug!(%error, stream = self.stream, "a consumer is left to the broker");
        }
    }

    fn take(&mut self, message: Message) -> Result<Pulled, Broken> {
        self.heard = Instant::now();
        if let Some(status) = message.status {
            return self.take_status(status, &message).map(|()| None);
        }
        let place = message
            .reply
            .as_ref()
            .and_then(|reply| place_of(reply, &self.consumer.name));
        let Some(place) = place.filter(|place| place.delivery == self.deliveries + 1) else {
            return Err(Broken::Hole);
        };
        self.deliveries += 1;
        self.pending = place.pending;
        // The broker works off one request after the other.
        if let Some(oldest) = self.requests.front_mut() {
            self.pace.delivered(self.heard);
            oldest.due -= 1;
            if oldest.due == 0 {
                let (mode, messages) = (oldest.mode, oldest.messages);
                self.pace
                    .fulfilled(mode, messages, self.pending, self.heard);
                self.requests.pop_front();
            }
        }
        Ok(Some((message, place)))
    }

    fn take_status(&mut self, status: StatusCode, message: &Message) -> Result<(), Broken> {
        let description = message.description.as_deref().unwrap_or_default();
        match status.as_u16() {
            // It comes when nothing else came for a while.
            100 if self.pending > 0 => Err(Broken::Removed),
            100 => Ok(()),
            // Nothing came in time, or the next message did not fit: another request will do.
            404 | 408 => {
                self.end_request(message);
                Ok(())
            }
            409 if description.contains("MaxBytes") => {
                self.end_request(message);
                Ok(())
            }
            code => Err(Broken::Ended(format!("{code} {description}"))),
        }
    }

    fn end_request(&mut self, message: &Message) {
        let number: Option<u64> = message
            .subject
            .rsplit_once('.')
            .and_then(|(_, number)| number.parse().ok());
        let Some(at) = self
            .requests
            .iter()
            .position(|one| Some(one.number) == number)
        else {
            return;
        };
        if let Some(ended) = self.requests.remove(at) {
            let delivered = ended.messages - ended.due;
            self.pace
                .fulfilled(ended.mode, delivered, self.pending, self.heard);
        }
    }
}

/// Where a message stands, from the subject to which it would be acknowledged: `$JS.ACK.` and stream,
/// consumer, deliveries, sequence, delivery, time and pending; since ADR-15's second form with domain and
/// account before them, and something behind.
fn place_of(reply: &str, consumer: &str) -> Option<Place> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let mut parts: [&str; 10] = [""; 10];
    let mut count = 0;
    for part in rest.split('.') {
        if count == parts.len() {
            return None;
        }
        parts[count] = part;
        count += 1;
    }
    let own = match count {
        7 => &parts[..7],
        9 | 10 => &parts[2..9],
        _ => return None,
    };
    let number = |index: usize| own[index].parse::<u64>().ok();
    (own[1] == consumer).then_some(())?;
    Some(Place {
        sequence: number(3)?,
        delivery: number(4)?,
        stored_at: own[5].parse().ok()?,
        pending: number(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_from_either_form_of_the_reply() {
        let place = Place {
            sequence: 42,
            delivery: 7,
            stored_at: 1_700_000_000_000_000_000,
            pending: 3,
        };
        for reply in [
            "$JS.ACK.S.c.1.42.7.1700000000000000000.3",
            "$JS.ACK._.hash.S.c.1.42.7.1700000000000000000.3",
            "$JS.ACK.hub.hash.S.c.1.42.7.1700000000000000000.3.random",
        ] {
            assert_eq!(place_of(reply, "c"), Some(place), "{reply}");
            assert_eq!(place_of(reply, "another"), None, "{reply}");
        }
        for reply in [
            "",
            "$JS.ACK.S.c.1.42",
            "$JS.ACK.S.c.1.x.7.1.3",
            "_INBOX.a.b.c.d.e.f.g",
        ] {
            assert_eq!(place_of(reply, "c"), None, "{reply}");
        }
    }
}
