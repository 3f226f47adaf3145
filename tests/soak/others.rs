//! Whoever else there is: streams that are opened with tokens and left at once, that never read, whose user is
//! revoked, and callers who are refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tidings_tests::{AccessToken, Request, Watch};

use crate::Soak;

/// One thread for each kind.
pub(crate) fn start(soak: &Arc<Soak>) -> Vec<JoinHandle<()>> {
    let kinds: [fn(&Soak); 4] = [come_and_go, never_read, are_revoked, are_refused];
    kinds
        .into_iter()
        .map(|kind| {
            let soak = Arc::clone(soak);
            std::thread::spawn(move || {
                while soak.goes_on() {
                    kind(&soak);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        })
        .collect()
}

fn some_tenant(soak: &Soak) -> &str {
    &soak.tenants[fastrand::usize(..soak.tenants.len())]
}

fn stream_path(tenant: &str) -> String {
    format!("/tenants/{tenant}/events/stream")
}

/// A stream token, a stream, its head, and away.
fn come_and_go(soak: &Soak) {
    let tenant = some_tenant(soak);
    let access = soak.sign(&AccessToken::new("visitor", tenant, "viewer"));
    let Some(answer) = soak.ask(&Request::post("/auth/sse-token").bearer(&access)) else {
        return;
    };
    if answer.status != 200 {
        return;
    }
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let watch = Watch::at(soak.address, &stream_path(tenant))
        .token(&token)
        .query("snapshot", if fastrand::bool() { "true" } else { "false" });
    if let Ok(Ok(_stream)) = watch.try_open() {
        soak.opened.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ten streams that read nothing, held until the server has had enough of some.
fn never_read(soak: &Soak) {
    let tenant = some_tenant(soak);
    let access = soak.sign(&AccessToken::new("stuck", tenant, "viewer"));
    let stuck: Vec<_> = (0..10)
        .filter_map(|_| {
            let watch = Watch::at(soak.address, &stream_path(tenant))
                .bearer(&access)
                .receive_buffer(2_048);
            watch.try_open().ok()?.ok()
        })
        .collect();
    soak.opened.fetch_add(stuck.len() as u64, Ordering::Relaxed);
    for _ in 0..150 {
        if !soak.goes_on() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A user with streams, revoked: each of them ends, and no other opens.
fn are_revoked(soak: &Soak) {
    let tenant = some_tenant(soak);
    let user = format!("leaver-{:08x}", fastrand::u32(..));
    let issued = tidings_tests::access::now() - 1;
    let access = soak.sign(&AccessToken::new(&user, tenant, "viewer").claim("iat", issued));
    let watch = Watch::at(soak.address, &stream_path(tenant)).bearer(&access);
    let streams: Vec<_> = (0..5).filter_map(|_| watch.try_open().ok()?.ok()).collect();
    soak.opened
        .fetch_add(streams.len() as u64, Ordering::Relaxed);
    let root = soak.sign(&AccessToken::super_admin("root"));
    let revoke =
        Request::new("DELETE", &format!("/users/{user}/streams?tenant={tenant}")).bearer(&root);
    let Some(answer) = soak.ask(&revoke) else {
        return;
    };
    if answer.status != 200 {
        assert!(
            answer.status == 503 || answer.status == 429,
            "{}\n{}",
            answer.head,
            answer.text()
        );
        return;
    }
    soak.revoked.fetch_add(1, Ordering::Relaxed);
    for mut stream in streams {
        // Whether by `revoked`, by a reset or by a kill: it ends.
        while stream.next_of_any().is_some() {}
    }
    match watch.try_open() {
        Ok(Err(answer)) => assert!(matches!(answer.status, 401 | 503), "{}", answer.head),
        Ok(Ok(_)) => panic!("a revoked user has a stream"),
        // Nobody answers between two lives.
        Err(_) => {}
    }
    std::thread::sleep(Duration::from_millis(200));
}

/// Wrong tokens, wrong tenants, nonsense.
fn are_refused(soak: &Soak) {
    let (one, other) = (some_tenant(soak), some_tenant(soak));
    let access = soak.sign(&AccessToken::new("stranger", one, "viewer"));
    let requests = [
        Request::get(&format!("{}?token=guess", stream_path(one))),
        Request::get("/nowhere"),
        Request::post(&format!("/tenants/{one}/events"))
            .bearer(&access)
            .body("application/json", "{"),
        Request::get(&format!("/tenants/{other}/events")).bearer(&access),
    ];
    for request in requests {
        if let Some(answer) = soak.ask(&request)
            && answer.status >= 400
        {
            soak.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}
