//! The server under load: where it is, and how its requests are written.

use std::io::Write as _;
use std::net::SocketAddrV4;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::coding::Coding;
use crate::payload::Lane;
use crate::token::Signer;

/// Which server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// Tidings.
    Tidings,
    /// The bare epoll server.
    Floor,
    /// nginx with Nchan, configured as `peers/nchan.conf.in` has it.
    Nchan,
    /// Pushpin, configured as `peers/pushpin.conf.in` has it.
    Pushpin,
}

/// How streams of Tidings are authorised; the others ask for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Authority {
    /// A stream token in the URL, drawn for every stream.
    Token,
    /// The access token in a header.
    Bearer,
}

/// What bounds the streams of a scenario, beside their tenant. Every bound lets the lane's events pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bound {
    /// The stream's own filters by type and device.
    Filters,
    /// Claims of the access token: a list of types and one of fifty devices.
    Claims,
    /// A claim that names a group of fifty devices.
    Group,
}

/// The name of the group of [`Bound::Group`].
const GROUP: &str = "bench";

/// The server under load.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Its address.
    #[arg(long)]
    pub address: SocketAddrV4,
    /// The certificate of a server whose streams are over TLS; what is published is in the clear, at an address of
    /// its own.
    #[arg(long, requires = "publish_address")]
    pub certificate: Option<PathBuf>,
    /// Where it takes what is published, where that is another address.
    #[arg(long)]
    pub publish_address: Option<SocketAddrV4>,
    /// Which server it is.
    #[arg(long, value_enum)]
    pub dialect: Dialect,
    /// Its process id, for CPU and memory.
    #[arg(long)]
    pub process: u32,
    /// The process id of the broker behind it, for its CPU.
    #[arg(long)]
    pub broker: Option<u32>,
    /// Where that broker's monitoring is.
    #[arg(long)]
    pub broker_monitor: Option<SocketAddrV4>,
    /// The secret that access tokens are signed with.
    #[arg(long, default_value = "")]
    pub secret: String,
    /// How streams are authorised.
    #[arg(long, value_enum, default_value = "token")]
    pub authority: Authority,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 250)]
    pub payload_bytes: usize,
    /// What bounds the streams, beside their tenant.
    #[arg(long, value_enum)]
    pub bound: Option<Bound>,
}

/// Writes the requests that a target understands.
#[derive(Debug)]
pub struct Speaker {
    /// The server under load.
    pub target: Target,
    signer: Signer,
    publisher: String,
}

/// What a stream asks for.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent traits of a stream, each named where it is set"
)]
pub struct Wish {
    /// The index of the lane whose events it is to receive.
    pub lane: usize,
    /// The cursor to resume after.
    pub after: Option<String>,
    /// The stream token, where one is needed.
    pub token: Option<String>,
    /// Whether the latency of its events counts.
    pub timed: bool,
    /// Whether it stops reading once it is open.
    pub deaf: bool,
    /// Whether it receives only its lane's device.
    pub filtered: bool,
    /// The content coding that it asks for.
    pub coding: Option<Coding>,
    /// Whether it sees all tenants.
    pub everything: bool,
}

impl Speaker {
    /// A speaker for `target`.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let signer = Signer::new(&target.secret);
        let publisher = signer.super_admin();
        Self {
            target,
            signer,
            publisher,
        }
    }

    /// Whether a stream token must be drawn before a stream is opened.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        self.target.dialect == Dialect::Tidings && self.target.authority == Authority::Token
    }

    /// How many streams may be opened at a time: behind Pushpin each is a request to an application
    /// too, and of too many some fail.
    #[must_use]
    pub fn at_once(&self) -> usize {
        match self.target.dialect {
            Dialect::Pushpin => 16,
            Dialect::Tidings | Dialect::Floor | Dialect::Nchan => usize::MAX,
        }
    }

    /// Whether devices are filtered by the server; where not, a lane has a tenant of its own.
    #[must_use]
    pub fn filters(&self) -> bool {
        self.target.dialect == Dialect::Tidings
    }

    /// The access token of one user of a lane's tenant, with the scenario's bounds.
    fn access_token(&self, user: usize, lane: &Lane) -> String {
        let user = format!("user-{user}");
        match self.target.bound {
            None | Some(Bound::Filters) => self.signer.viewer(&user, &lane.tenant),
            Some(Bound::Claims) => {
                let bounds = format!(
                    "\"types\":[\"device_status\",\"alert_fired\"],\"devices\":{}",
                    devices(lane)
                );
                self.signer.bounded(&user, &lane.tenant, &bounds)
            }
            Some(Bound::Group) => {
                let bounds = format!("\"device_group\":\"{GROUP}\"");
                self.signer.bounded(&user, &lane.tenant, &bounds)
            }
        }
    }

    /// The request that makes the group of [`Bound::Group`] for a lane's tenant.
    #[must_use]
    pub fn make_group(&self, lane: &Lane) -> Vec<u8> {
        let body = format!("{{\"devices\":{}}}", devices(lane));
        let (tenant, publisher) = (&lane.tenant, &self.publisher);
        format!(
            "PUT /tenants/{tenant}/device-groups/{GROUP} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {publisher}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// `POST /auth/sse-token` for one user of a lane's tenant.
    #[must_use]
    pub fn mint(&self, user: usize, lane: &Lane) -> Vec<u8> {
        let access = self.access_token(user, lane);
        format!(
            "POST /auth/sse-token HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {access}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    /// The request that opens a stream.
    #[must_use]
    pub fn open(&self, wish: &Wish, user: usize, lane: &Lane) -> Vec<u8> {
        let mut request = Vec::with_capacity(512);
        let tenant = &lane.tenant;
        // Writing to a Vec can't fail.
        let _ = match (self.target.dialect, wish.everything) {
            (Dialect::Nchan, _) => write!(request, "GET /sub/{tenant}"),
            (Dialect::Tidings, true) => write!(request, "GET /events/stream"),
            _ => write!(request, "GET /tenants/{tenant}/events/stream"),
        };
        let mut separator = '?';
        if let Some(token) = &wish.token {
            let _ = write!(request, "{separator}token={token}");
            separator = '&';
        }
        let filters = self.filters() && self.target.bound == Some(Bound::Filters);
        if wish.filtered || filters {
            let _ = write!(request, "{separator}device_id={}", lane.device);
            separator = '&';
        }
        if filters {
            let _ = write!(request, "{separator}types=device_status,alert_fired");
        }
        let _ = write!(
            request,
            " HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n"
        );
        if self.target.dialect == Dialect::Tidings && wish.token.is_none() {
            let access = if wish.everything {
                self.publisher.clone()
            } else {
                self.access_token(user, lane)
            };
            let _ = write!(request, "Authorization: Bearer {access}\r\n");
        }
        if let Some(coding) = wish.coding {
            let _ = write!(request, "Accept-Encoding: {}\r\n", coding.name());
        }
        if let Some(after) = &wish.after {
            let _ = write!(request, "Last-Event-ID: {after}\r\n");
        }
        request.extend_from_slice(b"\r\n");
        request
    }

    /// The request that publishes the next `count` events of a lane in one body.
    #[must_use]
    pub fn publish(&self, lane: &mut Lane, count: usize, now: u64) -> Vec<u8> {
        let bytes = self.target.payload_bytes;
        if self.target.dialect == Dialect::Pushpin {
            return publish_to_pushpin(lane, count, bytes, now);
        }
        let mut body = Vec::with_capacity(count * (bytes + 100));
        for index in 0..count {
            if index > 0 {
                body.push(b'\n');
            }
            if self.target.dialect == Dialect::Nchan {
                lane.write_data(&mut body, bytes, now);
            } else {
                lane.write_event(&mut body, bytes, now);
            }
        }
        let mut request = Vec::with_capacity(body.len() + 512);
        let room = if self.target.dialect == Dialect::Nchan {
            "pub"
        } else {
            "tenants"
        };
        let call = if self.target.dialect == Dialect::Nchan {
            ""
        } else {
            "/events"
        };
        let content_type = if count == 1 {
            "application/json"
        } else {
            "application/x-ndjson"
        };
        let _ = write!(
            request,
            "POST /{room}/{}{call} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n",
            lane.tenant,
            body.len()
        );
        if self.target.dialect == Dialect::Tidings {
            let _ = write!(request, "Authorization: Bearer {}\r\n", self.publisher);
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(&body);
        request
    }
}

/// Fifty devices as a JSON array, the lane's among them.
fn devices(lane: &Lane) -> String {
    use std::fmt::Write as _;

    let mut list = format!("[\"{}\"", lane.device);
    for number in 1..50 {
        // Writing to a String can't fail.
        let _ = write!(list, ",\"other-{number:06}\"");
    }
    list.push(']');
    list
}

/// Pushpin sends what it is given: the publisher writes the lines of the event.
fn publish_to_pushpin(lane: &mut Lane, count: usize, bytes: usize, now: u64) -> Vec<u8> {
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let mut data = Vec::with_capacity(bytes);
        lane.write_data(&mut data, bytes, now);
        let data = String::from_utf8_lossy(&data);
        let id = lane.published;
        let content = format!("id: {id}\nevent: device_status\ndata: {data}\n\n");
        items.push(serde_json::json!({
            "channel": lane.tenant,
            "formats": {"http-stream": {"content": content}}
        }));
    }
    let body = serde_json::json!({ "items": items }).to_string();
    format!(
        "POST /publish/ HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
