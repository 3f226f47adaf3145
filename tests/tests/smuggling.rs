//! Requests hidden in others, against the server itself and through nginx, `HAProxy` and Caddy with the samples of
//! `deploy/`, where the next request on the same connection to the server is somebody else's.
//!
//! Three things would show that one came through: the event that it publishes; the address that it claims to come
//! from, which every proxy replaces, in the audit log; and a victim that is given an answer which is not its own. That
//! each of them can show is shown with a proxy of the test's own that loses lengths (`leaky.rs`).

#[path = "smuggling/attacks.rs"]
mod attacks;
#[path = "smuggling/leaky.rs"]
mod leaky;
#[path = "smuggling/over_http2.rs"]
mod over_http2;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use attacks::{Hidden, Parts, Taken, attacks};
use leaky::{Leaky, Tap};
use serde_json::Value;
use tidings_tests::brokers::wait_for;
use tidings_tests::http::try_exchange;
use tidings_tests::proxies::Upstream;
use tidings_tests::publish::{self, status};
use tidings_tests::{
    Connection, GUARD, ProxyKind, ProxyOptions, Request, Server, Setup, new_tenant,
};

/// The address that a hidden request claims to come from. No proxy passes it on.
const CLAIMED: &str = "203.0.113.66";

/// How long an attacker listens for more before it leaves. Nothing is concluded from how long anything took.
const PATIENCE: Duration = Duration::from_millis(250);

/// A server behind something, an attacker of one tenant and a victim of another.
struct Scene {
    server: Server,
    attacker: String,
    victim: String,
    /// What the victim asks, and what the only right answer is.
    asked: Request,
    right: Value,
}

impl Scene {
    fn new() -> Self {
        let server = Setup::new()
            // The proxies, so that an address that came past them would be believed.
            .set("TIDINGS_PROXIES__TRUSTED", "127.0.0.0/8")
            .start();
        let (attacker, victim) = (new_tenant(), new_tenant());
        server.publish(&victim, &status("of-the-victim", 1));
        let asked =
            Request::get(&format!("/tenants/{victim}/events")).bearer(&server.viewer(&victim));
        let right = server.exchange(&asked).expect(200);
        assert_eq!(right["events"].as_array().map(Vec::len), Some(1), "{right}");
        Self {
            server,
            attacker,
            victim,
            asked,
            right,
        }
    }

    fn target(&self) -> String {
        format!("/tenants/{}/events", self.attacker)
    }

    /// The header lines of the attacker's own requests.
    fn headers(&self) -> String {
        format!(
            "Authorization: Bearer {}\r\nContent-Type: application/json\r\n",
            self.server.publisher(&self.attacker)
        )
    }

    fn hidden(&self, hidden: Hidden) -> String {
        let request = match hidden {
            Hidden::Publish => {
                let event = status("smuggled", 666);
                publish::one(
                    &self.attacker,
                    &self.server.publisher(&self.attacker),
                    &event,
                )
            }
            Hidden::Intrude => Request::get(&format!("/tenants/{}/events", self.victim))
                .bearer(&self.server.publisher(&self.attacker)),
            Hidden::Prefix => {
                return "GET /openapi.json HTTP/1.1\r\nX-Swallowed: ".to_owned();
            }
        };
        let bytes = request.header("X-Forwarded-For", CLAIMED).bytes();
        String::from_utf8(bytes).expect("a request in UTF-8")
    }

    /// Whether the victim is given its own answers, over a connection that it has and over a new one.
    fn victim_is_served(&self, kept: &mut Connection, address: SocketAddr) -> Result<(), String> {
        let over_kept = kept.exchange(&self.asked).or_else(|_| {
            // A proxy ends a connection after so many requests.
            *kept = Connection::open(address)?;
            kept.exchange(&self.asked)
        });
        for answer in [over_kept, try_exchange(address, &self.asked)] {
            let answer = answer.map_err(|error| format!("the victim is told {error}"))?;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            let read = serde_json::from_slice::<Value>(&answer.body).ok();
            if answer.status != 200
                || read.is_none_or(|read| read["events"] != self.right["events"])
            {
                return Err(format!("the victim is told {}\n{body}", answer.head));
            }
        }
        Ok(())
    }

    /// Whether nothing that was hidden was carried out.
    fn nothing_was_carried_out(&self) -> Result<(), String> {
        let events = self.server.history(&self.attacker, "")["events"].clone();
        if events != serde_json::json!([]) {
            return Err(format!("a hidden publish was carried out: {events}"));
        }
        let audit = Request::get("/audit").bearer(&self.server.super_admin());
        let audit = self.server.exchange(&audit);
        assert_eq!(audit.status, 200, "{}", audit.text());
        if audit.text().contains(CLAIMED) {
            return Err(format!("a hidden request was answered: {}", audit.text()));
        }
        Ok(())
    }

    /// Sends what is hidden in every way through what listens there. The attacker says that its connection ends with
    /// its request, so that there is no second request of its own, whatever the first one is taken for.
    fn attack(&self, address: SocketAddr, hidden: Hidden) -> Result<usize, String> {
        let mut kept = Connection::open(address).map_err(|error| error.to_string())?;
        self.victim_is_served(&mut kept, address)?;
        let (target, text) = (self.target(), self.hidden(hidden));
        // In front, where no folded line continues it.
        let headers = format!("Connection: close\r\n{}", self.headers());
        let parts = Parts {
            target: &target,
            headers: &headers,
            hidden: &text,
        };
        let attacks = attacks(&parts);
        for attack in &attacks {
            let told = |what: String| format!("{hidden:?}, {}: {what}", attack.name);
            let answered = answers_to(address, &attack.bytes);
            self.victim_is_served(&mut kept, address)
                .and_then(|()| self.nothing_was_carried_out())
                .map_err(|what| told(format!("{what}\nThe attacker was told:\n{answered}")))?;
        }
        Ok(attacks.len())
    }
}

/// Sends these bytes and reads until the other side ends the connection or has said nothing for a while.
fn answers_to(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).expect("connects");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    // It may have been refused before all was read.
    let _ = socket.write_all(bytes);
    let mut answered = Vec::new();
    let mut buffer = [0; 4096];
    let mut left = false;
    loop {
        match socket.read(&mut buffer) {
            Ok(count @ 1..) => answered.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && !left => {
                // What is not complete by now never will be.
                left = true;
                let _ = socket.shutdown(Shutdown::Write);
            }
            _ => return String::from_utf8_lossy(&answered).into_owned(),
        }
    }
}

fn nothing_is_smuggled_through(kind: ProxyKind) {
    let scene = Scene::new();
    let tap = Tap::to(scene.server.address);
    let upstream = Upstream {
        address: tap.address,
        admin: scene.server.admin,
    };
    let mut proxy = ProxyOptions::in_front_of(kind, &[upstream]).start();
    for hidden in Hidden::ALL {
        let tried = scene.attack(proxy.address, hidden);
        let tried = tried.unwrap_or_else(|what| panic!("through {kind:?}: {what}"));
        assert!(tried > 200, "{tried}");
    }
    over_http2::attack(&scene, &proxy);
    // That it was worth trying: the proxy has the requests of different clients on one connection.
    shares_connections(&scene, &tap, proxy.address);
    // What it still held has come to its end too.
    proxy.stop();
    scene
        .nothing_was_carried_out()
        .expect("nothing, to the end");
}

/// Clients come and go until the requests of two have been on one connection to the server. HAProxy may close all that
/// it has for a while: it keeps as many as it was in need of, and those of the attacks are among them.
fn shares_connections(scene: &Scene, tap: &Tap, address: SocketAddr) {
    wait_for("a connection with the requests of both clients", || {
        for name in ["one", "two"] {
            let asked = scene.asked.clone().header("X-Client", name);
            let mut connection = Connection::open(address).expect("connects");
            // HAProxy gives others only what has served more than one request.
            for _ in 0..2 {
                connection.exchange(&asked).expect("an answer").expect(200);
            }
        }
        tap.has_shared("X-Client: one", "X-Client: two")
    });
}

#[test]
fn nothing_is_smuggled_through_nginx() {
    nothing_is_smuggled_through(ProxyKind::Nginx);
}

#[test]
fn nothing_is_smuggled_through_haproxy() {
    nothing_is_smuggled_through(ProxyKind::Haproxy);
}

#[test]
fn nothing_is_smuggled_through_caddy() {
    nothing_is_smuggled_through(ProxyKind::Caddy);
}

/// A test that can't fail is worse than none. Each of the three signs, through a proxy that passes a body on without
/// its length.
#[test]
fn what_a_leaky_proxy_lets_through_is_seen() {
    for (hidden, sign) in [
        (Hidden::Publish, "the victim is told"),
        (Hidden::Intrude, "the victim is told"),
        (Hidden::Prefix, "the victim is told"),
    ] {
        let scene = Scene::new();
        let leaky = Leaky::to(scene.server.address);
        let seen = scene.attack(leaky.address, hidden).expect_err("it leaks");
        assert!(seen.contains(sign), "{hidden:?}: {seen}");
        match hidden {
            Hidden::Publish => {
                let said = scene.nothing_was_carried_out().expect_err("an event");
                assert!(said.contains("a hidden publish"), "{said}");
            }
            Hidden::Intrude => {
                let said = scene.nothing_was_carried_out().expect_err("an entry");
                assert!(said.contains("a hidden request was answered"), "{said}");
            }
            Hidden::Prefix => assert!(seen.contains("openapi"), "{seen}"),
        }
    }
}

/// A request behind another is carried out through each proxy, so that the marker can be published at all.
#[test]
fn a_request_behind_another_is_carried_out() {
    for kind in ProxyKind::ALL {
        let scene = Scene::new();
        let proxy = ProxyOptions::new(kind, &scene.server).start();
        let (headers, hidden) = (scene.headers(), scene.hidden(Hidden::Publish));
        let target = scene.target();
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: tidings.test\r\n{headers}\r\n{hidden}");
        let mut connection = Connection::open(proxy.address).expect("connects");
        connection.send(bytes.as_bytes()).expect("sends");
        connection.read_answer().expect("an answer").expect(200);
        let receipt = connection
            .read_answer()
            .expect("a second answer")
            .expect(200);
        assert_eq!(receipt["accepted"], 1, "{kind:?}: {receipt}");
        let said = scene.nothing_was_carried_out().expect_err("an event");
        assert!(said.contains("a hidden publish"), "{kind:?}: {said}");
    }
}

fn status_lines(answered: &str) -> Vec<&str> {
    answered
        .split("HTTP/1.")
        .skip(1)
        // The version's last digit and a blank stand in front of the code.
        .filter_map(|answer| answer.split("\r\n").next()?.get(2..))
        .filter(|line| !line.starts_with("100 "))
        .collect()
}

/// Without a proxy: whatever has two meanings is refused, and nothing behind it is read. A last request, behind each,
/// tells where the server believes that the message ends.
#[test]
fn an_ambiguous_message_is_refused_and_its_connection_closed() {
    let scene = Scene::new();
    let (target, headers) = (scene.target(), scene.headers());
    let hidden = scene.hidden(Hidden::Publish);
    let parts = Parts {
        target: &target,
        headers: &headers,
        hidden: &hidden,
    };
    let last = b"GET /last HTTP/1.1\r\nHost: tidings.test\r\nConnection: close\r\n\r\n";
    let mut wrong = Vec::new();
    for attack in attacks(&parts) {
        let mut socket = TcpStream::connect(scene.server.address).expect("connects");
        socket.set_read_timeout(Some(GUARD)).expect("set");
        let _ = socket.write_all(&[&attack.bytes[..], last].concat());
        if attack.taken == Taken::Unfinished {
            let _ = socket.shutdown(Shutdown::Write);
        }
        let mut answered = Vec::new();
        let mut buffer = [0; 4096];
        // The server ends it, not we.
        let end = loop {
            match socket.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => answered.extend_from_slice(&buffer[..count]),
                Err(error) => break Err(error.kind()),
            }
            if attack.taken == Taken::Streamed && answered.ends_with(b": heartbeat\n") {
                break Ok(());
            }
        };
        let answered = String::from_utf8_lossy(&answered);
        let lines = status_lines(&answered);
        let is_good = |line: &str| line.starts_with('2');
        let is_right = match (attack.taken, &lines[..], end) {
            // Whoever closes with something unread resets, and an answer that is on its way can be lost.
            (Taken::Refused | Taken::Closed, [], Err(kind)) => kind == ErrorKind::ConnectionReset,
            (_, _, Err(kind)) if kind != ErrorKind::ConnectionReset => false,
            (Taken::Refused | Taken::Unfinished, [line], _) => line.starts_with("400 "),
            (Taken::Closed | Taken::Whole, [line], _) => !is_good(line),
            (Taken::Whole, [_, last], _) => last.starts_with("404 "),
            (Taken::Garbage, [first, rest @ ..], _) => {
                !is_good(first) && rest.iter().all(|line| line.starts_with("400 "))
            }
            (Taken::Streamed, [line], Ok(())) => is_good(line),
            (Taken::Pipelined, [_, ..], _) => true,
            _ => false,
        };
        if !is_right {
            wrong.push(format!(
                "{}, {:?}: {lines:?}, {end:?}",
                attack.name, attack.taken
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
