//! Requests over HTTP/2 that would be two when they are written as HTTP/1.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use tidings_tests::{Connection, GUARD, Proxy};

use crate::Scene;
use crate::attacks::Hidden;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A request: its fields in order, its body, and fields behind the body.
struct Attack {
    name: String,
    fields: Vec<(String, String)>,
    body: String,
    trailers: Vec<(String, String)>,
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn attacks(target: &str, token: &str, hidden: &str) -> Vec<Attack> {
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let usual = |more: &[(&str, &str)], instead: &[(&str, &str)]| {
        let authorization = format!("Bearer {token}");
        let mut fields = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "tidings.test"),
            (":path", target),
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ] {
            let other = instead.iter().find(|(other, _)| *other == name);
            fields.push(field(name, other.map_or(value, |(_, value)| *value)));
        }
        fields.extend(more.iter().map(|(name, value)| field(name, value)));
        fields
    };
    let length = hidden.len();
    let behind_chunks = format!("0\r\n\r\n{hidden}");
    let in_chunks = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let whole_length = length.to_string();
    let in_value = format!("a\r\n\r\n{hidden}");
    let in_path = format!("{target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{hidden}");
    let in_method =
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{hidden}GET");
    let name_with_line = "x: a\r\ntransfer-encoding".to_owned();
    let mut attacks = Vec::new();
    let mut add = |name: &str, fields, body: &str| {
        attacks.push(Attack {
            name: name.to_owned(),
            fields,
            body: body.to_owned(),
            trailers: Vec::new(),
        });
    };
    // Lengths and codings of HTTP/1.
    add(
        "a length of nothing",
        usual(&[("content-length", "0")], &[]),
        hidden,
    );
    add(
        "a length that is too short",
        usual(&[("content-length", "3")], &[]),
        hidden,
    );
    add(
        "a length that is too long",
        usual(&[("content-length", "9999")], &[]),
        hidden,
    );
    add(
        "two lengths",
        usual(
            &[("content-length", "0"), ("content-length", &whole_length)],
            &[],
        ),
        hidden,
    );
    add(
        "a signed length",
        usual(&[("content-length", "+0")], &[]),
        hidden,
    );
    for coding in ["chunked", "identity", "xchunked", "chunked "] {
        add(
            &format!("a coding: {coding}"),
            usual(&[("transfer-encoding", coding)], &[]),
            &behind_chunks,
        );
        add(
            &format!("a coding and a length: {coding}"),
            usual(
                &[("transfer-encoding", coding), ("content-length", "0")],
                &[],
            ),
            &in_chunks,
        );
    }
    for (name, value) in [
        ("connection", "transfer-encoding"),
        ("connection", "keep-alive"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "h2c"),
        ("te", "chunked"),
        ("Transfer-Encoding", "chunked"),
        ("transfer-encoding ", "chunked"),
        ("transfer-encoding:", "chunked"),
        ("transfer_encoding", "chunked"),
        ("host", "other"),
        (":path", "/docs"),
        ("x-a", "a\r\ntransfer-encoding: chunked"),
        ("x-a", "a\ntransfer-encoding: chunked"),
        ("x-a", "a\rtransfer-encoding: chunked"),
        ("x-a", "a\0b"),
        ("x-a\r\ntransfer-encoding: chunked\r\nx-b", "a"),
        ("x-a: b", "c"),
        ("", "a"),
        (&name_with_line, "chunked"),
        ("x-a", &in_value),
        ("cookie", &in_value),
    ] {
        let name_of_it: String = format!("{name:?}: {value:?}").chars().take(60).collect();
        add(&name_of_it, usual(&[(name, value)], &[]), &behind_chunks);
    }
    for (name, value) in [
        (":path", in_path.as_str()),
        (":path", "/a b"),
        (":method", in_method.as_str()),
        (":method", "GET /docs HTTP/1.1\r\nx:"),
        (":authority", "a\r\ntransfer-encoding: chunked"),
        (
            ":scheme",
            "https://a/ HTTP/1.1\r\ntransfer-encoding: chunked\r\nx: ",
        ),
    ] {
        let name_of_it: String = format!("{name:?}: {value:?}").chars().take(60).collect();
        add(&name_of_it, usual(&[], &[(name, value)]), &behind_chunks);
    }
    let lengths = [
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("x-a", "a\r\n\r\nGET / HTTP/1.1"),
    ];
    for (name, value) in lengths {
        attacks.push(Attack {
            name: format!("behind the body, {name:?}: {value:?}"),
            fields: usual(&[], &[]),
            body: behind_chunks.clone(),
            trailers: vec![field(name, value)],
        });
    }
    attacks
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as HPACK has them where nothing is compressed and nothing remembered (RFC 7541, section 6.2.2).
fn block(fields: &[(String, String)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            let mut length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).expect("small"));
            } else {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128 + 128).expect("a byte"));
                    length /= 128;
                }
                block.push(u8::try_from(length).expect("a byte"));
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Sends one request over a connection of its own, and reads until it is answered or refused. Gives what its stream or
/// its connection ended with.
fn send(address: SocketAddr, attack: &Attack) -> String {
    let mut socket = TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(GUARD)).expect("set");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(&attack.fields)));
    let last = if attack.trailers.is_empty() {
        END_STREAM
    } else {
        0
    };
    bytes.extend(frame(DATA, last, 1, attack.body.as_bytes()));
    if !attack.trailers.is_empty() {
        let trailers = block(&attack.trailers);
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers));
    }
    // It may be refused before all of it is read.
    let _ = socket.write_all(&bytes);
    let mut said = Vec::new();
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).is_err() {
            break;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if socket.read_exact(&mut payload).is_err() {
            break;
        }
        let (kind, flags, stream) = (head[3], head[4], head[8]);
        match kind {
            SETTINGS if flags & ACK == 0 => drop(socket.write_all(&frame(SETTINGS, ACK, 0, &[]))),
            PING if flags & ACK == 0 => drop(socket.write_all(&frame(PING, ACK, 0, &payload))),
            RST_STREAM => said.push("reset".to_owned()),
            GOAWAY => said.push(format!(
                "goaway {}",
                payload.get(7).copied().unwrap_or_default()
            )),
            HEADERS if stream == 1 => said.push("answered".to_owned()),
            DATA if stream == 1 => said.push(String::from_utf8_lossy(&payload).into_owned()),
            _ => {}
        }
        let ends = matches!(kind, DATA | HEADERS) && stream == 1 && flags & END_STREAM != 0;
        if ends || matches!(kind, RST_STREAM | GOAWAY) {
            break;
        }
    }
    said.join(", ")
}

/// All of it through a proxy, or to the server itself.
fn attack_at(scene: &Scene, what: &str, http2: SocketAddr, http1: SocketAddr) {
    let mut kept = Connection::open(http1).expect("connects");
    let token = scene.server.publisher(&scene.attacker);
    for hidden in Hidden::ALL {
        for attack in attacks(&scene.target(), &token, &scene.hidden(hidden)) {
            let said = send(http2, &attack);
            assert_ne!(said, "", "{what}: {}: no answer", attack.name);
            scene
                .victim_is_served(&mut kept, http1)
                .and_then(|()| scene.nothing_was_carried_out())
                .unwrap_or_else(|seen| {
                    panic!(
                        "{what}: {hidden:?}, {}: {seen}\nThe attacker was told: {said}",
                        attack.name
                    )
                });
        }
    }
}

pub(crate) fn attack(scene: &Scene, proxy: &Proxy) {
    let tunnel = proxy.tunnel("h2");
    attack_at(scene, "the proxy", tunnel.address, proxy.address);
}

#[test]
fn nothing_is_hidden_in_a_request_over_http_2() {
    let scene = Scene::new();
    let address = scene.server.address;
    attack_at(&scene, "the server", address, address);
}
