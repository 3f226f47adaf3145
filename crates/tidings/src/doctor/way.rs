//! The way that clients take, through every proxy in between: a stream is opened as a browser does, and looked at
//! while it says nothing but that it is there.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, DATE,
    HeaderValue, LOCATION,
};
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use tidings_protocol::TenantId;
use tidings_protocol::api::StreamTokenGrant;
use tokio::time::{Instant, timeout, timeout_at};

use super::certificate::validity;
use super::report::Finding;
use super::wire::{Reached, Target, Unreached, text};
use super::{clock, secrets};

const UNBUFFER: &str = "something on the way waits for a full buffer. nginx: proxy_buffering off, and no \
                        proxy_ignore_headers X-Accel-Buffering; elsewhere what turns response buffering off \
                        (docs/behind-a-proxy.md has tested samples)";

/// What stands at the head of each stream.
const PREAMBLE: (&str, &str) = ("retry: ", ": connected sse-");

/// What the way is looked at with.
#[derive(Clone)]
pub struct Way {
    /// The URL that clients have.
    pub url: String,
    /// Authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An access token; without one no stream can be opened.
    pub access_token: Option<String>,
    /// Whose stream to open; none for a view of all tenants.
    pub tenant: Option<TenantId>,
    /// After how much silence the server sends a heartbeat (`stream.heartbeat`).
    pub heartbeat: Duration,
    /// The codings that the server may use itself (`stream.compression`).
    pub codings: Vec<String>,
    /// How long to wait for what should be there at once.
    pub patience: Duration,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Way")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// A finding that ends the looking: what is behind it can't be seen.
type Looked<T> = Result<T, Finding>;

impl Way {
    /// Looks. `tell` is given each finding as it is made: waiting for a heartbeat takes a while.
    pub async fn examine(&self, tell: &mut impl FnMut(Finding)) {
        if let Err(last) = self.look(tell).await {
            tell(last);
        }
    }

    async fn look(&self, tell: &mut impl FnMut(Finding)) -> Looked<()> {
        let parsed = Target::parse(&self.url, self.ca_file.as_deref());
        let target = parsed
            .map_err(|what| Finding::problem("url", what, "give the URL that clients have"))?;
        let reached = target.connect().await.map_err(|error| unreached(&error))?;
        connection(&target, &reached)
            .into_iter()
            .for_each(&mut *tell);
        let Some(access_token) = &self.access_token else {
            return Err(Finding::warning(
                "stream",
                "no access token was given, so no stream was opened",
                "set TIDINGS_TOKEN, or give --token; a viewer's will do",
            ));
        };
        let token = self.mint(&target, access_token, tell).await?;
        self.stream(&target, &token, tell).await?;
        self.spent(&target, &token).await.map(&mut *tell)?;
        let token = self.mint(&target, access_token, &mut |_| {}).await?;
        tell(self.coding(&target, &token).await?);
        Ok(())
    }

    /// Sends one request over a connection of its own, and waits for the head of the answer.
    async fn ask(
        &self,
        target: &Target,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Looked<Response<Incoming>> {
        let mut reached = target.connect().await.map_err(|error| unreached(&error))?;
        let what = path.split('?').next().unwrap_or_default().to_owned();
        match timeout(self.patience, reached.send(target, method, path, headers)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Finding::problem(
                "way",
                format!("{what}: {error}"),
                "see the proxy's error log, and whether the server runs",
            )),
            Err(_) => Err(Finding::problem(
                "buffering",
                format!("{what}: no answer within {:?}", self.patience),
                format!(
                    "where the server's log shows the request as answered, {UNBUFFER}; otherwise the proxy does not reach it"
                ),
            )),
        }
    }

    /// Asks for a stream token, as a browser does.
    async fn mint(
        &self,
        target: &Target,
        access_token: &str,
        tell: &mut impl FnMut(Finding),
    ) -> Looked<String> {
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {access_token}"));
        let mut bearer = bearer.map_err(|_| {
            Finding::problem(
                "login",
                "the access token is none",
                "give the JWT, and nothing around it",
            )
        })?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        let answer = self
            .ask(target, Method::POST, "/auth/sse-token", headers)
            .await?;
        let status = answer.status().as_u16();
        let date = answer.headers().get(DATE).cloned();
        let location = answer.headers().get(LOCATION).cloned();
        let body = text(answer).await.unwrap_or_default();
        if status != 200 {
            return Err(refused(status, location.as_ref(), &body));
        }
        if let Some(ahead) = date.and_then(|date| ahead(date.to_str().ok()?, SystemTime::now())) {
            tell(clock::against("the clock at the other end", ahead));
        }
        let grant = serde_json::from_str::<StreamTokenGrant>(&body);
        Ok(grant
            .map_err(|_| refused(status, location.as_ref(), &body))?
            .token)
    }

    fn path(&self, token: &str) -> String {
        match self.tenant {
            Some(tenant) => format!("/tenants/{tenant}/events/stream?token={token}"),
            None => format!("/events/stream?token={token}"),
        }
    }

    /// Opens a stream and reads until a heartbeat has come.
    async fn stream(
        &self,
        target: &Target,
        token: &str,
        tell: &mut impl FnMut(Finding),
    ) -> Looked<()> {
        let headers = accepting("identity");
        let answer = self
            .ask(target, Method::GET, &self.path(token), headers)
            .await?;
        if answer.status() != 200 {
            return Err(self.not_opened(answer).await);
        }
        head(answer.headers()).into_iter().for_each(&mut *tell);
        let mut body = Reader::of(answer.into_body());
        let began = body.read_until(Instant::now() + self.patience, |text| {
            text.contains(PREAMBLE.1) && text.ends_with("\n\n")
        });
        if !began.await {
            let what = if body.text.is_empty() {
                format!(
                    "the head of a stream came, and nothing of it within {:?}",
                    self.patience
                )
            } else {
                format!(
                    "of a stream came {:?} within {:?}, and no more",
                    body.text, self.patience
                )
            };
            return Err(Finding::problem("buffering", what, UNBUFFER));
        }
        tell(if body.text.starts_with(PREAMBLE.0) {
            Finding::good("buffering", "what the server sends arrives at once")
        } else {
            Finding::problem(
                "transform",
                format!(
                    "a stream begins with {:?}",
                    body.text.lines().next().unwrap_or_default()
                ),
                "something on the way changes bodies: turn that off for text/event-stream",
            )
        });
        let before = body.text.len();
        let limit = Instant::now() + self.heartbeat + self.patience;
        if body.read_until(limit, |text| text.len() > before).await {
            tell(Finding::good("heartbeat", "heartbeats arrive"));
            return Ok(());
        }
        let what = if body.ended {
            "the stream was cut off before a heartbeat".to_owned()
        } else {
            format!("no heartbeat within {:?}", self.heartbeat + self.patience)
        };
        Err(Finding::problem(
            "heartbeat",
            what,
            format!(
                "stream.heartbeat is {:?} here. Where the server has another, run this with its configuration; \
                 otherwise the proxy's idle timeout must be longer, or {UNBUFFER}",
                self.heartbeat
            ),
        ))
    }

    async fn not_opened(&self, answer: Response<Incoming>) -> Finding {
        let status = answer.status().as_u16();
        let location = answer.headers().get(LOCATION).cloned();
        let body = text(answer).await.unwrap_or_default();
        if status == 401 {
            return Finding::problem(
                "stream",
                "the stream token that was given a moment ago opens no stream",
                "where several nodes stand behind the proxy, set tokens.kind to redis; otherwise something on the way \
                 sends requests twice (nginx: proxy_next_upstream off)",
            );
        }
        refused(status, location.as_ref(), &body)
    }

    /// Shows the token again: it must be refused, in the server's words.
    async fn spent(&self, target: &Target, token: &str) -> Looked<Finding> {
        let answer = self
            .ask(
                target,
                Method::GET,
                &self.path(token),
                accepting("identity"),
            )
            .await?;
        let status = answer.status().as_u16();
        let kind = answer.headers().get(CONTENT_TYPE);
        let is_ours = kind.is_some_and(|kind| kind == "application/problem+json");
        Ok(match status {
            200 => Finding::problem(
                "cache",
                "a stream token opened a second stream",
                "something on the way answers in the server's place: turn caching off",
            ),
            401 | 429 if is_ours => Finding::good(
                "refusals",
                "a token that is spent is refused, in the server's words",
            ),
            _ => Finding::warning(
                "refusals",
                format!(
                    "a token that is spent is refused with {status}, and not in the server's words"
                ),
                "clients read the reason and Retry-After of a refusal: let the proxy pass errors as they are (nginx: \
                 proxy_intercept_errors off)",
            ),
        })
    }

    /// Opens a stream as browsers do, which take compression.
    async fn coding(&self, target: &Target, token: &str) -> Looked<Finding> {
        let headers = accepting("gzip, deflate, br, zstd");
        let answer = self
            .ask(target, Method::GET, &self.path(token), headers)
            .await?;
        let coding = answer
            .headers()
            .get(CONTENT_ENCODING)
            .map(|coding| String::from_utf8_lossy(coding.as_bytes()).into_owned());
        Ok(match coding {
            None => Finding::good("compression", "streams are not compressed"),
            Some(coding) if self.codings.contains(&coding) => Finding::good(
                "compression",
                format!("streams are compressed by {coding}, as stream.compression says"),
            ),
            Some(coding) => Finding::warning(
                "compression",
                format!(
                    "streams are compressed by {coding}, and stream.compression does not say so"
                ),
                "something on the way compresses, which holds events back until there are enough of them: turn it off \
                 for text/event-stream (nginx: gzip off)",
            ),
        })
    }
}

/// The text of a stream as it comes.
struct Reader {
    body: Incoming,
    text: String,
    ended: bool,
}

impl Reader {
    fn of(body: Incoming) -> Self {
        Self {
            body,
            text: String::new(),
            ended: false,
        }
    }

    /// Reads until `enough` says so; whether it did in time.
    async fn read_until(&mut self, limit: Instant, enough: impl Fn(&str) -> bool) -> bool {
        loop {
            if enough(&self.text) {
                return true;
            }
            match timeout_at(limit, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.text.push_str(&String::from_utf8_lossy(&bytes));
                    }
                }
                Ok(Some(Err(_)) | None) => {
                    self.ended = true;
                    return false;
                }
                Err(_) => return false,
            }
        }
    }
}

fn accepting(codings: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(codings));
    headers
}

/// Judges why there is no connection.
fn unreached(error: &Unreached) -> Finding {
    let advice = match error {
        Unreached::Connection(_) => {
            "see whether the name has the right address, the proxy runs and a firewall lets this through"
        }
        Unreached::Tls(_) => {
            "browsers refuse it too: give the proxy a certificate for this name with all that is between it and its \
             authority; where the authority is your own, give --ca-file"
        }
        Unreached::Http(_) => "see that the port is the one of HTTP",
    };
    Finding::problem("way", error.to_string(), advice)
}

/// Judges a connection before anything is asked over it.
fn connection(target: &Target, reached: &Reached) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !target.is_secure() && !target.is_loopback() {
        findings.push(Finding::warning(
            "way",
            "the URL is http://: tokens and events can be read on the way",
            "let a proxy speak TLS (docs/behind-a-proxy.md)",
        ));
    }
    if let Some(times) = reached.certificate.as_deref().and_then(validity) {
        findings.push(secrets::judged(
            "the certificate at the other end",
            times,
            Timestamp::now(),
        ));
    }
    if reached.is_http_2 {
        findings.push(Finding::good("way", "HTTP/2 is spoken"));
    } else if target.is_secure() {
        findings.push(Finding::warning(
            "way",
            "HTTP/2 is not offered",
            "over HTTP/1.1 a browser opens six connections to a host, and each stream takes one: turn HTTP/2 on in the \
             proxy (nginx: listen … ssl http2; HAProxy: alpn h2,http/1.1)",
        ));
    }
    findings
}

/// Judges the head of a stream.
fn head(headers: &HeaderMap) -> Vec<Finding> {
    let said = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut findings = Vec::new();
    if !said(CONTENT_TYPE).starts_with("text/event-stream") {
        findings.push(Finding::problem(
            "transform",
            format!("a stream has the content type {:?}", said(CONTENT_TYPE)),
            "something on the way changes heads, or answers in the server's place; browsers take text/event-stream only",
        ));
    }
    if !said(CACHE_CONTROL).contains("no-transform") {
        findings.push(Finding::warning(
            "transform",
            format!("a stream's Cache-Control is {:?}", said(CACHE_CONTROL)),
            "let the server's own pass (no-store, no-transform): what is further on may buffer or compress otherwise",
        ));
    }
    if !headers.contains_key("x-connection-id") {
        findings.push(Finding::warning(
            "transform",
            "a stream has no X-Connection-Id",
            "let the header pass: it is by what a client's stream is found in the server's log",
        ));
    }
    findings
}

/// Judges an answer that is no success. What a proxy writes itself is not a problem document.
fn refused(status: u16, location: Option<&HeaderValue>, body: &str) -> Finding {
    let detail = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| problem["detail"].as_str().map(str::to_owned));
    let what = match &detail {
        Some(detail) => format!("the server answers {status}: {detail}"),
        None => format!("the answer is {status}, and not the server's own"),
    };
    let advice = match status {
        300..=399 => {
            let to = location.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
            format!("give the URL that it leads to: {}", to.unwrap_or_default())
        }
        401 if detail.is_some() => "give an access token that is good: `tidings token` mints one for development. If it is \
             good, the proxy does not pass Authorization on"
            .to_owned(),
        403 if detail.is_some() => "give an access token of this tenant, or its --tenant".to_owned(),
        404 => "give the URL with the prefix under which the API answers (mount), such as https://events.example.com/api"
            .to_owned(),
        429 => "wait, and see the limits by address: behind a proxy all clients can share one (limits.*_per_address)"
            .to_owned(),
        502..=504 => "the proxy does not reach the server, or the server refuses: see the proxy's error log and /readyz"
            .to_owned(),
        200 => "something on the way answers in the server's place".to_owned(),
        _ => "see the proxy's log, and the server's".to_owned(),
    };
    Finding::problem("way", what, advice)
}

/// By how many seconds a `Date` (RFC 9110, section 5.6.7) is ahead of a time. It is cut to the second.
fn ahead(date: &str, now: SystemTime) -> Option<f64> {
    let date = httpdate::parse_http_date(date).ok()?;
    let since = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .map(|since| since.as_secs_f64())
    };
    Some(since(date).ok()? + 0.5 - since(now).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn a_head_that_was_changed_on_the_way_is_found() {
        let mut headers = HeaderMap::new();
        let set = |headers: &mut HeaderMap, name, value| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(
            &mut headers,
            CONTENT_TYPE,
            "text/event-stream; charset=utf-8",
        );
        set(&mut headers, CACHE_CONTROL, "no-store, no-transform");
        set(
            &mut headers,
            http::HeaderName::from_static("x-connection-id"),
            "sse-1",
        );
        assert_eq!(head(&headers), []);
        set(&mut headers, CACHE_CONTROL, "max-age=3600");
        assert_eq!(head(&headers)[0].weight, Weight::Warning);
        set(&mut headers, CONTENT_TYPE, "text/html");
        assert_eq!(head(&headers)[0].weight, Weight::Problem);
    }

    #[test]
    fn a_refusal_says_whose_it_is_and_what_would_do() {
        let ours = refused(401, None, r#"{"detail":"the access token has expired"}"#);
        assert!(
            ours.what.contains("the server answers 401"),
            "{}",
            ours.what
        );
        let theirs = refused(502, None, "<html>Bad Gateway</html>");
        assert!(
            theirs.what.contains("not the server's own"),
            "{}",
            theirs.what
        );
        assert!(!theirs.what.contains("html"));
        let moved = refused(301, Some(&HeaderValue::from_static("https://b/")), "");
        assert!(moved.advice.unwrap().ends_with("https://b/"));
    }

    #[test]
    fn a_date_is_compared_with_the_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let found = ahead("Sun, 06 Nov 1994 08:49:37 GMT", now).unwrap();
        assert!((found - 0.5).abs() < 0.001, "{found}");
        assert_eq!(ahead("yesterday", now), None);
    }
}
