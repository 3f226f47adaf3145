//! Who logs users in: RSA keys made and used by `openssl`, and a server that publishes them as a JWKS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::GUARD;
use crate::access::AccessToken;

/// A private RSA key that signs access tokens with RS256.
#[derive(Debug)]
pub struct SigningKey {
    file: NamedTempFile,
    id: String,
    modulus: String,
}

impl SigningKey {
    /// Makes one; tokens and sets call it `id`.
    pub fn new(id: &str) -> Self {
        let pem = openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", &[]);
        let mut file = NamedTempFile::new().expect("a temporary file");
        file.write_all(&pem).expect("a file of ours");
        let path = file.path().display();
        let modulus = openssl(&format!("rsa -in {path} -noout -modulus"), &[]);
        let modulus = String::from_utf8(modulus).expect("text");
        let digits = modulus.trim().strip_prefix("Modulus=").expect("a modulus");
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        Self {
            id: id.to_owned(),
            modulus: URL_SAFE_NO_PAD.encode(bytes),
            file,
        }
    }

    /// Its public half, as it stands in a set.
    pub fn jwk(&self) -> Value {
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": self.modulus, "e": "AQAB"})
    }

    /// Its public half in PEM.
    pub fn public_pem(&self) -> String {
        let path = self.file.path().display();
        let pem = openssl(&format!("rsa -in {path} -pubout"), &[]);
        String::from_utf8(pem).expect("text")
    }

    /// The token, which names this key unless its header names another, signed.
    pub fn sign(&self, token: &AccessToken) -> String {
        let token = token.clone().says_algorithm("RS256");
        self.sign_as_it_is(&token.header_if_missing("kid", &*self.id))
    }

    /// The token signed, whatever its header says.
    pub fn sign_as_it_is(&self, token: &AccessToken) -> String {
        let unsigned = token.unsigned();
        let path = self.file.path().display();
        let signature = openssl(
            &format!("dgst -sha256 -sign {path} -binary"),
            unsigned.as_bytes(),
        );
        format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn openssl(arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("openssl reads");
    drop(stdin);
    let mut output = Vec::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_end(&mut output).expect("openssl writes");
    let status = child.wait().expect("a child of ours");
    assert!(status.success(), "openssl {arguments}");
    output
}

/// What a key server does with a request.
#[derive(Clone, Debug)]
enum Behaviour {
    Answer(u16, String),
    /// Says nothing, ever.
    Silence,
}

/// A server that publishes a JWKS at every path, until the test ends.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    fetches: Arc<AtomicU64>,
}

impl KeyServer {
    /// Publishes these keys.
    pub fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Self {
            address: listener.local_addr().expect("bound"),
            behaviour: Arc::new(Mutex::new(Behaviour::Silence)),
            fetches: Arc::default(),
        };
        server.publish(keys);
        let (behaviour, fetches) = (Arc::clone(&server.behaviour), Arc::clone(&server.fetches));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                fetches.fetch_add(1, Ordering::SeqCst);
                let behaviour = behaviour.lock().expect("no thread panics").clone();
                std::thread::spawn(move || answer(socket, &behaviour));
            }
        });
        server
    }

    /// Where the set is.
    pub fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    /// From now on publishes these keys.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.answer(200, &json!({ "keys": keys }).to_string());
    }

    /// From now on answers this.
    pub fn answer(&self, status: u16, body: &str) {
        *self.behaviour.lock().expect("no thread panics") =
            Behaviour::Answer(status, body.to_owned());
    }

    /// From now on takes requests and says nothing.
    pub fn fall_silent(&self) {
        *self.behaviour.lock().expect("no thread panics") = Behaviour::Silence;
    }

    /// How many requests have come.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn answer(mut socket: TcpStream, behaviour: &Behaviour) {
    let Behaviour::Answer(status, body) = behaviour else {
        std::thread::sleep(GUARD);
        return;
    };
    let mut lines = BufReader::new(&socket).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
    let _ = write!(
        socket,
        "HTTP/1.1 {status} Whatever\r\nLocation: /elsewhere\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
}
