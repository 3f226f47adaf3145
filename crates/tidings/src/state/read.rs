//! `GET /tenants/{tenant_id}/state`: the last event of each living subject, as JSON.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use tidings_log::{Log, StateEntries};
use tidings_protocol::api::TenantState;

use super::current;
use crate::app::App;
use crate::cursors::Cursors;
use crate::engine::shows;
use crate::error::Refusal;
use crate::fanout::{TypeTable, View, snapshot};
use crate::history::authorise;
use crate::stream::request::{Query, read_tenant};

/// How many bytes of the answer are laid out at a time.
const PART: usize = 64 * 1024;

/// How many subjects are looked at before other requests have their turn.
const LOOKED_AT: usize = 2048;

/// `GET /tenants/{tenant_id}/state`.
///
/// # Errors
///
/// As the protocol has it.
#[utoipa::path(
    get,
    path = "/tenants/{tenant_id}/state",
    tag = "events",
    summary = "Read how things are: the last event of each living subject",
    description = "By subject. Whoever goes on from `cursor`, by stream or history, misses nothing.",
    params(
        ("tenant_id" = uuid::Uuid, Path, description = "The tenant."),
        crate::openapi::StateParameters,
    ),
    responses(
        (status = 200, description = "The subjects of the view, and the cursor that all of this is true at.", body = TenantState),
        crate::openapi::ReadRefusals,
    ),
    security(("access_token" = []))
)]
pub async fn state(
    State(app): State<Arc<App>>,
    Path(tenant): Path<String>,
    Extension(peer): Extension<SocketAddr>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let tenant = read_tenant(&tenant)?;
    let query = Query::parse(query.as_deref())?;
    let asked = query.view(&app.known_types)?;
    let identity = authorise(&app, &headers, peer, tenant).await?;
    let place = app.limits.read(identity.reads_for())?;
    let rules = app.rules(Arc::new(identity), Some(tenant), asked)?;
    let view = rules.view(&app.types);
    let turn = place.turn().await;
    let snapshot = current(&app, view.scope()).await?;
    drop(turn);
    let mut part = Vec::new();
    // Writing to a Vec can't fail.
    let _ = write!(
        part,
        "{{\"cursor\":\"{}\",\"subjects\":[",
        app.cursor(snapshot.through())
    );
    let body = StateBody {
        view,
        types: Arc::clone(&app.types),
        cursors: Arc::clone(&app.cursors),
        log: app.log.clone(),
        left: Some(snapshot.into_entries()),
        part,
        first: true,
    };
    let mut response = Body::new(body).into_response();
    response.extensions_mut().insert(Arc::new(place));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The answer, laid out part by part as the connection takes it.
struct StateBody {
    view: View,
    types: Arc<TypeTable>,
    cursors: Arc<Cursors>,
    log: Log,
    /// `None` when all was laid out.
    left: Option<StateEntries>,
    part: Vec<u8>,
    first: bool,
}

impl StateBody {
    fn lay_out(&mut self) {
        let Some(left) = &mut self.left else {
            return;
        };
        for _ in 0..LOOKED_AT {
            let Some(entry) = left.next() else {
                self.part.extend_from_slice(b"]}");
                self.left = None;
                return;
            };
            if shows(&self.view, &self.types, &self.log, &entry) {
                if !std::mem::take(&mut self.first) {
                    self.part.push(b',');
                }
                snapshot::write_subject(&mut self.part, self.cursors.ids(), &entry);
                if self.part.len() >= PART {
                    return;
                }
            }
        }
    }
}

impl http_body::Body for StateBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.lay_out();
        if !self.part.is_empty() {
            let part = std::mem::take(&mut self.part);
            return Poll::Ready(Some(Ok(Frame::data(part.into()))));
        }
        if self.left.is_none() {
            return Poll::Ready(None);
        }
        // Nothing of the view among so many: others first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
