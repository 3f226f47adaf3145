//! TLS: what is received is what a plain client receives, the certificate changes under open streams, and who breaks
//! the rules harms nobody.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tidings_tests::access::now;
use tidings_tests::publish::{self, status};
use tidings_tests::server::{Output, binary, run_to_end};
use tidings_tests::{
    AccessToken, Certificates, Request, Server, Setup, Stream, Tunnel, Watch, Way, new_tenant,
};

/// A server with a certificate of its own authority.
fn served(certificates: &Certificates) -> Setup {
    Setup::new()
        .over_tls(
            &certificates.path("server.pem"),
            &certificates.path("server.key"),
        )
        .set("TIDINGS_TLS__WATCH", "100ms")
}

/// A stream of this tenant through a tunnel, by access token.
fn watch(server: &Server, tunnel: &Tunnel, tenant: &str) -> Watch {
    Watch::at(tunnel.address, &format!("/tenants/{tenant}/events/stream"))
        .bearer(&server.viewer(tenant))
}

/// The bytes of the events; what is before the first differs from stream to stream, and heartbeats come when they do,
/// of which a read can end inside one.
fn events_of(raw: &[u8], first: &str) -> String {
    let text = String::from_utf8_lossy(raw).replace(": heartbeat\n", "");
    let start = text
        .find(&format!("id: {first}\n"))
        .expect("the first event");
    let end = text.rfind("\n\n").expect("the end of an event") + 2;
    text[start..end].to_owned()
}

fn read_to(stream: &mut Stream, cursor: &str) {
    let mark = format!("id: {cursor}\n");
    stream.read_until("the last event", |raw| {
        let tail = String::from_utf8_lossy(&raw[raw.len().saturating_sub(70_000)..]);
        tail.find(&mark)
            .is_some_and(|at| tail[at..].contains("\n\n"))
    });
}

fn openssl(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &server.tls.to_string()])
        .args(arguments)
        .stdin(std::process::Stdio::null());
    run_to_end(command).said
}

/// Large and small events, while nobody reads: records are cut anywhere, and streams come back from the log.
#[test]
fn a_stream_has_the_same_bytes_in_the_clear_and_over_either_version() {
    let certificates = Certificates::new();
    let server = served(&certificates)
        .set("TIDINGS_STREAM__STALL_TIMEOUT", "10m")
        .start();
    let way = Way::trusting(&certificates);
    let tunnels = [
        Tunnel::to(server.tls, &way),
        Tunnel::to(server.tls, &way.clone().old()),
        Tunnel::to(server.tls, &way.clone().protocol(None)),
    ];
    let tenant = new_tenant();
    let mut streams = vec![server.watch(&tenant).open()];
    for tunnel in &tunnels {
        streams.push(watch(&server, tunnel, &tenant).open());
    }
    // Full sooner than the others.
    streams.push(
        watch(&server, &tunnels[0], &tenant)
            .receive_buffer(4096)
            .open(),
    );
    let first = server.publish(&tenant, &status("r1", 0)).first;
    let mut last = first.clone();
    for round in 0..40 {
        let size = [100, 20_000, 300_000][round % 3];
        let text: String = (0..size).map(|_| fastrand::alphanumeric()).collect();
        let event = json!({"type": "device_status", "device_id": "r1", "data": {"status": text}});
        let small: Vec<Value> = (0..50).map(|number| status("r2", number)).collect();
        server.publish(&tenant, &event);
        last = server.publish_all(&tenant, &small).last;
    }
    let mut received = Vec::new();
    for stream in &mut streams {
        read_to(stream, &last);
        received.push(events_of(&stream.raw, &first));
    }
    for (index, bytes) in received.iter().enumerate() {
        assert!(*bytes == received[0], "stream {index} has other bytes");
    }
}

#[test]
fn every_call_works_over_tls() {
    let certificates = Certificates::new();
    let server = served(&certificates).start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let answer = tidings_tests::http::exchange(
        tunnel.address,
        &Request::post("/auth/sse-token").bearer(&server.viewer(&tenant)),
    );
    let token = answer.expect(200)["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let path = format!("/tenants/{tenant}/events/stream");
    let mut stream = Watch::at(tunnel.address, &path).token(&token).open();
    // Several requests over one connection, and a stream behind them on the same.
    let mut connection = tidings_tests::Connection::open(tunnel.address).expect("connects");
    for number in 0..3 {
        let request = publish::one(&tenant, &server.publisher(&tenant), &status("r1", number));
        assert_eq!(
            connection.exchange(&request).expect("an answer").status,
            200
        );
    }
    let request = watch(&server, &tunnel, &tenant)
        .query("since", "2020-01-01T00:00:00Z")
        .request();
    connection.send(&request.bytes()).expect("sends");
    let mut replayed = Stream::over(connection)
        .expect("answers")
        .expect("a stream");
    assert_eq!(stream.events(3), replayed.events(3));
}

#[test]
fn http_2_is_chosen_by_alpn() {
    let certificates = Certificates::new();
    let server = served(&certificates).start();
    assert!(openssl(&server, &["-alpn", "h2,http/1.1"]).contains("ALPN protocol: h2"));
    assert!(openssl(&server, &["-alpn", "http/1.1"]).contains("ALPN protocol: http/1.1"));
    assert!(openssl(&server, &["-tls1_2"]).contains("TLSv1.2"));
    assert!(
        !openssl(&server, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).contains("Cipher is ECDHE")
    );

    let tunnel = Tunnel::to(
        server.tls,
        &Way::trusting(&certificates).protocol(Some("h2")),
    );
    let tenant = new_tenant();
    let last = server.publish(&tenant, &status("r1", 1)).last;
    let target = format!("/tenants/{tenant}/events?limit=1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let access = server.viewer(&tenant);
    let body = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(tunnel.address)
            .await
            .expect("connects");
        let (mut client, connection) = h2::client::handshake(socket).await.expect("speaks HTTP/2");
        tokio::spawn(connection);
        let request = http::Request::get(format!("https://{}{target}", server.tls))
            .header("authorization", format!("Bearer {access}"))
            .body(())
            .expect("a request");
        let (answer, _) = client.send_request(request, true).expect("sends");
        let answer = answer.await.expect("answers");
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            bytes.extend_from_slice(&chunk.expect("no reset"));
        }
        String::from_utf8(bytes).expect("text")
    });
    assert!(body.contains(&last), "{body}");
}

#[test]
fn a_certificate_is_replaced_while_streams_stay_open_and_a_bad_one_is_refused() {
    let certificates = Certificates::new();
    let server = served(&certificates).start();
    let tenant = new_tenant();
    let old = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let mut streams: Vec<Stream> = (0..100)
        .map(|_| watch(&server, &old, &tenant).open())
        .collect();

    std::fs::write(certificates.path("server.pem"), "no certificate").expect("a file of ours");
    server.wait_for_log("the refusal", |line| {
        line.contains("the old one stays") && line.contains("tls.certificate_file")
    });
    streams.push(watch(&server, &old, &tenant).open());

    let others = Certificates::new();
    std::fs::copy(others.path("server.pem"), certificates.path("server.pem")).expect("copied");
    // The certificate without its key: between two files that are replaced one after the other.
    server.wait_for_log("the mismatch", |line| {
        line.contains("can't be used together")
    });
    streams.push(watch(&server, &old, &tenant).open());
    std::fs::copy(others.path("server.key"), certificates.path("server.key")).expect("copied");
    server.wait_for_log("the change", |line| {
        line.contains("a new certificate is served")
    });

    let new = Tunnel::to(server.tls, &Way::trusting(&others));
    let mut late = watch(&server, &new, &tenant).open();
    assert!(
        tidings_tests::http::try_exchange(old.address, &Request::get("/")).is_err(),
        "the old certificate is served still"
    );
    let last = server.publish(&tenant, &status("r1", 1)).last;
    for stream in streams.iter_mut().chain([&mut late]) {
        assert_eq!(stream.next_event().cursor(), last);
    }
}

#[test]
fn a_stream_over_tls_resumes_after_a_kill() {
    let certificates = Certificates::new();
    let mut server = served(&certificates).start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let mut stream = watch(&server, &tunnel, &tenant).open();
    let seen = server.publish(&tenant, &status("r1", 0)).last;
    assert_eq!(stream.next_event().cursor(), seen);
    server.kill();
    assert!(stream.next_but_cursors().is_none());
    assert!(
        stream.reset,
        "a connection that is cut off does not look like one that has ended"
    );
    server.start_again();
    let missed: Vec<String> = (1..4)
        .map(|number| server.publish(&tenant, &status("r1", number)).last)
        .collect();
    let mut again = watch(&server, &tunnel, &tenant).after(&seen).open();
    let cursors: Vec<_> = again
        .events(3)
        .iter()
        .map(|event| event.cursor().to_owned())
        .collect();
    assert_eq!(cursors, missed);
}

/// The end is a `closing`, and a `close_notify` behind it: the tunnel would reset the connection otherwise.
#[test]
fn a_stream_that_is_told_why_it_ends_ends_cleanly() {
    let certificates = Certificates::new();
    let mut server = served(&certificates).start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let mut disconnected = watch(&server, &tunnel, &tenant).open();
    let mut drained = watch(&server, &tunnel, &tenant).open();
    let id = disconnected.connection_id().to_owned();
    let request = Request::new("DELETE", &format!("/streams/{id}")).bearer(&server.super_admin());
    assert!(server.exchange(&request).status < 300);
    let end = disconnected.next_named("closing");
    assert_eq!(end.json()["reason"], "disconnected");
    assert!(disconnected.rest().is_empty() && !disconnected.reset);

    server.signal(Signal::TERM);
    let end = drained.next_named("closing");
    assert_eq!(end.json()["reason"], "draining");
    assert!(drained.rest().is_empty() && !drained.reset);
    assert!(server.wait().success());
}

/// A stream over HTTP/2: its connection id, and its body when the server has ended it.
async fn to_the_end_over_http_2(
    address: std::net::SocketAddr,
    path: &str,
    access: &str,
) -> (String, String) {
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("connects");
    let (mut client, connection) = h2::client::handshake(socket).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{address}{path}"))
        .header("authorization", format!("Bearer {access}"))
        .body(())
        .expect("a request");
    let (answer, _) = client.send_request(request, true).expect("sends");
    let answer = answer.await.expect("answers");
    assert_eq!(answer.status(), 200);
    let id = answer.headers()["x-connection-id"].to_str().expect("text");
    let id = id.to_owned();
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        bytes.extend_from_slice(&chunk.expect("no reset"));
    }
    (id, String::from_utf8(bytes).expect("text"))
}

/// As in the clear (`tokens.rs`); over HTTP/2 the stream belongs to the HTTP library and not to the engine's socket.
#[test]
fn a_stream_over_tls_and_over_http_2_ends_at_the_exp_of_its_access_token() {
    let certificates = Certificates::new();
    // What ends a stream is not its next heartbeat.
    let server = served(&certificates)
        .set("TIDINGS_STREAM__HEARTBEAT", "1h")
        .start();
    let way = Way::trusting(&certificates);
    let tunnel = Tunnel::to(server.tls, &way);
    let tunnel_2 = Tunnel::to(server.tls, &way.protocol(Some("h2")));
    let tenant = new_tenant();
    let exp = now() + 12;
    let access = server.sign(&AccessToken::new("viewer-1", &tenant, "viewer").claim("exp", exp));
    let path = format!("/tenants/{tenant}/events/stream");
    let mut over_tls = Watch::at(tunnel.address, &path).bearer(&access).open();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let both = async {
        let (over_tls, in_the_clear) = tokio::join!(
            to_the_end_over_http_2(tunnel_2.address, &path, &access),
            to_the_end_over_http_2(server.address, &path, &access),
        );
        [over_tls, in_the_clear]
    };
    let guarded = async { tokio::time::timeout(tidings_tests::GUARD, both).await };
    for (id, said) in runtime.block_on(guarded).expect("not a hang") {
        assert!(
            said.contains("event: closing\n") && said.contains("\"expired\""),
            "{said}"
        );
        server.assert_closed_soon_after(exp as f64, &id);
    }
    let end = over_tls.next_named("closing");
    assert_eq!(end.json()["reason"], "expired");
    server.assert_closed_soon_after(exp as f64, over_tls.connection_id());
}

/// What is encrypted and not sent must not reach who may not see it any more.
#[test]
fn a_stream_that_is_revoked_while_it_does_not_read_is_reset() {
    let certificates = Certificates::new();
    let server = served(&certificates).start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let mut stream = watch(&server, &tunnel, &tenant).receive_buffer(4096).open();
    let text: String = (0..500_000).map(|_| fastrand::alphanumeric()).collect();
    let event = json!({"type": "device_status", "device_id": "r1", "data": {"status": text}});
    let mut last = String::new();
    for _ in 0..30 {
        last = server.publish(&tenant, &event).last;
    }
    let request = Request::new("DELETE", "/users/viewer-1/streams").bearer(&server.super_admin());
    assert!(server.exchange(&request).status < 300);
    server.wait_for_log("the end", |line| {
        line.contains("stream_closed") && line.contains("revoked")
    });
    while stream.next_item().is_some() {}
    assert!(stream.reset, "{}", stream.tail());
    let all = String::from_utf8_lossy(&stream.raw);
    assert!(!all.contains(&format!("id: {last}\n")), "it was not full");
    assert!(!all.contains("closing"));
}

#[test]
fn who_makes_no_handshake_is_cut_off_and_nobody_waits_for_it() {
    let certificates = Certificates::new();
    let server = served(&certificates)
        .set("TIDINGS_TLS__HANDSHAKE_TIMEOUT", "5s")
        .set("TIDINGS_TLS__HANDSHAKES", "2")
        .start();
    let connect = || TcpStream::connect(server.tls).expect("connects");
    let silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let mut stream = watch(&server, &tunnel, &tenant).open();
    // Half a handshake, more of them than are served at a time; and what is none.
    let mut half = connect();
    half.write_all(&[22, 3, 1, 1, 0, 1]).expect("sends");
    let mut plain = connect();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .expect("sends");
    for mut socket in silent.into_iter().chain([half]) {
        socket
            .set_read_timeout(Some(tidings_tests::GUARD))
            .expect("set");
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
    }
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    let last = server.publish(&tenant, &status("r1", 1)).last;
    assert_eq!(stream.next_event().cursor(), last);
    watch(&server, &tunnel, &tenant).open();
}

/// What a client says first, whole.
fn client_hello(certificates: &Certificates) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(certificates.path("ca.pem")).expect("a file of ours");
    for authority in CertificateDer::pem_slice_iter(&pem) {
        roots.add(authority.expect("a certificate")).expect("good");
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("both")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("into memory");
    hello
}

/// A byte of each was enough to take a turn for ten seconds, and a hundred a second kept everybody out.
#[test]
fn handshakes_that_their_clients_leave_unfinished_keep_nobody_waiting() {
    let certificates = Certificates::new();
    let server = served(&certificates)
        .set("TIDINGS_TLS__HANDSHAKE_TIMEOUT", "10m")
        .set("TIDINGS_TLS__HANDSHAKES", "2")
        .start();
    let hello = client_hello(&certificates);
    let mut held = Vec::new();
    for said in [&hello[..1], &hello[..hello.len() - 1], &hello] {
        for _ in 0..20 {
            let mut socket = TcpStream::connect(server.tls).expect("connects");
            socket.write_all(said).expect("sends");
            held.push(socket);
        }
    }
    // Those that have said all are answered, and say nothing to it.
    for socket in &mut held[40..] {
        socket
            .set_read_timeout(Some(tidings_tests::GUARD))
            .expect("set");
        socket.read_exact(&mut [0]).expect("an answer");
    }
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    let mut stream = watch(&server, &tunnel, &tenant).open();
    let last = server.publish(&tenant, &status("r1", 1)).last;
    assert_eq!(stream.next_event().cursor(), last);
}

#[test]
fn with_authorities_for_clients_only_those_with_a_certificate_get_in() {
    let certificates = Certificates::new();
    let strangers = Certificates::new();
    let server = served(&certificates)
        .set("TIDINGS_TLS__CLIENT_CA_FILE", &certificates.path("ca.pem"))
        .start();
    let tenant = new_tenant();
    let way = Way::trusting(&certificates);
    let known = Tunnel::to(server.tls, &way.clone().with_own(&certificates));
    watch(&server, &known, &tenant).open();
    for way in [way.clone(), way.with_own(&strangers)] {
        let tunnel = Tunnel::to(server.tls, &way);
        assert!(watch(&server, &tunnel, &tenant).try_open().is_err());
    }
}

#[test]
fn a_certificate_that_can_not_be_served_is_named_and_the_server_does_not_start() {
    let certificates = Certificates::new();
    let folder = tempfile::tempdir().expect("a folder");
    let run = |certificate: &str, key: &str| {
        let (certificate, key) = (certificates.path(certificate), certificates.path(key));
        let environment = [
            ("TIDINGS_LISTEN", ""),
            ("TIDINGS_ADMIN_LISTEN", "127.0.0.1:0"),
            ("TIDINGS_TLS__LISTEN", "127.0.0.1:0"),
            ("TIDINGS_TLS__CERTIFICATE_FILE", &certificate),
            ("TIDINGS_TLS__KEY_FILE", &key),
            (
                "TIDINGS_AUTH__JWT__SECRET",
                "0123456789abcdef0123456789abcdef",
            ),
        ];
        tidings_tests::server::run(&["serve"], &environment, folder.path())
    };
    for (certificate, key, setting, word) in [
        (
            "absent.pem",
            "server.key",
            "tls.certificate_file",
            "can't be read",
        ),
        (
            "server.key",
            "server.key",
            "tls.certificate_file",
            "no certificate",
        ),
        ("server.pem", "server.pem", "tls.key_file", "no private key"),
        (
            "server.pem",
            "client.key",
            "tls.certificate_file",
            "can't be used together",
        ),
    ] {
        let ended = run(certificate, key);
        assert!(!ended.status.success());
        assert!(
            ended.said.contains(setting) && ended.said.contains(word),
            "{}",
            ended.said
        );
    }
}

#[test]
fn over_tls_browsers_are_told_to_stay_with_it_where_that_is_asked_for() {
    let certificates = Certificates::new();
    let server = served(&certificates)
        .set("TIDINGS_TLS__HSTS", "365d")
        .start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let over = tidings_tests::http::exchange(tunnel.address, &Request::get("/"));
    assert_eq!(
        over.header("strict-transport-security"),
        Some("max-age=31536000")
    );
    let plain = server.exchange(&Request::get("/"));
    assert_eq!(plain.header("strict-transport-security"), None);
}

#[test]
fn tls_alone_is_served_where_the_plain_address_is_empty() {
    let certificates = Certificates::new();
    let server = served(&certificates).set("TIDINGS_LISTEN", "").start();
    let tunnel = Tunnel::to(server.tls, &Way::trusting(&certificates));
    let tenant = new_tenant();
    watch(&server, &tunnel, &tenant).open();
    assert!(TcpStream::connect(server.address).is_err());
}

fn url_of(server: &Server) -> String {
    format!("https://{}", server.tls)
}

/// A command that is a client of the server at this URL, for somebody with this token.
fn client(url: &str, certificates: &Certificates, token: &str, command: &[&str]) -> Command {
    let mut run = Command::new(binary());
    // Of this machine's settings none is the test's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            run.env_remove(name);
        }
    }
    run.args(command)
        .args(["--url", url])
        .args(["--ca-file", &certificates.path("ca.pem")])
        .env("TIDINGS_TOKEN", token)
        .stdin(std::process::Stdio::null());
    run
}

#[test]
fn the_commands_publish_and_follow_over_tls() {
    let certificates = Certificates::new();
    let mut server = served(&certificates).start();
    let tenant = new_tenant();
    let publish = |server: &Server, number: u64| {
        let data = json!({"status": "online", "n": number}).to_string();
        let event = [
            "publish",
            "--type",
            "device_status",
            "--device",
            "r1",
            "--data",
        ];
        let token = server.publisher(&tenant);
        let ended = run_to_end(client(
            &url_of(server),
            &certificates,
            &token,
            &[&event[..], &[&data]].concat(),
        ));
        assert!(ended.status.success(), "{}", ended.said);
    };
    publish(&server, 0);
    let viewer = server.viewer(&tenant);
    let mut tail = client(
        &url_of(&server),
        &certificates,
        &viewer,
        &["tail", "--json", "--since", "1h"],
    );
    let mut tail = tail
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    let said = std::sync::Arc::<Output>::default();
    said.collect(tail.stdout.take().expect("piped"));
    let follows = |number: u64| {
        let mark = format!("\"n\":{number}");
        said.wait_for("the event", |line| line.contains(&mark));
    };
    follows(0);
    publish(&server, 1);
    follows(1);
    // A new connection, which goes on where the other ended.
    server.kill();
    server.start_again();
    publish(&server, 2);
    follows(2);
    tail.kill().expect("a child of ours");
    tail.wait().expect("a child of ours");
    for number in 0..3 {
        let mark = format!("\"n\":{number}");
        assert_eq!(said.text().matches(&mark).count(), 1, "{}", said.text());
    }
}

/// No token goes to whom nobody vouches for, and none in the clear to where TLS was asked for.
#[test]
fn a_command_tells_a_server_that_it_can_not_trust_nothing() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let server = served(&certificates).start();
    let tenant = new_tenant();
    let token = server.publisher(&tenant);
    let command = [
        "publish",
        "--type",
        "device_status",
        "--device",
        "r1",
        "--data",
        "{}",
    ];
    let ended = run_to_end(client(&url_of(&server), &others, &token, &command));
    assert!(!ended.status.success());
    assert!(ended.said.contains("certificate"), "{}", ended.said);
    // Somebody who listens and speaks no TLS hears a greeting of TLS and nothing else.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let listening = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a connection");
        let mut heard = [0; 4096];
        let count = socket.read(&mut heard).expect("a greeting");
        heard[..count].to_vec()
    });
    let ended = run_to_end(client(&url, &certificates, &token, &command));
    assert!(!ended.status.success(), "{}", ended.said);
    let heard = listening.join().expect("it heard");
    // A handshake record (RFC 8446, section 5.1).
    assert_eq!(heard.first(), Some(&22), "{heard:?}");
    assert_eq!(server.history(&tenant, "")["events"], json!([]));
}
