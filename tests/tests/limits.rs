//! Limits: each answers 429 and says when to come back, hits nobody it is not for, and gives a
//! place back when it is free. By default there are none that get in the way.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tidings_tests::publish::{self, status};
use tidings_tests::{AccessToken, Answer, Receipt, Request, Server, Setup, Stream, new_tenant};

/// A refusal for now, with a time to come back after.
fn too_many(answer: &Answer) {
    answer.problem(429);
    let seconds = answer.header("retry-after").expect("Retry-After");
    let seconds: u64 = seconds.parse().expect("whole seconds");
    assert!((1..=120).contains(&seconds), "{seconds}");
}

fn user(server: &Server, name: &str, tenant: &str) -> String {
    server.sign(&AccessToken::new(name, tenant, "viewer"))
}

#[test]
fn streams_in_all() {
    let server = Setup::new().set("TIDINGS_LIMITS__STREAMS", "2").start();
    let open = |name: &str| {
        let tenant = new_tenant();
        server
            .stream_of(&tenant)
            .bearer(&user(&server, name, &tenant))
    };
    let first = open("a").open();
    let _second = open("b").open();
    too_many(&open("c").refused());
    drop(first);
    open("d").open_once_there_is_a_place();
}

#[test]
fn streams_of_one_tenant() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__STREAMS_PER_TENANT", "2")
        .start();
    let (own, other) = (new_tenant(), new_tenant());
    let open = |name: &str, tenant: &str| {
        server
            .stream_of(tenant)
            .bearer(&user(&server, name, tenant))
    };
    let first = open("a", &own).open();
    let _second = open("b", &own).open();
    too_many(&open("c", &own).refused());
    let _elsewhere = open("c", &other).open();
    drop(first);
    open("c", &own).open_once_there_is_a_place();
}

#[test]
fn streams_of_one_user() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__STREAMS_PER_USER", "1")
        .start();
    let (own, other) = (new_tenant(), new_tenant());
    let open = |name: &str, tenant: &str| {
        server
            .stream_of(tenant)
            .bearer(&user(&server, name, tenant))
    };
    let first = open("a", &own).open();
    too_many(&open("a", &own).refused());
    let _colleague = open("b", &own).open();
    // A user id is one within its tenant.
    let _namesake = open("a", &other).open();
    drop(first);
    open("a", &own).open_once_there_is_a_place();
}

#[test]
fn streams_from_one_address() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__STREAMS_PER_ADDRESS", "1")
        .start();
    let tenant = new_tenant();
    let watch = |name: &str| {
        server
            .stream_of(&tenant)
            .bearer(&user(&server, name, &tenant))
    };
    let first = watch("a").open();
    too_many(&watch("b").refused());

    // The whole of 127/8 is this machine: somebody at another address is not concerned.
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let elsewhere = std::net::SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0));
    socket.bind(&elsewhere.into()).expect("binds");
    socket.connect(&server.address.into()).expect("connects");
    let mut connection = tidings_tests::Connection::over(socket.into()).expect("a connection");
    connection
        .send(&watch("c").request().bytes())
        .expect("sends");
    let _neighbour = Stream::over(connection)
        .expect("answers")
        .expect("a stream");

    drop(first);
    watch("b").open_once_there_is_a_place();
}

#[test]
fn stream_tokens_for_one_address() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__MINTS_PER_ADDRESS", "3")
        .start();
    let access = server.viewer(&new_tenant());
    let mint = || server.exchange(&Request::post("/auth/sse-token").bearer(&access));
    for _ in 0..3 {
        mint().expect(200);
    }
    too_many(&mint());
}

#[test]
fn refused_credentials_from_one_address() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__FAILURES_PER_ADDRESS", "3")
        .start();
    let tenant = new_tenant();
    let guess = || server.stream_of(&tenant).token("nobodys").refused();
    for _ in 0..3 {
        guess().problem(401);
    }
    too_many(&guess());
}

#[test]
fn what_is_published_for_one_tenant() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__PUBLISH_RATE", "5")
        .start();
    let (busy, calm) = (new_tenant(), new_tenant());
    let access = server.publisher(&busy);
    // A body passes as soon as there is any credit; what it takes beyond is paid off first.
    let events: Vec<Value> = (0..200).map(|number| status("r1", number)).collect();
    Receipt::of(&server.exchange(&publish::many(&busy, &access, &events)));
    too_many(&server.exchange(&publish::one(&busy, &access, &status("r1", 200))));
    server.publish(&calm, &status("r1", 1));
    let page = server.history(&busy, "?limit=1000");
    assert_eq!(page["events"].as_array().expect("a list").len(), 200);
}

#[test]
fn publishing_with_one_key() {
    let server = Setup::new()
        .set("TIDINGS_LIMITS__PUBLISH_RATE_PER_KEY", "2")
        .start();
    let tenant = new_tenant();
    let key = |body: Value| {
        let request = Request::post("/keys").bearer(&server.super_admin());
        let answer = server.exchange(&request.body("application/json", body.to_string()));
        let key = answer.expect(201)["key"].clone();
        key.as_str().expect("a key").to_owned()
    };
    let busy = key(json!({"name": "busy", "tenants": [tenant]}));
    let calm = key(json!({"name": "calm", "tenants": [tenant]}));
    let own = key(json!({"name": "own", "tenants": [tenant], "publish_rate": 1_000_000}));
    let event = status("r1", 1);
    let many = |key: &str, count: usize| {
        server.exchange(&publish::many(
            &tenant,
            key,
            std::iter::repeat_n(&event, count),
        ))
    };
    // A body passes as soon as there is any credit; what it takes beyond is paid off first.
    many(&busy, 200).expect(200);
    let refused = many(&busy, 1);
    too_many(&refused);
    // 198 events at two a second, of which some seconds may have gone by.
    let wait = refused.header("retry-after").expect("Retry-After");
    assert!(wait.parse::<u64>().expect("seconds") > 30, "{wait}");
    // Others of the same tenant are not held up: not another key, not one with a limit of its own, not a user.
    many(&calm, 1).expect(200);
    for _ in 0..10 {
        many(&own, 10).expect(200);
    }
    server.publish(&tenant, &event);
}

#[test]
fn by_default_a_user_may_have_a_thousand_streams_and_an_address_any_number_of_tokens() {
    let server = Server::start();
    let tenant = new_tenant();
    let access = server.viewer(&tenant);
    let mut streams: Vec<Stream> = (0..1000)
        .map(|_| {
            server
                .stream_of(&tenant)
                .token(&server.stream_token(&access))
                .open()
        })
        .collect();
    let receipt = server.publish(&tenant, &status("r1", 1));
    for stream in &mut streams {
        assert_eq!(stream.next_event().cursor(), receipt.last);
    }
}
