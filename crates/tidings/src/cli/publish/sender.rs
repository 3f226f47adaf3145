//! Batches to the server, and an honest account of what became of them.

use std::fmt;
use std::time::Duration;

use indicatif::ProgressBar;
use tidings_client::{Client, ClientError, NewEvent};
use tidings_protocol::TenantId;
use tidings_protocol::api::PublishReceipt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::input::Batch;

/// For how long a batch with keys is tried again: the server knows keys for two minutes.
const PATIENCE: Duration = Duration::from_secs(100);
const SHORTEST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    accepted: u64,
    duplicates: u64,
    first: Option<String>,
    last: Option<String>,
}

impl Summary {
    fn add(&mut self, receipt: PublishReceipt) {
        self.accepted += receipt.accepted;
        self.duplicates += receipt.duplicates;
        self.first.get_or_insert(receipt.first);
        self.last = Some(receipt.last);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} accepted", self.accepted)?;
        if self.duplicates > 0 {
            write!(formatter, ", {} stored before", self.duplicates)?;
        }
        if let (Some(first), Some(last)) = (&self.first, &self.last) {
            write!(formatter, ", cursors {first} to {last}")?;
        }
        Ok(())
    }
}

/// Publishes for one tenant.
pub(super) struct Sender {
    client: Client,
    tenant: TenantId,
    progress: ProgressBar,
}

impl Sender {
    pub(super) fn new(client: Client, tenant: TenantId, progress: ProgressBar) -> Self {
        Self {
            client,
            tenant,
            progress,
        }
    }

    /// Publishes batch after batch up to the first line that is refused. Gives what is stored and why
    /// there is no more.
    pub(super) async fn send_all(
        self,
        mut batches: mpsc::Receiver<Batch>,
    ) -> (Summary, Option<String>) {
        let mut summary = Summary::default();
        while let Some(batch) = batches.recv().await {
            let failure = self.send(&batch, &mut summary).await;
            self.progress.set_position(batch.bytes);
            self.progress
                .set_message(format!("{} events", summary.accepted + summary.duplicates));
            if let Some(failure) = failure.or(batch.refused) {
                self.progress.finish_and_clear();
                return (summary, Some(failure));
            }
        }
        self.progress.finish_and_clear();
        (summary, None)
    }

    /// One batch; where one of its lines is refused, the part before that line.
    async fn send(&self, batch: &Batch, summary: &mut Summary) -> Option<String> {
        if batch.events.is_empty() {
            return None;
        }
        let error = match self.publish(&batch.events, batch.is_keyed()).await {
            Ok(receipt) => {
                summary.add(receipt);
                return None;
            }
            Err(error) => error,
        };
        let refused = error
            .problem()
            .filter(|_| !error.is_temporary())
            .and_then(|problem| problem.line)
            .and_then(|line| usize::try_from(line).ok()?.checked_sub(1))
            .filter(|index| *index < batch.events.len());
        let Some(index) = refused else {
            return Some(whole(batch, &error));
        };
        // The body is stored whole or not at all, so the lines before the refused one go alone.
        if index > 0 {
            match self.publish(&batch.events[..index], batch.is_keyed()).await {
                Ok(receipt) => summary.add(receipt),
                Err(error) => return Some(whole(batch, &error)),
            }
        }
        let problem = error.problem().expect("a refusal has a problem");
        let field = problem
            .field
            .as_ref()
            .map_or_else(String::new, |field| format!(" [{field}]"));
        let number = batch.lines[index];
        Some(format!(
            "line {number} was refused: {}{field}",
            problem.detail
        ))
    }

    /// Tries again while the server is away, where that stores nothing twice.
    async fn publish(
        &self,
        events: &[NewEvent],
        keyed: bool,
    ) -> Result<PublishReceipt, ClientError> {
        let give_up = Instant::now() + PATIENCE;
        let mut wait = SHORTEST_WAIT;
        loop {
            let error = match self.client.publish(self.tenant, events).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => error,
            };
            // Over the rate nothing was stored, so that a repeat is safe without keys as well.
            let safe = keyed || error.status() == Some(429);
            if !safe || !error.is_temporary() || Instant::now() >= give_up {
                return Err(error);
            }
            self.progress.set_message(format!("waiting: {error}"));
            tokio::time::sleep(error.retry_after().unwrap_or(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// A failure of a batch as a whole.
fn whole(batch: &Batch, error: &ClientError) -> String {
    let (first, last) = (batch.lines[0], batch.lines[batch.lines.len() - 1]);
    let fate = match error {
        ClientError::Refused { problem, .. } if problem.status < 500 => "were not stored",
        // The answer was lost, or the server does not know how far it came.
        _ => "may or may not be stored",
    };
    let advice = match (fate, batch.is_keyed()) {
        ("were not stored", _) => "",
        (_, true) => "; repeat the command, its keys make that safe",
        (_, false) => "; --key-prefix would make a repeat safe",
    };
    format!("lines {first} to {last} {fate}: {error}{advice}")
}
