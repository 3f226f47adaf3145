//! What a node has in NATS, where its log is a copy: the connection, the streams it copies, and where it
//! publishes.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::config::{Config, ConfigError, LogLayout};
use crate::ingest::store::Store;
use crate::jetstream::fleet::FleetDecoder;
use crate::jetstream::message::KnownTypes;
use crate::jetstream::{Decoder, OwnStream, Publisher};
use crate::mirror::{Reach, SourceStream};
use crate::nats::{Nats, NatsOptions};
use crate::state::bucket::keep::Keeper;
use crate::state::bucket::load::Loader;

/// Pauses between attempts to make or adapt the stream.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A node's share in NATS.
pub struct Broker {
    nats: Nats,
    node: String,
    layout: LogLayout,
    own: OwnStream,
}

impl Broker {
    /// Begins to connect. NATS may be away: it is waited for in the background.
    ///
    /// # Errors
    ///
    /// Names the setting that is wrong.
    pub async fn connect(config: &Config) -> Result<Self, ConfigError> {
        let node = config.node_name();
        let nats = Nats::connect(NatsOptions::from_config(&config.nats, &node)?).await?;
        Ok(Self {
            nats,
            node,
            layout: config.log.layout,
            own: OwnStream::from_config(config),
        })
    }

    /// The connection.
    #[must_use]
    pub fn nats(&self) -> &Nats {
        &self.nats
    }

    /// The streams that are copied.
    #[must_use]
    pub fn streams(&self, config: &Config) -> Vec<SourceStream> {
        match self.layout {
            LogLayout::Own => {
                let types = config.known_types();
                vec![SourceStream {
                    stream: self.own.name.clone(),
                    is_own: true,
                    decoder: Box::new(move || Decoder::Own(KnownTypes::new(&types))),
                }]
            }
            LogLayout::Fleet => {
                let shared = Arc::new(config.clone());
                let streams = config.nats.fleet.iter().cloned();
                streams
                    .map(|stream| {
                        let config = Arc::clone(&shared);
                        SourceStream {
                            stream: stream.name.to_string(),
                            is_own: false,
                            decoder: Box::new(move || {
                                Decoder::Fleet(FleetDecoder::new(stream.clone(), &config))
                            }),
                        }
                    })
                    .collect()
            }
        }
    }

    /// How they are read. What a node that begins with an empty folder is not told by the stream is in a bucket, but for
    /// the layout `fleet`, which has none.
    #[must_use]
    pub fn reach(&self, config: &Config) -> Reach<'_> {
        let loader = || Loader {
            client: self.nats.client().clone(),
            types: KnownTypes::new(&config.known_types()),
            description: format!("tidings {}", self.node),
        };
        Reach {
            nats: &self.nats,
            node: &self.node,
            loader: (self.layout == LogLayout::Own).then(loader),
        }
    }

    /// Begins what goes on in the background in the layout `own`: makes the stream, and looks after the bucket with
    /// the state.
    pub fn start(
        self: Arc<Self>,
        app: &Arc<App>,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
    ) {
        if self.layout == LogLayout::Own {
            let keeper = Keeper::new(app, self.nats.client());
            tasks.spawn(keeper.run(stopping.clone()));
            tasks.spawn(self.ensure_stream(stopping.clone()));
        }
    }

    /// Where what is published here goes.
    #[must_use]
    pub fn store(&self) -> Store {
        match self.layout {
            LogLayout::Own => Store::Stream(Publisher::start(&self.nats, &self.own.name)),
            LogLayout::Fleet => Store::ReadOnly,
        }
    }

    /// Makes or adapts the stream of the layout `own`, as soon as NATS is there.
    async fn ensure_stream(self: Arc<Self>, stopping: CancellationToken) {
        let mut pause = PAUSES.0;
        let mut connectivity = self.nats.connectivity();
        loop {
            let connected =
                connectivity.wait_for(|state| *state == crate::nats::Connectivity::Connected);
            tokio::select! {
                _ = connected => {}
                () = stopping.cancelled() => return,
            }
            match self.own.ensure(self.nats.client()).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(stream = self.own.name, %error, "stream_not_ready");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}
