//! A connection that ends when it is lost.
//!
//! A client that reconnects by itself sends over the new connection what had not gone out over the old one,
//! although what was sent just before may be lost: a hole. A publisher that must keep its order needs to
//! decide that itself. So this client connects once; when the connection is lost, everything that waits in
//! it goes with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{AuthError, Client, ConnectError, Event, HeaderMap};
use bytes::Bytes;
use tokio::sync::watch;

use super::options::NatsOptions;

/// A connection that stands until it is lost, once.
#[derive(Debug)]
pub struct SingleConnection {
    /// The client; after the loss it fails or does nothing.
    pub client: Client,
    lost: watch::Receiver<bool>,
}

impl SingleConnection {
    /// Connects to the first of the servers that answers.
    ///
    /// # Errors
    ///
    /// When none does.
    pub async fn connect(options: &Arc<NatsOptions>) -> Result<Self, ConnectError> {
        let (report, lost) = watch::channel(false);
        let closed = Arc::new(AtomicBool::new(false));
        let identity = Arc::clone(options);
        let no_more = Arc::clone(&closed);
        let client = options
            .connect_options(move |nonce| {
                let options = Arc::clone(&identity);
                let no_more = no_more.load(Ordering::Acquire);
                async move {
                    if no_more {
                        // Nothing is sent over a second connection before this was asked.
                        return Err(AuthError::new("this connection is not made anew"));
                    }
                    options.authenticate(&nonce).await
                }
            })
            .ignore_discovered_servers()
            // So many attempts in a row; each ends with the error above.
            .max_reconnects(options.urls.len())
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    report.send_replace(true);
                }
                std::future::ready(())
            })
            .connect(options.urls.clone())
            .await?;
        closed.store(true, Ordering::Release);
        Ok(Self { client, lost })
    }

    /// Returns when it was lost.
    pub async fn lost(&mut self) {
        // Without a sender the client is gone.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }

    /// Hands a message to the client; false where the connection was lost. Messages go out in the order in
    /// which they are handed over.
    pub async fn publish(
        &mut self,
        subject: String,
        reply: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> bool {
        let lost = &mut self.lost;
        tokio::select! {
            biased;
            sent = self.client.publish_with_reply_and_headers(subject, reply, headers, payload) => sent.is_ok(),
            _ = lost.wait_for(|lost| *lost) => false,
        }
    }
}
