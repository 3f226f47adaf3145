//! The samples of `deploy/` in front of the real server, in the real proxies: what `docs/behind-a-proxy.md` says of
//! them. Every client here speaks TLS to the proxy, as browsers do.

#[path = "proxies/nodes.rs"]
mod nodes;
#[path = "proxies/upstream.rs"]
mod upstream;

use serde_json::json;
use tidings_tests::http::{exchange, try_exchange};
use tidings_tests::proxies::Upstream;
use tidings_tests::publish::{self, status};
use tidings_tests::server::any_address;
use tidings_tests::{
    Connection, Item, Proxy, ProxyKind, ProxyOptions, Request, Server, Setup, Watch, new_tenant,
};
use upstream::Broken;

fn for_each(test: impl Fn(ProxyKind)) {
    for kind in ProxyKind::ALL {
        // Shown only where the test fails.
        println!("--- {kind:?}");
        test(kind);
    }
}

/// A stream token that was asked for through the proxy.
fn mint(proxy: &Proxy, access_token: &str) -> String {
    let request = Request::post("/auth/sse-token").bearer(access_token);
    let body = exchange(proxy.address, &request).expect(200);
    body["token"].as_str().expect("a token").to_owned()
}

/// A request for a stream, opened the way a browser does, all of it through the proxy.
fn watch(proxy: &Proxy, server: &Server, tenant: &str) -> Watch {
    proxy
        .stream_of(tenant)
        .token(&mint(proxy, &server.viewer(tenant)))
}

/// The next event is published only once the last one has arrived, so one that is held back ends the test.
#[test]
fn events_arrive_one_by_one_and_nothing_is_compressed() {
    for_each(|kind| {
        let server = Server::start();
        let proxy = ProxyOptions::new(kind, &server).start();
        let tenant = new_tenant();
        let token = mint(&proxy, &server.viewer(&tenant));
        let request = proxy.stream_of(&tenant).token(&token).request();
        let mut connection = Connection::open(proxy.address).expect("connects");
        let request = request.header("Accept-Encoding", "gzip, deflate, br, zstd");
        connection.send(&request.bytes()).expect("sends");
        let mut stream = tidings_tests::Stream::over(connection)
            .expect("an answer")
            .expect("a stream");
        assert_eq!(stream.head.header("content-encoding"), None);
        assert_eq!(
            stream.head.header("cache-control"),
            Some("no-store, no-transform")
        );
        assert!(stream.connection_id().starts_with("sse-"));
        let publisher = server.publisher(&tenant);
        for number in 0..5 {
            // Large ones too: what fills a buffer is no proof, and what does not fill its last one is held back.
            let padding = "x".repeat(if number == 3 { 100_000 } else { 1 });
            let event = json!({"type": "metric_update", "data": {"n": number, "p": padding}});
            let published = publish::one(&tenant, &publisher, &event);
            let receipt = publish::must(proxy.address, &published);
            assert_eq!(stream.next_event().cursor(), receipt.last);
        }
    });
}

#[test]
fn heartbeats_hold_the_line_beyond_the_idle_timeout() {
    let hold = |kind: ProxyKind| {
        println!("--- {kind:?}");
        let beating = Setup::new().set("TIDINGS_STREAM__HEARTBEAT", "1s").start();
        let silent = Setup::new().set("TIDINGS_STREAM__HEARTBEAT", "1h").start();
        let tenant = new_tenant();
        let before = |server| ProxyOptions::new(kind, server).idle_timeout("5s").start();
        let (proxy, other) = (before(&beating), before(&silent));
        let mut held = watch(&proxy, &beating, &tenant).open();
        let mut cut = watch(&other, &silent, &tenant).open();
        // Twelve of them take more than ten seconds, whatever the machine is busy with.
        held.read_until("twelve heartbeats", |raw| {
            String::from_utf8_lossy(raw).matches(": heartbeat").count() >= 12
        });
        let receipt = beating.publish(&tenant, &status("r1", 1));
        assert_eq!(held.next_event().cursor(), receipt.last);

        // That the timeout is one: without heartbeats the line is cut, and the client told by the end of it.
        cut.rest();
    };
    // They only wait, so they wait together.
    std::thread::scope(|scope| {
        for kind in ProxyKind::ALL {
            scope.spawn(move || hold(kind));
        }
    });
}

#[test]
fn a_stream_resumes_through_a_restart_of_the_proxy() {
    for_each(|kind| {
        let server = Server::start();
        let mut proxy = ProxyOptions::new(kind, &server).start();
        let tenant = new_tenant();
        let mut stream = watch(&proxy, &server, &tenant).open();
        let before = server.publish(&tenant, &status("r1", 1));
        assert_eq!(stream.next_event().cursor(), before.last);
        proxy.stop();
        let rest = stream.rest();
        // Heartbeats may come until the end.
        let is_silent = rest.iter().all(|item| matches!(item, Item::Comment(_)));
        assert!(is_silent, "{rest:?}");
        let meanwhile = server.publish(&tenant, &status("r1", 2));
        proxy.start_again();
        let mut stream = watch(&proxy, &server, &tenant).after(&before.last).open();
        assert_eq!(stream.next_event().cursor(), meanwhile.last);
        let after = server.publish(&tenant, &status("r1", 3));
        assert_eq!(stream.next_event().cursor(), after.last);
    });
}

/// No heartbeat would tell the server within the hour.
#[test]
fn a_client_that_leaves_is_gone_at_the_server() {
    for_each(|kind| {
        let server = Setup::new().set("TIDINGS_STREAM__HEARTBEAT", "1h").start();
        let proxy = ProxyOptions::new(kind, &server).start();
        let tenant = new_tenant();
        let stream = watch(&proxy, &server, &tenant).open();
        let id = stream.connection_id().to_owned();
        drop(stream);
        server.wait_for_log("the end of the stream", |line| {
            line.contains("stream_closed") && line.contains(&id)
        });
    });
}

/// nginx sends what failed to the next upstream unless it is told not to, and Go's HTTP client, which Caddy has, sends
/// a GET again that fails over a connection that was used before.
#[test]
fn what_fails_is_not_sent_again() {
    for_each(|kind| {
        let nodes = [Broken::start(), Broken::start()];
        let upstreams = nodes.each_ref().map(Broken::as_upstream);
        let mut options = ProxyOptions::in_front_of(kind, &upstreams);
        if kind == ProxyKind::Nginx {
            // Both fail, so both would be passed over for a while, and nothing be sent.
            options = options.replace(";\n    server 127", " max_fails=0;\n    server 127");
            options = options.replace(";\n    # To the", " max_fails=0;\n    # To the");
        }
        let proxy = options.start();
        let tenant = new_tenant();
        for round in 0..4 {
            // Connections that are kept, to both, for streams and for what is none.
            let warm = proxy.stream_of(&tenant).token("warm").request();
            for _ in 0..4 {
                for request in [&warm, &Request::get("/openapi.json")] {
                    exchange(proxy.address, request).expect(200);
                }
            }
            let secret = format!("secret-{round}");
            let stream = proxy.stream_of(&tenant).token(&secret).request();
            let publish = Request::post(&format!("/tenants/{tenant}/events?round={round}"))
                .body("application/json", "{}");
            for (request, mark) in [(stream, secret), (publish, format!("?round={round} "))] {
                if let Ok(answer) = try_exchange(proxy.address, &request) {
                    assert!(matches!(answer.status, 502..=504), "{}", answer.head);
                }
                let seen: Vec<String> = nodes.iter().flat_map(Broken::seen).collect();
                let times = seen.iter().filter(|line| line.contains(&mark)).count();
                assert_eq!(times, 1, "{mark}: {seen:?}");
            }
        }
    });
}

#[test]
fn no_log_holds_a_token() {
    for_each(|kind| {
        let mut server = Server::start();
        let mut proxy = ProxyOptions::new(kind, &server).start();
        let tenant = new_tenant();
        let access = server.viewer(&tenant);
        let spent = mint(&proxy, &access);
        let mut stream = proxy.stream_of(&tenant).token(&spent).open();
        assert_eq!(proxy.stream_of(&tenant).token(&spent).refused().status, 401);
        let with_header = proxy.stream_of(&tenant).bearer(&access).open();
        drop(with_header);
        // What is hardly a request, and one with too much in it. HAProxy takes the first for one, and a stream is opened.
        let lost = mint(&proxy, &access);
        let request = proxy.stream_of(&tenant).token(&lost).request();
        let much = request.clone().header("X-Much", &"x".repeat(200_000));
        for odd in [request.version("HTTP/9.9"), much] {
            let mut connection = Connection::open(proxy.address).expect("connects");
            let _ = connection.send(&odd.bytes());
            let _ = connection.read_head();
        }
        // The upstream breaks off, and then is not there.
        server.kill();
        stream.rest();
        for _ in 0..3 {
            let request = proxy.stream_of(&tenant).token(&lost).request();
            let _ = try_exchange(proxy.address, &request);
        }
        let path = format!("/tenants/{tenant}/events/stream");
        proxy.wait_for_log("a line for each of six streams", |text| {
            text.matches(&path).count() >= 6
        });
        proxy.stop();
        let logged = proxy.logged();
        for secret in [&spent, &lost, &access] {
            // A part of it would do for somebody who looks for the rest.
            assert!(
                !logged.contains(&secret[..12]),
                "a token is logged: {logged}"
            );
        }
        assert!(!logged.contains("token="), "{logged}");
    });
}

#[test]
fn refusals_come_as_the_server_made_them() {
    for_each(|kind| {
        let server = Setup::new()
            .set("TIDINGS_LIMITS__STREAMS_PER_TENANT", "1")
            .start();
        let proxy = ProxyOptions::new(kind, &server).start();
        let tenant = new_tenant();
        let _first = watch(&proxy, &server, &tenant).open();
        let refused = watch(&proxy, &server, &tenant).refused();
        refused.problem(429);
        let seconds = refused.header("retry-after").expect("when to come back");
        assert!(seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0));

        let node = Broken::start();
        let proxy = ProxyOptions::in_front_of(kind, &[node.as_upstream()]).start();
        let answer = exchange(proxy.address, &Request::get("/busy"));
        assert_eq!(answer.expect(503), json!({"status": 503}));
        assert_eq!(answer.header("retry-after"), Some("7"));
    });
}

/// A node that can't be connected to has seen nothing, so that its share goes to the others.
#[test]
fn a_node_that_is_gone_is_passed_over_by_haproxy() {
    let server = Server::start();
    let nowhere = any_address();
    let gone = Upstream {
        address: nowhere,
        admin: server.admin,
    };
    let here = Upstream {
        address: server.address,
        admin: server.admin,
    };
    let proxy = ProxyOptions::in_front_of(ProxyKind::Haproxy, &[gone, here]).start();
    for _ in 0..4 {
        exchange(proxy.address, &Request::get("/openapi.json")).expect(200);
    }
}

/// What nginx does where nobody says anything of versions: the end of a stream is the end of its connection.
#[test]
fn an_upstream_of_http_1_0_will_do() {
    let server = Server::start();
    let proxy = ProxyOptions::new(ProxyKind::Nginx, &server)
        .replace("    proxy_http_version 1.1;\n", "")
        .replace("    proxy_set_header Connection \"\";\n", "")
        .replace("    keepalive 32;\n", "")
        .start();
    let tenant = new_tenant();
    let mut stream = watch(&proxy, &server, &tenant).open();
    for number in 0..3 {
        let receipt = server.publish(&tenant, &status("r1", number));
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
}

/// The body of a stream over HTTP/2, as far as it has come.
struct OverHttp2 {
    body: h2::RecvStream,
    bytes: Vec<u8>,
}

impl OverHttp2 {
    async fn open(address: std::net::SocketAddr, target: &str, access_token: &str) -> Self {
        let socket = tokio::net::TcpStream::connect(address)
            .await
            .expect("connects");
        let (client, connection) = h2::client::handshake(socket).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        let mut client = client.ready().await.expect("ready");
        let request = http::Request::get(format!("https://{address}{target}"))
            .header("authorization", format!("Bearer {access_token}"))
            .body(())
            .expect("a request");
        let (answer, _) = client.send_request(request, true).expect("sends");
        let (head, body) = answer.await.expect("answers").into_parts();
        assert_eq!(head.status, 200);
        Self {
            body,
            bytes: Vec::new(),
        }
    }

    async fn read_to(&mut self, mark: &str) {
        while !String::from_utf8_lossy(&self.bytes).contains(mark) {
            let next = self.body.data().await;
            let chunk = next.expect("more to come").expect("no reset");
            let _ = self.body.flow_control().release_capacity(chunk.len());
            self.bytes.extend_from_slice(&chunk);
        }
    }
}

#[test]
fn browsers_may_speak_http_2_to_the_proxy() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for_each(|kind| {
        let server = Server::start();
        let proxy = ProxyOptions::new(kind, &server).start();
        let tunnel = proxy.tunnel("h2");
        let tenant = new_tenant();
        let (access, target) = (
            server.viewer(&tenant),
            format!("/tenants/{tenant}/events/stream"),
        );
        let work = async {
            let mut stream = OverHttp2::open(tunnel.address, &target, &access).await;
            for number in 0..3 {
                let event = status("r1", number);
                // The tasks that carry it run on other threads.
                let receipt = server.publish(&tenant, &event);
                stream.read_to(&format!("id: {}\n", receipt.last)).await;
            }
        };
        runtime
            .block_on(async { tokio::time::timeout(tidings_tests::GUARD, work).await })
            .expect("not a hang");
    });
}
