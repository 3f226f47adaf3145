//! One question to all nodes, and what they answer within a second.
//!
//! A question is published once, and every node answers to an inbox, in pieces that NATS takes. Who asks waits
//! for the nodes that have announced themselves lately, and names those that have not answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidings_protocol::TenantId;
use tidings_protocol::operate::NodeAnswer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::presence::Node;
use super::{Cluster, Shared};
use crate::app::App;
use crate::operate::audience::AskedEvent;
use crate::operate::part::Caller;
use crate::operate::{audience, keys, streams};

/// Where questions are asked.
pub(super) const QUESTIONS: &str = "tidings_cluster.questions";

/// How long answers are waited for.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long a node that is asked waits to obey a change before it says that it does not.
const OBEYS_WITHIN: Duration = Duration::from_millis(900);

/// How many questions a node works at together; it leaves further ones unanswered.
const AT_ONCE: usize = 64;

/// The largest piece of an answer, in bytes, where NATS takes as much.
const PIECE: usize = 256 * 1024;

/// What one node asks all others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "snake_case")]
pub enum Question {
    /// The first open streams behind `after`, by name.
    Streams {
        /// Who wants to know.
        caller: Caller,
        /// Only those that show this tenant and no other.
        tenant: Option<TenantId>,
        /// Only those of this user.
        user: Option<String>,
        /// By name.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// To end an open stream; the answer is how many were.
    Close {
        /// Who wants it.
        caller: Caller,
        /// The stream's name.
        connection: String,
    },
    /// Who opened a stream, and with which access token.
    Opener {
        /// Who wants to know.
        caller: Caller,
        /// The stream's name.
        connection: String,
    },
    /// What became of an event on its way to the first streams behind `after`, by name.
    Audience {
        /// Who wants to know.
        caller: Caller,
        /// Whose event.
        tenant: TenantId,
        /// Which event.
        event: AskedEvent,
        /// By name.
        after: Option<String>,
        /// At most so many.
        limit: usize,
    },
    /// When API keys were last used there, by id, in microseconds since the Unix epoch.
    KeyUses,
    /// Whether a change is obeyed; the answer is how many streams were closed by it.
    Obeyed {
        /// In which bucket.
        shared: Shared,
        /// The change.
        revision: u64,
    },
}

/// A question, and who asks.
#[derive(Serialize, Deserialize)]
struct Asked {
    node: Node,
    #[serde(flatten)]
    question: Question,
}

/// The line before each piece of an answer.
#[derive(Serialize, Deserialize)]
struct PieceHead {
    node: Node,
    /// From 0.
    piece: usize,
    pieces: usize,
}

/// What all nodes have answered.
#[derive(Debug)]
pub struct Gathered<T> {
    /// Who has answered, and what.
    pub answers: Vec<(Node, T)>,
    /// Who has not.
    pub silent: Vec<Node>,
}

impl<T> Gathered<T> {
    /// Who has answered and who has not, as operators are told: this node, which needs no asking, first.
    #[must_use]
    pub fn nodes(&self, own: &Node) -> Vec<NodeAnswer> {
        let one = |answered: bool| {
            move |node: &Node| NodeAnswer {
                node: node.name.clone(),
                id: node.id.clone(),
                answered,
            }
        };
        let mut others: Vec<NodeAnswer> = self
            .answers
            .iter()
            .map(|(node, _)| node)
            .map(one(true))
            .collect();
        others.extend(self.silent.iter().map(one(false)));
        others.sort_unstable_by(|one, other| (&one.node, &one.id).cmp(&(&other.node, &other.id)));
        std::iter::once(one(true)(own)).chain(others).collect()
    }
}

/// The pieces of an answer that have come so far.
#[derive(Default)]
struct Pieces {
    of: usize,
    got: HashMap<usize, Bytes>,
}

impl Cluster {
    /// Asks all other nodes.
    pub async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Gathered<T> {
        let known = self.others.known(Instant::now());
        let mut gathered = Gathered {
            answers: Vec::new(),
            silent: Vec::new(),
        };
        if known.is_empty() {
            return gathered;
        }
        let waiting = known
            .iter()
            .filter(|(_, is_expected)| *is_expected)
            .map(|(node, _)| node.clone())
            .collect();
        if self.is_connected() {
            let asking = self.exchange(question, waiting, &mut gathered.answers);
            match tokio::time::timeout(DEADLINE, asking).await {
                Err(_) | Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the other nodes can't be asked"),
            }
        }
        let answered: HashSet<&Node> = gathered.answers.iter().map(|(node, _)| node).collect();
        gathered.silent = known
            .into_iter()
            .map(|(node, _)| node)
            .filter(|node| !answered.contains(node))
            .collect();
        gathered
    }

    /// Collects answers until all that are waited for have come; is dropped at the deadline.
    async fn exchange<T: DeserializeOwned>(
        &self,
        question: &Question,
        mut waiting: HashSet<Node>,
        answers: &mut Vec<(Node, T)>,
    ) -> Result<(), async_nats::Error> {
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await?;
        let asked = Asked {
            node: self.node.clone(),
            question: question.clone(),
        };
        let payload = serde_json::to_vec(&asked)?.into();
        self.client
            .publish_with_reply(QUESTIONS, inbox, payload)
            .await?;
        let mut partial: HashMap<Node, Pieces> = HashMap::new();
        while !waiting.is_empty() {
            let Some(reply) = replies.next().await else {
                return Ok(());
            };
            let Some((head, body)) = read_piece(&reply.payload) else {
                tracing::warn!("a node's answer can't be read");
                continue;
            };
            let pieces = partial.entry(head.node.clone()).or_default();
            pieces.of = head.pieces;
            pieces.got.insert(head.piece, body);
            if pieces.got.len() < pieces.of {
                continue;
            }
            let whole: Vec<u8> = (0..pieces.of)
                .filter_map(|number| pieces.got.get(&number))
                .flatten()
                .copied()
                .collect();
            partial.remove(&head.node);
            match serde_json::from_slice(&whole) {
                Ok(answer) => {
                    waiting.remove(&head.node);
                    answers.push((head.node, answer));
                }
                Err(error) => {
                    tracing::warn!(%error, node = head.node.name, "a node's answer can't be read");
                }
            }
        }
        Ok(())
    }

    /// Answers the others' questions until `stopping`.
    pub(super) async fn answer_questions(
        self: Arc<Self>,
        app: Arc<App>,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let questions = tokio::select! {
                questions = self.client.subscribe(QUESTIONS) => questions,
                () = stopping.cancelled() => return,
            };
            let Ok(mut questions) = questions else { return };
            loop {
                let message = tokio::select! {
                    message = questions.next() => message,
                    () = stopping.cancelled() => return,
                };
                let Some(message) = message else { break };
                let Some(inbox) = message.reply else { continue };
                let asked: Asked = match serde_json::from_slice(&message.payload) {
                    Ok(asked) => asked,
                    Err(error) => {
                        tracing::warn!(%error, "a question of another node is not understood");
                        continue;
                    }
                };
                if asked.node == self.node {
                    continue;
                }
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    tracing::warn!(
                        node = asked.node.name,
                        "too many questions of other nodes at once"
                    );
                    continue;
                };
                let (cluster, app) = (Arc::clone(&self), Arc::clone(&app));
                tasks.spawn(async move {
                    if let Some(answer) = cluster.answer(&app, asked.question).await {
                        cluster.send(inbox.to_string(), &answer).await;
                    }
                    drop(permit);
                });
            }
        }
    }

    /// What this node knows; `None` where it can't say.
    async fn answer(&self, app: &Arc<App>, question: Question) -> Option<Vec<u8>> {
        let answer = match question {
            Question::Streams {
                caller,
                tenant,
                user,
                after,
                limit,
            } => {
                let filter = caller.streams(tenant, user);
                let after = after.map(|name| name.parse()).transpose().ok()?;
                let part = streams::part(app, filter, after, limit).await;
                serde_json::to_vec(&part.ok()?)
            }
            Question::Close { caller, connection } => {
                let connection = connection.parse().ok()?;
                serde_json::to_vec(&streams::close(app, &caller, connection).await)
            }
            Question::Opener { caller, connection } => {
                let connection = connection.parse().ok()?;
                serde_json::to_vec(&streams::opener(app, &caller, connection).await)
            }
            Question::Audience {
                caller,
                tenant,
                event,
                after,
                limit,
            } => {
                let after = after.map(|name| name.parse()).transpose().ok()?;
                let part = audience::part_for(app, &caller, tenant, event, after, limit).await;
                serde_json::to_vec(&part.ok()?)
            }
            Question::KeyUses => serde_json::to_vec(&keys::own_uses(app)),
            Question::Obeyed { shared, revision } => {
                let outcome = self.bucket(shared).obeyed(revision, OBEYS_WITHIN).await;
                let outcome = outcome.ok().filter(|outcome| outcome.failed.is_none())?;
                serde_json::to_vec(&outcome.closed)
            }
        };
        answer.ok()
    }

    async fn send(&self, inbox: String, answer: &[u8]) {
        // The line before the piece has to fit, too.
        let limit = self.client.server_info().max_payload.saturating_sub(2_048);
        let size = PIECE.min(limit).max(1);
        let pieces = answer.chunks(size);
        let count = pieces.len();
        for (number, piece) in pieces.enumerate() {
            let head = PieceHead {
                node: self.node.clone(),
                piece: number,
                pieces: count,
            };
            let sent = self
                .client
                .publish(inbox.clone(), write_piece(&head, piece))
                .await;
            if let Err(error) = sent {
                tracing::warn!(%error, "another node's question can't be answered");
                return;
            }
        }
    }
}

fn write_piece(head: &PieceHead, piece: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("a plain struct");
    let mut bytes = BytesMut::with_capacity(head.len() + 1 + piece.len());
    bytes.put_slice(&head);
    bytes.put_u8(b'\n');
    bytes.put_slice(piece);
    bytes.freeze()
}

fn read_piece(bytes: &Bytes) -> Option<(PieceHead, Bytes)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let head: PieceHead = serde_json::from_slice(&bytes[..end]).ok()?;
    (head.piece < head.pieces).then(|| (head, bytes.slice(end + 1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_round_trips_and_what_is_none_is_not_read() {
        let head = PieceHead {
            node: Node {
                name: "h\u{f6}st\n".to_owned(),
                id: "1".to_owned(),
            },
            piece: 1,
            pieces: 2,
        };
        let bytes = write_piece(&head, b"a\nb");
        let (read, body) = read_piece(&bytes).expect("a piece");
        assert_eq!(
            (read.node, read.piece, &body[..]),
            (head.node, 1, &b"a\nb"[..])
        );
        for bytes in [
            "",
            "\n",
            "{}\n",
            r#"{"node":{"name":"a","id":"b"},"piece":2,"pieces":2}"#,
        ] {
            assert!(read_piece(&Bytes::from(bytes)).is_none(), "{bytes}");
        }
    }
}
