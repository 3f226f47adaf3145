//! Where the admin listener runs: in a thread with a small runtime of its own. Whatever the requests of clients
//! and publishers do to theirs, whoever asks how the server is gets an answer.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::router;
use crate::app::App;
use crate::edge::Edge;
use crate::front::Front;
use crate::server::accept::{Accepting, watched};

/// The admin listener as it runs. Dropping it ends it.
#[derive(Debug)]
pub struct AdminListener {
    address: SocketAddr,
    stopping: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl AdminListener {
    /// Begins to answer.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or the socket can't be used.
    pub fn start(listener: TcpListener, app: &Arc<App>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stopping = CancellationToken::new();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let tasks = TaskTracker::new();
        let accepting = Accepting {
            app: Arc::clone(app),
            front: Front::of(router(app)),
            edge: Edge::default(),
            tasks: tasks.clone(),
            refusing: stopping.clone(),
            stopping: stopping.clone(),
            spares_descriptors: false,
        };
        let context = runtime.enter();
        let watched = watched(listener);
        drop(context);
        let listener = match watched {
            Ok(listener) => listener,
            Err(error) => {
                // Within another runtime one may not be dropped, since that waits.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    accepting.run(listener).await;
                    tasks.close();
                    tasks.wait().await;
                });
            })?;
        Ok(Self {
            address,
            stopping,
            thread: Some(thread),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: answers that are under way are given.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let thread = self.thread.take();
        let joined = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join));
        if !matches!(joined.await, Ok(Some(Ok(())))) {
            tracing::error!("the admin listener's thread has panicked");
        }
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
