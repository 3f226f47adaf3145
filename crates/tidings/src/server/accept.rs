//! Accepting connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use http::{HeaderValue, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::connection;
use crate::edge::Edge;
use crate::error::Refusal;
use crate::front::Front;

/// How many connections are accepted before the others have their turn. In a crowd, requests under
/// way come before new ones, which wait in the kernel; otherwise a publish would wait for thousands.
const ACCEPTS_IN_A_TURN: u32 = 16;

/// How long accepting rests when it fails. The kernel keeps connections waiting meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a connection has to hear that it is one too many.
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(5);

/// A listener that is served, and what is known of its connections.
pub(crate) struct Accepting {
    /// Shared with the handlers.
    pub(crate) app: Arc<App>,
    /// What answers.
    pub(crate) front: Front,
    /// What stands in front of HTTP.
    pub(crate) edge: Edge,
    /// The connections; waited for at the end.
    pub(crate) tasks: TaskTracker,
    /// No new connections.
    pub(crate) refusing: CancellationToken,
    /// Connections end after the request that they are at.
    pub(crate) stopping: CancellationToken,
    /// Whether connections are turned away when descriptors run short. Those to the admin listener are not.
    pub(crate) spares_descriptors: bool,
}

impl Accepting {
    /// Accepts connections and serves each in a task of its own, until `refusing`.
    pub(crate) async fn run(self, listener: TcpListener) {
        let turned_away = TurnedAway::new(self.app.descriptors.places_to_refuse());
        let mut accepted_in_turn = 0;
        let mut failing = false;
        loop {
            if accepted_in_turn == ACCEPTS_IN_A_TURN {
                accepted_in_turn = 0;
                tokio::task::yield_now().await;
            }
            accepted_in_turn += 1;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.refusing.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("connections are accepted again");
                    }
                    self.take(socket, peer, &turned_away);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "connections can't be accepted; they wait");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(&self, socket: TcpStream, peer: SocketAddr, turned_away: &TurnedAway) {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "a connection broke at once");
            return;
        }
        if self.spares_descriptors && !self.app.descriptors.admit(socket.as_raw_fd()) {
            self.turn_away(socket, peer, turned_away);
            return;
        }
        self.tasks.spawn(connection::serve(
            Arc::clone(&self.app),
            self.front.clone(),
            socket,
            peer,
            self.edge.clone(),
            self.stopping.clone(),
        ));
    }

    /// Answers one request with 503. Where too many are being told so already, the connection is closed.
    fn turn_away(&self, socket: TcpStream, peer: SocketAddr, turned_away: &TurnedAway) {
        let Ok(place) = Arc::clone(&turned_away.places).try_acquire_owned() else {
            return;
        };
        let serving = connection::serve(
            Arc::clone(&self.app),
            turned_away.front.clone(),
            socket,
            peer,
            self.edge.clone(),
            self.stopping.clone(),
        );
        self.tasks.spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(TURNED_AWAY_WITHIN, serving).await;
        });
    }
}

/// How connections are told that there is no room for them.
struct TurnedAway {
    front: Front,
    /// They take descriptors of the reserve, so there are only so many.
    places: Arc<Semaphore>,
}

impl TurnedAway {
    fn new(places: usize) -> Self {
        let refuse = || async {
            let detail = "the server has no descriptors left for another connection";
            let mut response = Refusal::unavailable(detail, Duration::from_secs(5)).into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        };
        Self {
            front: Front::of(Router::new().fallback(refuse)),
            places: Arc::new(Semaphore::new(places)),
        }
    }
}

/// Makes a listener that blocks nobody one of this runtime.
///
/// # Errors
///
/// The runtime can't watch it.
pub(crate) fn watched(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
