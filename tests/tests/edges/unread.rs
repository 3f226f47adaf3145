//! Answers that nobody reads, and what they take until they are given up.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use tidings_tests::brokers::wait_for;
use tidings_tests::http::try_exchange;
use tidings_tests::publish::status;
use tidings_tests::{Certificates, GUARD, Request, Server, Setup, new_tenant};

use super::http2::{Frames, GOAWAY, PING};
use super::still_serves;

/// A runtime and a connection over HTTP/2 whose client opens this window for each answer.
async fn over_http_2(server: &Server, window: u32) -> h2::client::SendRequest<bytes::Bytes> {
    let socket = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("connects");
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake(socket)
        .await
        .expect("speaks HTTP/2");
    // It answers pings for as long as it lives.
    tokio::spawn(connection);
    client
}

fn get_over_http_2(server: &Server, target: &str, access: &str) -> http::Request<()> {
    http::Request::get(format!("http://{}{target}", server.address))
        .header("authorization", format!("Bearer {access}"))
        .body(())
        .expect("a request")
}

/// Asks for each of these once the one before is answered, and reads no answer beyond its head.
async fn ask_over_http_2(
    client: &h2::client::SendRequest<bytes::Bytes>,
    server: &Server,
    targets: &[&str],
    access: &str,
) -> Vec<http::Response<h2::RecvStream>> {
    let mut answers = Vec::new();
    for target in targets {
        let mut client = client.clone().ready().await.expect("it is alive");
        let request = get_over_http_2(server, target, access);
        let answer = client.send_request(request, true).expect("sends").0.await;
        answers.push(answer.expect("answers"));
    }
    answers
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Pages that nobody reads lay in memory for as long as their client answered pings: 200 of 8 MiB for each connection.
#[test]
fn pages_that_are_not_read_over_http_2_are_bounded_and_given_up() {
    // None is given up before all of them are asked for.
    let mut server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "10m")
        .set("TIDINGS_LIMITS__ANSWERS_IN_MEMORY", "80MiB")
        .start();
    let tenant = new_tenant();
    let text = "a".repeat(900_000);
    for number in 0..12 {
        let mut event = status("r1", number);
        event["data"]["status"] = text.clone().into();
        server.publish(&tenant, &event);
    }
    let target = format!("/tenants/{tenant}/events");
    let access = server.viewer(&tenant);
    runtime().block_on(async {
        let mut client = over_http_2(&server, 0).await;
        let mut answers = Vec::new();
        for _ in 0..20 {
            client = client.ready().await.expect("it is alive");
            let request = get_over_http_2(&server, &target, &access);
            answers.push(client.send_request(request, true).expect("sends").0);
        }
        let mut unread = Vec::new();
        let mut refused = 0;
        for answer in answers {
            let answer = answer.await.expect("answers");
            match answer.status().as_u16() {
                200 => unread.push(answer),
                503 => refused += 1,
                other => panic!("{other}"),
            }
        }
        assert_eq!(
            (unread.len(), refused),
            (2, 18),
            "what lies in memory is bounded"
        );
    });
    server.kill();
    server.start_again_with("TIDINGS_LIMITS__UNREAD_TIME", "1s");
    runtime().block_on(async {
        let client = over_http_2(&server, 0).await;
        for answer in ask_over_http_2(&client, &server, &[&*target; 2], &access).await {
            assert_eq!(answer.status(), 200);
            let end = answer.into_body().data().await.expect("an end");
            let end = end.expect_err("there is no window").reason();
            assert_eq!(end, Some(h2::Reason::CANCEL));
        }
        // The connection lives on, and there is room again; who reads gets all of it.
        client.ready().await.expect("it is alive");
    });
    let request = Request::get(&target).bearer(&access);
    wait_for("room for a page", || {
        try_exchange(server.address, &request).is_ok_and(|answer| answer.body.len() > 8_000_000)
    });
}

/// A place among `limits.requests` was free again before the answer was written, so that any number could be made.
#[test]
fn what_is_read_of_a_tenant_takes_a_place_until_it_is_given_up_and_pages_take_none() {
    // None is given up before the last of them is asked for.
    let mut server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "10m")
        .set("TIDINGS_LIMITS__REQUESTS", "3")
        .start();
    let tenant = new_tenant();
    server.publish(&tenant, &status("r1", 1));
    let target = format!("/tenants/{tenant}/events");
    let access = server.viewer(&tenant);
    // Without a token nobody takes up the places of others by leaving pages unread.
    let mut targets = vec!["/assets/console.js"; 10];
    targets.extend([&*target; 3]);
    runtime().block_on(async {
        let client = over_http_2(&server, 0).await;
        let unread = ask_over_http_2(&client, &server, &targets, &access).await;
        server.exchange(&Request::get("/docs")).problem(503);
        assert!(unread.iter().all(|answer| answer.status() == 200));
    });
    server.kill();
    server.start_again_with("TIDINGS_LIMITS__UNREAD_TIME", "2s");
    runtime().block_on(async {
        let client = over_http_2(&server, 0).await;
        for answer in ask_over_http_2(&client, &server, &targets, &access).await {
            assert_eq!(answer.status(), 200);
            let end = answer.into_body().data().await.expect("an end");
            end.expect_err("there is no window");
        }
        // A place is given back about when the client is told.
        wait_for("a place", || {
            server.exchange(&Request::get("/docs")).status == 200
        });
        drop(client);
    });
}

/// All tenants read by the same few threads, and who waited for them took up the places of everybody.
#[test]
fn a_tenant_that_reads_much_leaves_places_for_others() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__READS_PER_TENANT", "4")
        .set("TIDINGS_LIMITS__REQUESTS", "6")
        .start();
    let (tenant, other) = (new_tenant(), new_tenant());
    let of = |tenant: &str| {
        [
            format!("/tenants/{tenant}/events"),
            format!("/tenants/{tenant}/state"),
        ]
    };
    for tenant in [&tenant, &other] {
        server.publish(tenant, &status("r1", 1));
    }
    let access = server.viewer(&tenant);
    runtime().block_on(async {
        let mut client = over_http_2(&server, 0).await;
        let mut unread = Vec::new();
        let mut refused = 0;
        for target in of(&tenant).iter().cycle().take(20) {
            client = client.ready().await.expect("it is alive");
            let request = get_over_http_2(&server, target, &access);
            let answer = client.send_request(request, true).expect("sends").0.await;
            let answer = answer.expect("answers");
            match answer.status().as_u16() {
                200 => unread.push(answer),
                429 => {
                    assert!(answer.headers().contains_key("retry-after"));
                    refused += 1;
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!((unread.len(), refused), (4, 16));
        for (access, times) in [(server.viewer(&other), 3), (server.super_admin(), 3)] {
            for target in of(&other).iter().cycle().take(times) {
                server
                    .exchange(&Request::get(target).bearer(&access))
                    .expect(200);
            }
        }
        server.publish(&tenant, &status("r1", 2));
        let audit = server.sign(&tidings_tests::AccessToken::new(
            "operator-1",
            &tenant,
            "tenant_operator",
        ));
        for target in ["/audit", "/streams", "/tenants"] {
            server
                .exchange(&Request::get(target).bearer(&audit))
                .problem(429);
        }
    });
}

/// Sends these requests over and over and reads nothing, until the server has ended the connection.
fn ask_and_never_read(address: std::net::SocketAddr, requests: &[u8]) {
    let mut socket = TcpStream::connect(address).expect("connects");
    let patience = std::time::Duration::from_millis(100);
    socket.set_write_timeout(Some(patience)).expect("set");
    let deadline = Instant::now() + GUARD;
    loop {
        match socket.write(requests) {
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                ) =>
            {
                return;
            }
            _ => assert!(Instant::now() < deadline, "the connection is held"),
        }
    }
}

/// Each held a descriptor for good, whoever it was: no token is needed for pages.
#[test]
fn who_asks_and_never_reads_is_cut_off_over_http_1() {
    let certificates = Certificates::new();
    let server = Setup::new()
        .set("TIDINGS_LIMITS__UNREAD_TIME", "1s")
        .over_tls(
            &certificates.path("server.pem"),
            &certificates.path("server.key"),
        )
        .start();
    let page = Request::get("/openapi.json").bytes().repeat(100);
    ask_and_never_read(server.address, &page);
    let tenant = new_tenant();
    for number in 0..20 {
        let mut event = status(&format!("r{number}"), number);
        event["data"]["status"] = "a".repeat(900_000).into();
        server.publish(&tenant, &event);
    }
    let state = Request::get(&format!("/tenants/{tenant}/state")).bearer(&server.viewer(&tenant));
    ask_and_never_read(server.address, &state.bytes());
    still_serves(&server);
}

/// Pings are answered by the client's library, whatever becomes of who uses it.
#[test]
fn a_connection_over_http_2_that_nobody_uses_is_ended() {
    let server = Setup::new().set("TIDINGS_LIMITS__IDLE_TIME", "1s").start();
    let mut frames = Frames::open(&server);
    let error = loop {
        let (kind, flags, _, payload) = frames.next().expect("a GOAWAY");
        match kind {
            PING if flags == 0 => frames.send(PING, 1, 0, &payload).expect("answers"),
            GOAWAY => break u32::from_be_bytes(payload[4..8].try_into().expect("an error")),
            _ => {}
        }
    };
    assert_eq!(error, 0, "nothing was wrong with it");
    while let Some((kind, flags, _, payload)) = frames.next() {
        if kind == PING && flags == 0 {
            let _ = frames.send(PING, 1, 0, &payload);
        }
    }
}

/// Neither limit is for streams: one that is silent, whose connection is otherwise idle, stays.
#[test]
fn a_stream_over_http_2_outlives_both_limits() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__IDLE_TIME", "500ms")
        .set("TIDINGS_LIMITS__UNREAD_TIME", "500ms")
        .start();
    let tenant = new_tenant();
    let target = format!("/tenants/{tenant}/events/stream");
    let access = server.viewer(&tenant);
    let deadline = Instant::now() + GUARD;
    runtime().block_on(async {
        // A connection may be idle for long enough before its first request is there.
        let (_client, answer) = loop {
            assert!(Instant::now() < deadline, "no stream is opened");
            let client = over_http_2(&server, 1_000_000).await;
            let Ok(mut client) = client.ready().await else {
                continue;
            };
            let request = get_over_http_2(&server, &target, &access);
            let Ok((answer, _)) = client.send_request(request, true) else {
                continue;
            };
            if let Ok(answer) = answer.await {
                break (client, answer);
            }
        };
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut read = async |until: &str, count: usize| {
            let mut text = String::new();
            while text.matches(until).count() < count {
                let chunk = body.data().await.expect("no end").expect("no reset");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        read(": heartbeat", 3).await;
        let last = server.publish(&tenant, &status("r1", 1)).last;
        read(&last, 1).await;
    });
}
