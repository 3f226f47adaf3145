//! A server whose every answer a test writes by hand, in bytes, over real sockets.

use std::time::Duration;

use tidings_client::{AccessToken, Client, StreamOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Server(TcpListener);

/// A request that waits for its answer.
pub(crate) struct Exchange {
    pub(crate) head: String,
    pub(crate) body: String,
    socket: TcpStream,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.url(), AccessToken::fixed("access")).unwrap()
    }

    /// The next request, whole. Every exchange has a connection of its own.
    pub(crate) async fn request(&self) -> Exchange {
        loop {
            let (mut socket, _) = self.0.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut bytes = Vec::new();
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break Some(end + 4);
                }
                if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    break None;
                }
            };
            // A connection that the pool opened and did not need.
            let Some(end) = end else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head
                .to_ascii_lowercase()
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| {
                    rest.lines().next().unwrap().parse::<usize>().unwrap()
                });
            while bytes.len() < end + length {
                assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
            }
            let body = String::from_utf8(bytes[end..].to_vec()).unwrap();
            return Exchange { head, body, socket };
        }
    }

    /// Answers the mint that comes before a stream, and gives the stream's request.
    pub(crate) async fn stream_request(&self) -> Exchange {
        let mint = self.request().await;
        assert_eq!(mint.line(), "POST /auth/sse-token HTTP/1.1");
        mint.json(200, r#"{"token":"st_x","expires_in":30}"#).await;
        let stream = self.request().await;
        assert!(stream.line().contains("token=st_x"), "{}", stream.line());
        stream
    }
}

impl Exchange {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The query parameter's raw text.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let target = self.line().split(' ').nth(1)?;
        target.split_once('?')?.1.split('&').find_map(|pair| {
            pair.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='))
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // The client may have gone; what it does next is what the test looks at.
        let _ = self.socket.write_all(bytes).await;
    }

    pub(crate) async fn stream_head(&mut self) {
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
              X-Connection-Id: sse-1f0c9a7be210\r\nConnection: close\r\n\r\n",
        )
        .await;
    }

    /// Ends the connection in order, or with a reset.
    pub(crate) async fn end(mut self, reset: bool) {
        if reset {
            self.socket.set_zero_linger().unwrap();
        } else {
            let _ = self.socket.shutdown().await;
        }
    }

    pub(crate) async fn json(self, status: u16, body: &str) {
        self.answer(status, "application/json", "", body).await;
    }

    pub(crate) async fn answer(
        mut self,
        status: u16,
        content_type: &str,
        headers: &str,
        body: &str,
    ) {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             {headers}Connection: close\r\n\r\n{body}"
        );
        self.write(text.as_bytes()).await;
    }
}

/// Options whose waits are too short to notice.
pub(crate) fn impatient() -> StreamOptions {
    StreamOptions {
        retry: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        ..StreamOptions::default()
    }
}
