//! Ways to show who one is, TLS, and what a user must be allowed.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tidings::jetstream::Publisher;
use tidings::nats::{Connectivity, NatsOptions as Options};
use tidings_tests::NatsOptions;

use crate::support::{
    Reading, STREAM, configuration, connected, consumers, event, node_with, publish_surely, stream,
    tenant, within,
};

/// Connects with these settings, which the broker takes.
async fn login(url: &str, settings: &[(&str, &str)]) {
    let nats = node_with(&configuration(url, settings)).await;
    connected(&nats).await;
}

/// Tries to connect with these settings until that fails for a reason with this in it; gives the reason. On a slow
/// machine it fails for others too, such as that the broker does not wait for so long.
async fn refusal(url: &str, settings: &[(&str, &str)], why: &str) -> String {
    let nats = node_with(&configuration(url, settings)).await;
    let mut connectivity = nats.connectivity();
    let settled = connectivity.wait_for(|state| match state {
        Connectivity::Connected => true,
        Connectivity::Away { reason, .. } => reason != "not connected yet" && reason.contains(why),
    });
    match &*within("a refusal", settled).await.unwrap() {
        Connectivity::Connected => panic!("it is let in"),
        Connectivity::Away { reason, .. } => reason.clone(),
    }
}

#[tokio::test]
async fn a_user_shows_a_password_from_the_configuration_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "s3cr3t\n").unwrap();
    let server = NatsOptions::new()
        .configuration("authorization { user: tidings, password: s3cr3t }")
        .start();
    let user = ("nats.user", "tidings");
    let url = server.url();
    login(&url, &[user, ("nats.password", "s3cr3t")]).await;
    let path = file.to_str().unwrap();
    login(&url, &[user, ("nats.password_file", path)]).await;
    for wrong in [&[][..], &[user, ("nats.password", "guess")]] {
        let reason = refusal(&url, wrong, "authorization").await;
        assert!(!reason.contains("guess"), "{reason}");
    }
}

#[tokio::test]
async fn a_token_is_shown() {
    let server = NatsOptions::new()
        .configuration("authorization { token: t0k3n }")
        .start();
    let folder = tempfile::tempdir().unwrap();
    let (good, wrong) = (folder.path().join("good"), folder.path().join("wrong"));
    std::fs::write(&good, "t0k3n\n").unwrap();
    std::fs::write(&wrong, "other\n").unwrap();
    let (good, wrong) = (good.to_str().unwrap(), wrong.to_str().unwrap());
    for shown in [("nats.token", "t0k3n"), ("nats.token_file", good)] {
        login(&server.url(), &[shown]).await;
    }
    for shown in [("nats.token", "other"), ("nats.token_file", wrong)] {
        refusal(&server.url(), &[shown], "authorization").await;
    }
}

#[tokio::test]
async fn an_nkey_signs() {
    let (mine, other) = (KeyPair::new_user(), KeyPair::new_user());
    let server = NatsOptions::new()
        .configuration(&format!(
            "authorization {{ users: [ {{ nkey: {} }} ] }}",
            mine.public_key()
        ))
        .start();
    let url = server.url();
    let seeds = [mine.seed().unwrap(), other.seed().unwrap()];
    login(&url, &[("nats.nkey", &seeds[0])]).await;
    refusal(&url, &[("nats.nkey", &seeds[1])], "authorization").await;
    let folder = tempfile::tempdir().unwrap();
    for (key, is_known) in [(&mine, true), (&other, false)] {
        let file = folder.path().join("seed");
        std::fs::write(&file, format!("{}\n", key.seed().unwrap())).unwrap();
        let shown = ("nats.nkey_file", file.to_str().unwrap());
        if is_known {
            login(&url, &[shown]).await;
        } else {
            refusal(&url, &[shown], "authorization").await;
        }
    }
    let config = configuration(&url, &[("nats.nkey", "SUNOSEED")]);
    let refused = Options::from_config(&config.nats, "test").unwrap_err();
    assert_eq!(refused.key, "nats.nkey");
    assert!(!refused.to_string().contains("SUNOSEED"));
}

/// A JWT of NATS (ADR-14): claims signed by the issuer's NKEY.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let claims = json!({
        "jti": format!("{:032x}", fastrand::u128(..)),
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn a_credentials_file_is_read_with_every_connection() {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let (account, user) = (KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator = jwt(
        &operator,
        &operator,
        "O",
        &json!({ "type": "operator", "version": 2 }),
    );
    let claims = json!({ "type": "account", "version": 2, "limits": limits });
    let of_account = jwt(&operator, &account, "A", &claims);
    // JetStream does not start without it.
    let of_system = jwt(
        &operator,
        &system,
        "SYS",
        &json!({ "type": "account", "version": 2 }),
    );
    let of_user = jwt(
        &account,
        &user,
        "U",
        &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    let server = NatsOptions::new()
        .configuration(&format!(
            "operator: {of_operator}\nresolver: MEMORY\nsystem_account: {}\n\
             resolver_preload: {{ {}: {of_account}, {}: {of_system} }}",
            system.public_key(),
            account.public_key(),
            system.public_key()
        ))
        .start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.creds");
    let credentials = |jwt: &str, seed: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    let stranger = KeyPair::new_user().seed().unwrap();
    std::fs::write(&file, credentials(&of_user, &stranger)).unwrap();
    let settings = [("nats.credentials_file", file.to_str().unwrap())];
    let nats = node_with(&configuration(&server.url(), &settings)).await;
    let mut connectivity = nats.connectivity();
    within(
        "a refusal",
        connectivity.wait_for(
            |state| matches!(state, Connectivity::Away { reason, .. } if reason.contains("authorization")),
        ),
    )
    .await
    .unwrap();
    // The right file is put there while the server tries.
    std::fs::write(&file, credentials(&of_user, &user.seed().unwrap())).unwrap();
    connected(&nats).await;
    stream(&nats, &[]).await;
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl, which scripts/test installs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An authority, and certificates that it gave to the server and a client.
fn certificates(folder: &Path) -> impl Fn(&str) -> String {
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(
        folder,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
    );
    for who in ["server", "client"] {
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {who}.key -out {who}.csr -subj /CN={who}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {who}.pem -days 2 -extfile san"
            ),
        );
    }
    let folder: PathBuf = folder.to_owned();
    move |file| folder.join(file).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn servers_and_clients_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let path = certificates(folder.path());
    let server = NatsOptions::new()
        .configuration(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        ))
        .start();
    let (ca, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let ca = ("nats.tls.ca_file", ca.as_str());
    let certificate = ("nats.tls.certificate_file", certificate.as_str());
    let key = ("nats.tls.key_file", key.as_str());
    let url = format!("tls://{}", server.address);
    login(&url, &[ca, certificate, key]).await;
    // Without a certificate, and of an authority that nobody knows. How TLS says so is its own business.
    for wrong in [&[ca][..], &[certificate, key]] {
        refusal(&url, wrong, "").await;
    }

    // A server that offers no TLS is refused where it is required, whatever lies in between.
    let plain = NatsOptions::new().start();
    let required = ("nats.tls.required", "true");
    refusal(&plain.url(), &[ca, required], "").await;
    login(&plain.url(), &[ca]).await;
    let missing = configuration(&url, &[("nats.tls.ca_file", "/nowhere")]);
    let refused = Options::from_config(&missing.nats, "test").unwrap_err();
    assert_eq!(refused.key, "nats.tls.ca_file");
}

#[tokio::test]
async fn the_documented_permissions_suffice() {
    let text = include_str!("../../../../docs/nats.md");
    let (_, rest) = text
        .split_once("<!-- permissions -->")
        .expect("the section");
    let (_, rest) = rest.split_once("```").expect("a block");
    let (_, rest) = rest.split_once('\n').expect("its first line");
    let (block, _) = rest.split_once("```").expect("its end");
    let server = NatsOptions::new().configuration(block).start();
    let settings = [("nats.user", "tidings"), ("nats.password", "change-me")];
    let nats = node_with(&configuration(&server.url(), &settings)).await;
    connected(&nats).await;
    stream(&nats, &[]).await;
    let publisher = Publisher::start(&nats, STREAM);
    let mut keyed = event(tenant(1), 1);
    keyed.key = Some(tidings_log::IdempotencyKey {
        key: [1; 16],
        digest: [1; 16],
    });
    for _ in 0..2 {
        publish_surely(&publisher, tenant(1), std::slice::from_ref(&keyed)).await;
    }
    let mut reading = Reading::of_own(&nats, None, 4);
    assert_eq!(reading.read_through(1).await.len(), 1);
    reading.source.stop().await;
    assert_eq!(
        consumers(&nats, STREAM).await,
        0,
        "it may take its consumer away"
    );
    stream(&nats, &[("log.retention", "9d")]).await;
}
