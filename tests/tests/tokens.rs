//! Who gets a stream token and what it opens: the checks in the order of the protocol, single use,
//! and the end of an authority. See `spec/protocol.md`, "Getting a stream token" and "Opening a
//! stream".

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use tidings_tests::access::now;
use tidings_tests::http::encode;
use tidings_tests::publish::status;
use tidings_tests::{AccessToken, Answer, Item, Request, Server, Setup, Watch, new_tenant};

const INVALID: &str = "Invalid or expired SSE token";
const ELSEWHERE: &str = "Not authorized for this tenant";

fn mint(server: &Server, access: &str) -> Answer {
    server.exchange(&Request::post("/auth/sse-token").bearer(access))
}

#[test]
fn a_stream_token_is_a_secret_of_32_bytes_that_nobody_stores() {
    let server = Server::start();
    let access = server.viewer(&new_tenant());
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let answer = mint(&server, &access);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.expect(200);
        assert_eq!(body["expires_in"], 30);
        assert_eq!(body.as_object().expect("an object").len(), 2, "{body}");
        let token = body["token"].as_str().expect("a token").to_owned();
        assert!(
            token.len() >= 43
                && token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{token}"
        );
        assert!(seen.insert(token), "a token was given twice");
    }
}

/// One fault of a request for a stream, with what must be said of it.
struct Fault {
    status: u16,
    detail: Option<&'static str>,
    parameter: Option<&'static str>,
}

fn check(answer: &Answer, fault: &Fault, what: &str) {
    let problem = answer.problem(fault.status);
    if let Some(detail) = fault.detail {
        assert_eq!(problem["detail"], detail, "{what}");
    }
    if let Some(parameter) = fault.parameter {
        assert_eq!(problem["parameter"], parameter, "{what}: {problem}");
    }
}

#[test]
fn parameters_are_checked_before_the_token_and_name_the_one_that_is_wrong() {
    let server = Server::start();
    let tenant = new_tenant();
    let path = format!("/tenants/{tenant}/events/stream");
    let missing = server.exchange(&Request::get(&path));
    check(
        &missing,
        &Fault {
            status: 422,
            detail: Some("Field required"),
            parameter: Some("token"),
        },
        "no token at all",
    );
    for (name, value) in [
        ("since", "yesterday"),
        ("since", "2026-13-01T00:00:00Z"),
        ("types", "Alert Fired"),
        ("types", "cursor"),
        ("device_id", "a/b"),
        ("device_id", "-"),
        ("scope", "galaxy"),
    ] {
        // The token is nobody's, and the parameter is found first.
        let answer = server
            .stream_of(&tenant)
            .token("nobodys")
            .query(name, value)
            .refused();
        check(
            &answer,
            &Fault {
                status: 422,
                detail: None,
                parameter: Some(name),
            },
            &format!("{name}={value}"),
        );
    }
    for wrong in [
        "not-a-tenant",
        "11111111111141118111111111111111",
        "%7Bx%7D",
    ] {
        let path = format!("/tenants/{wrong}/events/stream");
        let answer = Watch::at(server.address, &path).token("nobodys").refused();
        check(
            &answer,
            &Fault {
                status: 422,
                detail: None,
                parameter: Some("tenant_id"),
            },
            wrong,
        );
    }
}

#[test]
fn a_parameter_that_is_refused_spends_no_token() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let wrong = server
        .stream_of(&tenant)
        .token(&token)
        .query("since", "x")
        .refused();
    assert_eq!(wrong.status, 422);
    server.stream_of(&tenant).token(&token).open();
}

#[test]
fn a_token_that_is_nobodys_is_401_whatever_the_tenant() {
    let server = Server::start();
    for token in ["nobodys", "", "ä", &"x".repeat(4000)] {
        let answer = server.stream_of(&new_tenant()).token(token).refused();
        if token.is_empty() {
            assert!(
                answer.status == 422 || answer.status == 401,
                "{}",
                answer.head
            );
        } else {
            assert_eq!(answer.problem(401)["detail"], INVALID, "{token}");
        }
    }
}

#[test]
fn a_token_opens_one_stream_only() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let first = server.stream_of(&tenant).token(&token).open();
    let second = server.stream_of(&tenant).token(&token).refused();
    assert_eq!(second.problem(401)["detail"], INVALID);
    drop(first);
    let third = server.stream_of(&tenant).token(&token).refused();
    assert_eq!(third.problem(401)["detail"], INVALID);
}

#[test]
fn a_token_of_another_tenant_is_refused_and_spent() {
    let server = Server::start();
    let (own, other) = (new_tenant(), new_tenant());
    let token = server.stream_token(&server.viewer(&own));
    let elsewhere = server.stream_of(&other).token(&token).refused();
    assert_eq!(elsewhere.problem(403)["detail"], ELSEWHERE);
    let spent = server.stream_of(&own).token(&token).refused();
    assert_eq!(spent.problem(401)["detail"], INVALID);
}

#[test]
fn the_tenant_is_checked_before_the_limits_and_the_limits_before_the_token_is_taken() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__STREAMS_PER_TENANT", "1")
        .start();
    let (own, other) = (new_tenant(), new_tenant());
    let full = server.watch(&own).open();
    let other_full = server.watch(&other).open();

    let stranger = server.stream_token(&server.viewer(&own));
    let answer = server.stream_of(&other).token(&stranger).refused();
    assert_eq!(answer.problem(403)["detail"], ELSEWHERE);

    let token = server.stream_token(&server.viewer(&own));
    let answer = server.stream_of(&own).token(&token).refused();
    answer.problem(429);
    drop(full);
    server
        .stream_of(&own)
        .token(&token)
        .open_once_there_is_a_place();
    drop(other_full);
}

#[test]
fn of_a_thousand_concurrent_uses_exactly_one_opens_a_stream() {
    const USES: usize = 1000;
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let request = server.stream_of(&tenant).token(&token).request().bytes();
    let (last, all_but_last) = request.split_last().expect("some bytes");
    // Every connection has sent all but the last byte, so that the uses meet inside the server.
    let sockets: Vec<TcpStream> = (0..USES)
        .map(|_| {
            let mut socket = TcpStream::connect(server.address).expect("connects");
            socket.set_nodelay(true).expect("takes it");
            socket
                .set_read_timeout(Some(tidings_tests::GUARD))
                .expect("takes it");
            socket.write_all(all_but_last).expect("sends");
            socket
        })
        .collect();
    let barrier = std::sync::Barrier::new(8);
    let statuses: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = sockets
            .chunks(USES / 8)
            .map(|sockets| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    for mut socket in sockets {
                        socket.write_all(&[*last]).expect("sends");
                    }
                    sockets
                        .iter()
                        .map(|mut socket| {
                            let mut line = [0; 12];
                            socket.read_exact(&mut line).expect("a status");
                            String::from_utf8_lossy(&line).into_owned()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let opened = statuses
        .iter()
        .filter(|status| *status == "HTTP/1.1 200")
        .count();
    let refused = statuses
        .iter()
        .filter(|status| *status == "HTTP/1.1 401")
        .count();
    assert_eq!((opened, refused), (1, USES - 1));
}

#[test]
fn a_client_that_leaves_during_authorisation_leaves_no_place_taken() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__STREAMS_PER_TENANT", "1")
        .start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    for _ in 0..200 {
        let request = server.stream_of(&tenant).bearer(&access).request().bytes();
        let mut socket = TcpStream::connect(server.address).expect("connects");
        socket.write_all(&request).expect("sends");
        socket2::SockRef::from(&socket)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("takes it");
    }
    server
        .stream_of(&tenant)
        .bearer(&access)
        .open_once_there_is_a_place();
}

#[test]
fn a_token_is_good_for_its_time_to_live_and_no_longer() {
    let server = Setup::new().set("TIDINGS_STREAM__TOKEN_TTL", "1s").start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let answer = mint(&server, &access).expect(200);
    assert_eq!(answer["expires_in"], 1);
    let old = answer["token"].as_str().expect("a token").to_owned();
    wait_until_second(now() + 2);
    let answer = server.stream_of(&tenant).token(&old).refused();
    assert_eq!(answer.problem(401)["detail"], INVALID);
}

/// Waits for the clock that tokens are judged by: the passing of time is itself what is tested.
fn wait_until_second(second: u64) {
    while now() < second {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn an_access_token_in_the_header_opens_streams_without_a_stream_token() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let mut streams: Vec<_> = (0..3)
        .map(|_| server.stream_of(&tenant).bearer(&access).open())
        .collect();
    let receipt = server.publish(&tenant, &status("r1", 1));
    for stream in &mut streams {
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
    let answer = server.stream_of(&new_tenant()).bearer(&access).refused();
    assert_eq!(answer.problem(403)["detail"], ELSEWHERE);
}

#[test]
fn the_stream_of_all_tenants_is_the_super_admins() {
    let server = Server::start();
    let (one, two) = (new_tenant(), new_tenant());
    let all = Watch::at(server.address, "/events/stream");
    let token = server.stream_token(&server.super_admin());
    let mut stream = all.clone().token(&token).open();
    let first = server.publish(&one, &status("r1", 1));
    let second = server.publish(&two, &status("r1", 2));
    assert_eq!(stream.next_event().cursor(), first.last);
    assert_eq!(stream.next_event().cursor(), second.last);

    let token = server.stream_token(&server.viewer(&one));
    all.clone().token(&token).refused().problem(403);
    let operator = server.sign(&AccessToken::new("operator-1", &one, "tenant_operator"));
    all.bearer(&operator).refused().problem(403);
}

/// Access tokens that must not be taken, each with what is wrong with it.
fn bad_tokens(server: &Server, tenant: &str) -> Vec<(&'static str, String)> {
    let good = || AccessToken::new("viewer-1", tenant, "viewer");
    let sign = |token: AccessToken| server.sign(&token);
    let (header, rest) = {
        let token = sign(good());
        let (header, rest) = token.split_once('.').expect("a header");
        (header.to_owned(), rest.to_owned())
    };
    vec![
        ("no token", "x".to_owned()),
        ("empty parts", "..".to_owned()),
        ("header alone", header.clone()),
        ("no signature", format!("{}.", good().unsigned())),
        ("alg none, signed", sign(good().says_algorithm("none"))),
        (
            "alg none, unsigned",
            format!("{}.", good().says_algorithm("none").unsigned()),
        ),
        (
            "alg nOnE",
            format!("{}.", good().says_algorithm("nOnE").unsigned()),
        ),
        (
            "HS512 said, HS256 done",
            sign(good().says_algorithm("HS512")),
        ),
        (
            "RS256 said, HS256 done",
            sign(good().says_algorithm("RS256")),
        ),
        (
            "another secret",
            good().sign("another-secret-of-at-least-32-bytes"),
        ),
        ("empty secret", good().sign("")),
        ("claims changed", {
            let other = AccessToken::new("viewer-1", tenant, "super_admin").unsigned();
            let signature = rest.split_once('.').expect("a signature").1;
            format!("{other}.{signature}")
        }),
        ("expired", sign(good().claim("exp", now() - 1))),
        (
            "expired a second ago, no leeway",
            sign(good().claim("exp", now())),
        ),
        ("not yet", sign(good().claim("nbf", now() + 3600))),
        ("no exp", sign(good().without("exp"))),
        ("exp as text", sign(good().claim("exp", "tomorrow"))),
        ("negative exp", sign(good().claim("exp", -1))),
        ("no sub", sign(good().without("sub"))),
        ("no tenant", sign(good().without("tenant_id"))),
        ("tenant null", sign(good().claim("tenant_id", Value::Null))),
        ("tenant no UUID", sign(good().claim("tenant_id", "acme"))),
        ("no role", sign(good().without("role"))),
        ("a refresh token", sign(good().claim("type", "refresh"))),
        ("devices as text", sign(good().claim("devices", "r1"))),
        (
            "devices as numbers",
            sign(good().claim("devices", json!([1, 2]))),
        ),
        ("types as an object", sign(good().claim("types", json!({})))),
    ]
}

#[test]
fn an_access_token_that_is_not_right_in_everything_is_401_everywhere() {
    let server = Server::start();
    let tenant = new_tenant();
    let history = format!("/tenants/{tenant}/events");
    for (what, token) in bad_tokens(&server, &tenant) {
        let answer = mint(&server, &token);
        assert_eq!(answer.status, 401, "mint with {what}: {}", answer.text());
        answer.problem(401);
        let answer = server.stream_of(&tenant).bearer(&token).refused();
        assert_eq!(answer.status, 401, "stream with {what}: {}", answer.text());
        let answer = server.exchange(&Request::get(&history).bearer(&token));
        assert_eq!(answer.status, 401, "history with {what}: {}", answer.text());
        let publish = tidings_tests::publish::one(&tenant, &token, &status("r1", 1));
        let answer = server.exchange(&publish);
        assert_eq!(answer.status, 401, "publish with {what}: {}", answer.text());
    }
    for scheme in ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "bearer"] {
        let request = Request::post("/auth/sse-token").header("Authorization", scheme);
        server.exchange(&request).problem(401);
    }
    server
        .exchange(&Request::post("/auth/sse-token"))
        .problem(401);
}

#[test]
fn a_claim_that_is_present_and_null_or_empty_never_widens_a_view() {
    let server = Server::start();
    let tenant = new_tenant();
    let nothing =
        server.sign(&AccessToken::new("viewer-1", &tenant, "viewer").claim("devices", json!([])));
    let first = server.publish(&tenant, &status("r1", 1));
    let mut stream = server
        .stream_of(&tenant)
        .bearer(&nothing)
        .query("since", "2020-01-01T00:00:00Z")
        .open();
    // Its first cursor may stand before the event; what it is told next is only that it moved on.
    loop {
        let event = stream.next_of_any().expect("a cursor");
        assert_eq!(event.name, "cursor", "{event:?}");
        if event.cursor() == first.last {
            break;
        }
    }
}

#[test]
fn nbf_and_iat_have_leeway_and_type_may_be_absent() {
    let server = Server::start();
    let tenant = new_tenant();
    let good = || AccessToken::new("viewer-1", &tenant, "viewer");
    for token in [
        good().claim("nbf", now() + 2),
        good().claim("iat", now() + 2),
        good().without("type"),
        good().claim("jti", "session-1"),
        good().claim("unknown", json!({"deep": [1, 2, 3]})),
    ] {
        mint(&server, &server.sign(&token)).expect(200);
    }
}

#[test]
fn the_cookie_is_taken_for_minting_and_only_from_the_same_origin() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let with_cookie =
        |request: Request| request.header("Cookie", &format!("a=b; access_token={access}; c=d"));
    let minting = || with_cookie(Request::post("/auth/sse-token"));

    let answer = server.exchange(&minting());
    answer.expect(200);
    let answer = server.exchange(&minting().header("Sec-Fetch-Site", "same-origin"));
    answer.expect(200);
    for (name, value) in [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
        ("Origin", "https://evil.example"),
        ("Origin", "null"),
    ] {
        let answer = server.exchange(&minting().header(name, value));
        assert!(
            answer.status == 403 || answer.status == 401,
            "{name}: {value} is taken: {}",
            answer.head
        );
    }

    // The header wins, also where it is the worse of the two.
    let answer = server.exchange(&minting().bearer("x"));
    answer.problem(401);

    // Nowhere else.
    let publish = Request::post(&format!("/tenants/{tenant}/events"))
        .body("application/json", status("r1", 1).to_string());
    server.exchange(&with_cookie(publish)).problem(401);
    let history = Request::get(&format!("/tenants/{tenant}/events"));
    server.exchange(&with_cookie(history)).problem(401);
    let stream = Request::get(&format!("/tenants/{tenant}/events/stream"));
    server.exchange(&with_cookie(stream)).problem(422);
}

#[test]
fn a_stream_ends_at_the_exp_of_its_access_token() {
    // What ends a stream is not its next heartbeat.
    let server = Setup::new().set("TIDINGS_STREAM__HEARTBEAT", "1h").start();
    let tenant = new_tenant();
    let exp = now() + 12;
    let access = server.sign(&AccessToken::new("viewer-1", &tenant, "viewer").claim("exp", exp));
    let token = server.stream_token(&access);
    let mut by_token = server.stream_of(&tenant).token(&token).open();
    let mut by_header = server.stream_of(&tenant).bearer(&access).open();
    let mut other = server.watch(&tenant).open();
    let unused = server.stream_token(&access);
    for stream in [&mut by_token, &mut by_header] {
        let items = stream.rest();
        let Some(Item::Event(closing)) = items.last() else {
            panic!("{}", stream.tail());
        };
        assert_eq!(
            (closing.name.as_str(), closing.id.as_ref()),
            ("closing", None)
        );
        let data = closing.json();
        assert_eq!(data["reason"], "expired");
        assert!(data["retry"].is_u64() && data["conflated"] == 0, "{data}");
        assert!(!stream.reset);
        server.assert_closed_soon_after(exp as f64, stream.connection_id());
    }
    wait_until_second(now() + 1);
    let late = server.stream_of(&tenant).token(&unused).refused();
    late.problem(401);
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(other.next_event().cursor(), receipt.last);
}

#[test]
fn a_token_in_a_query_may_be_encoded_in_any_way() {
    let server = Server::start();
    let tenant = new_tenant();
    let token = server.stream_token(&server.viewer(&tenant));
    let every_byte = token
        .bytes()
        .fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    let target = format!(
        "/tenants/{tenant}/events/stream?types={}&token={every_byte}&",
        encode("device_status,alert_fired")
    );
    let mut connection = tidings_tests::Connection::open(server.address).expect("connects");
    connection
        .send(&Request::get(&target).bytes())
        .expect("sends");
    let mut stream = tidings_tests::Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    let receipt = server.publish(&tenant, &status("r1", 1));
    assert_eq!(stream.next_event().cursor(), receipt.last);
}
