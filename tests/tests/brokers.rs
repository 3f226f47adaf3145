//! The brokers that other tests stand on: what is stored outlives a kill, a frozen server is silent and
//! goes on, a cluster serves with one of three gone and not with two.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidings_tests::brokers::wait_for;
use tidings_tests::{GUARD, NatsCluster, NatsOptions, NatsServer, RedisOptions, RedisServer};

/// One request over NATS's text protocol; what is answered within `patience`.
fn try_request(
    address: SocketAddr,
    subject: &str,
    payload: &Value,
    patience: Duration,
) -> Option<Value> {
    let mut socket = TcpStream::connect_timeout(&address, patience).ok()?;
    socket.set_read_timeout(Some(patience)).ok()?;
    // An answer that comes too late must not be another's.
    let inbox = format!("inbox.{:016x}", fastrand::u64(..));
    let payload = if payload.is_null() {
        String::new()
    } else {
        payload.to_string()
    };
    write!(
        socket,
        "CONNECT {{\"verbose\":false}}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} {}\r\n{payload}\r\n",
        payload.len()
    )
    .ok()?;
    let mut lines = BufReader::new(socket).lines();
    loop {
        let line = lines.next()?.ok()?;
        if line.starts_with("-ERR") {
            return None;
        }
        if line.starts_with("MSG ") {
            return serde_json::from_str(&lines.next()?.ok()?).ok();
        }
    }
}

fn request(address: SocketAddr, subject: &str, payload: &Value) -> Value {
    let deadline = Instant::now() + GUARD;
    loop {
        if let Some(answer) = try_request(address, subject, payload, Duration::from_secs(5)) {
            // A cluster that has lost its leader says so until it has another.
            if answer["error"]["code"] != 503 {
                return answer;
            }
        }
        assert!(Instant::now() < deadline, "{subject} is never answered");
    }
}

fn create(address: SocketAddr, replicas: usize) {
    let configuration = json!({"name": "KEPT", "subjects": ["kept.>"], "num_replicas": replicas});
    let answer = request(address, "$JS.API.STREAM.CREATE.KEPT", &configuration);
    assert_eq!(answer["config"]["name"], "KEPT", "{answer}");
}

fn messages(address: SocketAddr) -> u64 {
    let answer = request(address, "$JS.API.STREAM.INFO.KEPT", &Value::Null);
    answer["state"]["messages"]
        .as_u64()
        .unwrap_or_else(|| panic!("{answer}"))
}

fn publish(address: SocketAddr) {
    let answer = request(address, "kept.one", &json!({"n": 1}));
    assert_eq!(answer["stream"], "KEPT", "{answer}");
}

#[test]
fn a_killed_nats_server_is_back_on_its_port_with_what_it_stored() {
    let mut server = NatsServer::start(&NatsOptions::new());
    create(server.address, 1);
    publish(server.address);
    server.kill();
    assert!(TcpStream::connect(server.address).is_err());
    server.start_again();
    assert_eq!(messages(server.address), 1);
    assert!(server.stop().code().is_some());
}

#[test]
fn a_frozen_nats_server_is_silent_and_goes_on() {
    let server = NatsServer::start(&NatsOptions::new());
    create(server.address, 1);
    server.pause();
    let info = "$JS.API.STREAM.INFO.KEPT";
    let silence = Duration::from_millis(300);
    assert_eq!(
        try_request(server.address, info, &Value::Null, silence),
        None
    );
    server.resume();
    publish(server.address);
}

#[test]
fn options_reach_the_nats_server() {
    let server = NatsOptions::new()
        .configuration("authorization { user: watcher, password: \"of tides\" }")
        .jetstream("max_file_store: 1MB")
        .start();
    let info = "$JS.API.STREAM.INFO.KEPT";
    let answer = try_request(server.address, info, &Value::Null, GUARD);
    assert_eq!(answer, None, "nobody without a password is answered");
    let limits = server.page("/jsz");
    assert_eq!(limits["config"]["max_storage"], 1 << 20, "{limits}");
}

#[test]
fn a_cluster_serves_with_one_server_gone_and_holds_what_was_acknowledged_when_all_were() {
    let mut cluster = NatsCluster::start(3);
    create(cluster.servers[0].address, 3);
    publish(cluster.servers[0].address);
    let leader = cluster.wait_for_leader();
    cluster.servers[leader].kill();
    let other = (leader + 1) % 3;
    assert_ne!(cluster.wait_for_leader(), leader);
    publish(cluster.servers[other].address);

    cluster.kill_all();
    cluster.start_all_again();
    // A message whose acknowledgement got lost was sent once more. Who has just become the leader may answer
    // before it has read all that it holds.
    let deadline = Instant::now() + GUARD;
    while messages(cluster.servers[leader].address) < 2 {
        assert!(Instant::now() < deadline, "two were acknowledged");
    }
    wait_for("a leader of the stream", || {
        cluster.leader_of("KEPT").is_some()
    });
}

/// One inline command of Redis's text protocol; the first line of the answer, or the text of a string.
fn command(address: SocketAddr, text: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("a server");
    socket.set_read_timeout(Some(GUARD)).expect("a timeout");
    write!(socket, "{text}\r\n").expect("a command goes out");
    let mut lines = BufReader::new(socket).lines();
    let mut line = || lines.next().expect("an answer").expect("within the guard");
    let first = line();
    match first.strip_prefix('$') {
        Some(length) if length != "-1" => line(),
        _ => first,
    }
}

#[test]
fn a_killed_redis_server_is_back_on_its_port_with_what_it_was_told_to_keep() {
    let mut server = RedisServer::start(&RedisOptions::new().durable());
    assert_eq!(command(server.address, "SET name tidings"), "+OK");
    server.kill();
    assert!(TcpStream::connect(server.address).is_err());
    server.start_again();
    assert_eq!(command(server.address, "GET name"), "tidings");
    server.pause();
    server.resume();
    assert_eq!(command(server.address, "GET name"), "tidings");
    assert!(server.stop().success());
}

#[test]
fn options_reach_the_redis_server() {
    let mut server = RedisOptions::new()
        .configuration("requirepass secret")
        .start();
    let answer = command(server.address, "GET name");
    assert!(answer.starts_with("-NOAUTH"), "{answer}");
    server.kill();
    server.start_again_with(RedisOptions::new());
    assert_eq!(command(server.address, "GET name"), "$-1");
}
