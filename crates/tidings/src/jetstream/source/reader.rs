//! The task of a source.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gather::{Gathered, gather};
use super::{
    SourceBatch, SourceCounters, SourceEvent, SourceMessage, SourcePlace, SourceReport, SourceSpec,
};
use crate::jetstream::api::{self, ApiError, StreamInfo};
use crate::jetstream::pull::{Broken, Pull};
use crate::nats::{Connectivity, Nats};

/// How often it is asked whether a stream exists by now.
const WAIT_FOR_STREAM: Duration = Duration::from_millis(500);

/// How often it is asked how far the stream reaches back.
const REFRESH: Duration = Duration::from_secs(10);

/// Pauses between attempts to follow a stream.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How long a stream may say that it ends before what was read from it. A broker that starts says so
/// until it has read its files.
const BEHIND: Duration = Duration::from_secs(15);

/// How often a stream's malformed messages are logged at most.
const COMPLAINTS: Duration = Duration::from_mins(1);

/// What was said last of how the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Waiting,
    Away,
    Back,
}

/// Why a stream is not followed any more, for now.
enum Ended {
    NoStream,
    Away(String),
    /// The consumer is gone, and a new one will do.
    Interrupted(String),
    /// Nobody receives the reports.
    Unheard,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NoStream => Self::NoStream,
            other => Self::Away(other.to_string()),
        }
    }
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Ended(_) | Broken::Hole => Self::Interrupted(broken.to_string()),
            Broken::Silent | Broken::Closed => Self::Away(broken.to_string()),
        }
    }
}

/// What the task owns.
pub(super) struct Reader {
    nats: Nats,
    spec: SourceSpec,
    reports: mpsc::Sender<SourceReport>,
    counters: Arc<SourceCounters>,
    /// How far the stream was handed on; none before it was met.
    place: Option<SourcePlace>,
    /// The consumer; kept here so that it is closed however the following ends.
    pull: Option<Pull>,
    told: Told,
    behind_since: Option<Instant>,
    complained: Option<Instant>,
    first_sequence: u64,
    last_sequence: u64,
}

impl Reader {
    pub(super) fn new(
        nats: Nats,
        spec: SourceSpec,
        reports: mpsc::Sender<SourceReport>,
        counters: Arc<SourceCounters>,
    ) -> Self {
        Self {
            nats,
            place: spec.after,
            spec,
            reports,
            counters,
            pull: None,
            told: Told::Nothing,
            behind_since: None,
            complained: None,
            first_sequence: 0,
            last_sequence: 0,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let followed_since = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = self.follow() => ended,
            };
            self.close().await;
            if followed_since.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            let wait = match &ended {
                Ended::Unheard => return,
                Ended::NoStream => WAIT_FOR_STREAM,
                Ended::Away(_) | Ended::Interrupted(_) => pause,
            };
            let is_first = pause == PAUSES.0;
            pause = (pause * 2).min(PAUSES.1);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                told = self.tell_end(ended, is_first) => if told.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.close().await;
    }

    /// Says why the stream is not followed any more.
    async fn tell_end(&mut self, ended: Ended, is_first: bool) -> Result<(), Ended> {
        match ended {
            Ended::Unheard => Err(ended),
            Ended::NoStream => self.tell_waiting().await,
            // What ends and begins anew at once is not worth a word to streams.
            Ended::Interrupted(reason) if is_first => {
                tracing::debug!(stream = self.spec.stream, reason, "source_interrupted");
                Ok(())
            }
            Ended::Away(reason) | Ended::Interrupted(reason) => self.tell_away(reason).await,
        }
    }

    async fn close(&mut self) {
        if let Some(pull) = self.pull.take()
            && self.nats.is_connected()
        {
            // A broker that does not answer forgets the consumer by itself.
            let _ = tokio::time::timeout(PAUSES.1, pull.close()).await;
        }
    }

    /// Follows the stream as long as that goes well.
    async fn follow(&mut self) -> Ended {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_follow(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut connectivity = self.nats.connectivity();
        self.connected(&mut connectivity).await?;
        let info = api::stream_info(self.nats.client(), &self.spec.stream).await?;
        let place = self.meet(&info).await?;
        let from = (place.sequence + 1).max(info.first_sequence);
        let pull = Pull::open(
            self.nats.client(),
            &self.spec.stream,
            from,
            &self.spec.description,
        )
        .await?;
        let pending = pull.pending_at_start();
        self.pull = Some(pull);
        self.counters.add_consumer();
        self.tell_back().await?;
        if pending == 0 {
            // What is not there any more is not delivered, and is over all the same.
            let through = info.last_sequence.max(place.sequence);
            self.hand_on(Vec::new(), through, 0).await?;
        }
        let mut refresh = Instant::now() + REFRESH;
        loop {
            let pull = self.pull.as_mut().expect("it was opened above");
            let refreshed = tokio::select! {
                biased;
                reason = lost(&mut connectivity) => return Err(Ended::Away(reason)),
                () = tokio::time::sleep_until(refresh) => true,
                gathered = gather(pull, &self.spec.decoder) => {
                    let gathered = gathered?;
                    self.take(gathered).await?;
                    false
                }
            };
            if refreshed {
                self.refresh().await?;
                refresh = Instant::now() + REFRESH;
            }
        }
    }

    /// Waits for a connection.
    async fn connected(
        &mut self,
        connectivity: &mut watch::Receiver<Connectivity>,
    ) -> Result<(), Ended> {
        loop {
            let state = connectivity.borrow_and_update().clone();
            if state == Connectivity::Connected {
                return Ok(());
            }
            self.tell_away(away_reason(&state)).await?;
            connectivity
                .changed()
                .await
                .map_err(|_| Ended::Away("the client is closed".to_owned()))?;
        }
    }

    /// Compares the stream with what was read of it before, and says where to go on.
    async fn meet(&mut self, info: &StreamInfo) -> Result<SourcePlace, Ended> {
        let place = match self.place {
            Some(place) if place.incarnation == info.incarnation => {
                if info.last_sequence >= place.sequence {
                    self.behind_since = None;
                    self.without_lost(place, info).await?
                } else {
                    self.rewound(place, info).await?
                }
            }
            before => {
                if before.is_some() {
                    tracing::warn!(stream = self.spec.stream, "source_recreated");
                    let incarnation = info.incarnation;
                    self.tell(SourceEvent::Recreated { incarnation }).await?;
                }
                SourcePlace {
                    incarnation: info.incarnation,
                    // What was gone before it was met is not lost to anybody.
                    sequence: info.first_sequence - 1,
                }
            }
        };
        self.place = Some(place);
        self.first_sequence = info.first_sequence;
        self.last_sequence = info.last_sequence;
        Ok(place)
    }

    /// A stream that begins behind what was read of it has lost what is between. Holes within it, where its oldest
    /// message is older, were made by whoever removes single messages, or lets a subject have only its newest.
    async fn without_lost(
        &mut self,
        place: SourcePlace,
        info: &StreamInfo,
    ) -> Result<SourcePlace, Ended> {
        if info.first_sequence <= place.sequence + 1 {
            return Ok(place);
        }
        let place = SourcePlace {
            sequence: info.first_sequence - 1,
            ..place
        };
        self.tell_lost(place).await?;
        Ok(place)
    }

    async fn tell_lost(&mut self, before: SourcePlace) -> Result<(), Ended> {
        self.tell(SourceEvent::Lost {
            incarnation: before.incarnation,
            through: before.sequence,
        })
        .await
    }

    /// A stream that ends before what was read of it: at first it is waited for.
    async fn rewound(
        &mut self,
        place: SourcePlace,
        info: &StreamInfo,
    ) -> Result<SourcePlace, Ended> {
        let last_sequence = info.last_sequence;
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        if since.elapsed() < BEHIND {
            return Err(Ended::Away(format!(
                "the stream {} ends at {last_sequence}, before {}, which was read from it",
                self.spec.stream, place.sequence
            )));
        }
        self.behind_since = None;
        tracing::error!(
            stream = self.spec.stream,
            read = place.sequence,
            last_sequence,
            "source_rewound"
        );
        self.tell(SourceEvent::Rewound { last_sequence }).await?;
        Ok(SourcePlace {
            sequence: last_sequence,
            ..place
        })
    }

    /// Asks how far the stream reaches back by now.
    async fn refresh(&mut self) -> Result<(), Ended> {
        let info = api::stream_info(self.nats.client(), &self.spec.stream).await?;
        let place = self.place.expect("it was met before it is followed");
        if info.incarnation != place.incarnation {
            return Err(Ended::Away("the stream was made anew".to_owned()));
        }
        if info.first_sequence > place.sequence + 1 {
            let reason = "the stream has removed what was to be read";
            return Err(Ended::Interrupted(reason.to_owned()));
        }
        let moved = info.first_sequence != self.first_sequence;
        self.first_sequence = info.first_sequence;
        self.last_sequence = self.last_sequence.max(info.last_sequence);
        if moved {
            let pending = self.last_sequence.saturating_sub(place.sequence);
            self.hand_on(Vec::new(), place.sequence, pending).await?;
        }
        Ok(())
    }

    /// Counts what was gathered and hands it on.
    async fn take(&mut self, gathered: Gathered) -> Result<(), Ended> {
        let Some(last) = gathered.last else {
            return Ok(());
        };
        let place = self.place.expect("it was met before it is followed");
        if gathered.first <= place.sequence {
            return Err(Ended::Away("a message came twice".to_owned()));
        }
        let lost = self.lost_within(&gathered, place).await?;
        self.counters.add(&gathered);
        self.complain(&gathered);
        let mut messages = gathered.messages;
        for (before, behind) in lost {
            let rest = messages.partition_point(|message| message.sequence < behind);
            let rest = messages.split_off(rest);
            let handed = std::mem::replace(&mut messages, rest);
            if before > place.sequence {
                // More comes for certain.
                self.hand_on(handed, before, last.pending + 1).await?;
            }
            let sequence = behind - 1;
            let place = SourcePlace { sequence, ..place };
            self.tell_lost(place).await?;
            self.place = Some(place);
        }
        self.hand_on(messages, last.sequence, last.pending).await
    }

    /// The jumps from one message to the next in which the stream may have lost something: those before its oldest
    /// message.
    async fn lost_within(
        &mut self,
        gathered: &Gathered,
        place: SourcePlace,
    ) -> Result<Vec<(u64, u64)>, Ended> {
        let first =
            (gathered.first > place.sequence + 1).then_some((place.sequence, gathered.first));
        if first.is_none() && gathered.jumps.is_empty() {
            return Ok(Vec::new());
        }
        let info = api::stream_info(self.nats.client(), &self.spec.stream).await?;
        if info.incarnation != place.incarnation {
            return Err(Ended::Away("the stream was made anew".to_owned()));
        }
        self.first_sequence = info.first_sequence;
        let jumps = first.into_iter().chain(gathered.jumps.iter().copied());
        Ok(jumps
            .filter(|(before, _)| before + 1 < info.first_sequence)
            .collect())
    }

    /// Says that messages were skipped, now and then.
    fn complain(&mut self, gathered: &Gathered) {
        let Some((sequence, reason)) = gathered.example else {
            return;
        };
        if self
            .complained
            .is_some_and(|last| last.elapsed() < COMPLAINTS)
        {
            return;
        }
        self.complained = Some(Instant::now());
        tracing::warn!(
            stream = self.spec.stream,
            sequence,
            %reason,
            "source_message_skipped"
        );
    }

    async fn hand_on(
        &mut self,
        messages: Vec<SourceMessage>,
        through: u64,
        pending: u64,
    ) -> Result<(), Ended> {
        let place = self.place.expect("it was met before it is followed");
        self.last_sequence = self.last_sequence.max(through + pending);
        let batch = SourceBatch {
            incarnation: place.incarnation,
            messages,
            through,
            pending,
            first_sequence: self.first_sequence,
            last_sequence: self.last_sequence,
        };
        self.tell(SourceEvent::Batch(batch)).await?;
        self.place = Some(SourcePlace {
            sequence: through,
            ..place
        });
        Ok(())
    }

    async fn tell_waiting(&mut self) -> Result<(), Ended> {
        if self.told == Told::Waiting {
            return Ok(());
        }
        tracing::warn!(stream = self.spec.stream, "source_missing");
        self.told = Told::Waiting;
        self.tell(SourceEvent::Waiting).await
    }

    async fn tell_away(&mut self, reason: String) -> Result<(), Ended> {
        if self.told == Told::Away {
            return Ok(());
        }
        tracing::warn!(stream = self.spec.stream, reason, "source_away");
        self.told = Told::Away;
        self.tell(SourceEvent::Away { reason }).await
    }

    async fn tell_back(&mut self) -> Result<(), Ended> {
        if self.told == Told::Back {
            return Ok(());
        }
        tracing::info!(stream = self.spec.stream, "source_followed");
        self.told = Told::Back;
        self.tell(SourceEvent::Back).await
    }

    async fn tell(&mut self, event: SourceEvent) -> Result<(), Ended> {
        let report = SourceReport {
            source: self.spec.index,
            event,
        };
        self.reports.send(report).await.map_err(|_| Ended::Unheard)
    }
}

/// Waits until the connection is lost, and says why.
async fn lost(connectivity: &mut watch::Receiver<Connectivity>) -> String {
    match connectivity
        .wait_for(|state| *state != Connectivity::Connected)
        .await
    {
        Ok(state) => away_reason(&state),
        Err(_) => "the client is closed".to_owned(),
    }
}

fn away_reason(state: &Connectivity) -> String {
    match state {
        Connectivity::Connected => String::new(),
        Connectivity::Away { reason, .. } => format!("NATS can't be reached: {reason}"),
    }
}
