//! Streams against hand-written bytes: what is asked for after every kind of interruption.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{Server, impatient};
use tidings_client::{
    AccessToken, Client, ClientError, Conflate, EventStream, StreamEvent, StreamOptions,
};
use tidings_protocol::api::{ClosingReason, GapReason};
use tokio::net::TcpSocket;

const TENANT: &str = "11111111-1111-4111-8111-111111111111";

/// The next event that is not about the connection.
async fn next_event(stream: &mut EventStream) -> StreamEvent {
    loop {
        match stream.next().await.expect("an event").expect("no error") {
            StreamEvent::Connected { .. } | StreamEvent::Interrupted { .. } => {}
            other => return other,
        }
    }
}

fn block(position: usize) -> String {
    format!("id: 1j8.{position}\nevent: device_status\ndata: {{\"n\":{position}}}\n\n")
}

/// Whatever byte the line breaks after, in order or by a reset, each event arrives once.
#[tokio::test]
async fn a_stream_that_breaks_anywhere_asks_for_exactly_the_rest() {
    const EVENTS: usize = 3;
    let mut wire =
        String::from("retry: 1\n: connected sse-0\nevent: cursor\nid: 1j8.0\ndata: {}\n\n");
    for position in 1..=EVENTS {
        wire.push_str(&block(position));
        wire.push_str(": heartbeat\n");
    }
    let server = Server::start().await;
    for cut in 0..=wire.len() {
        let mut stream = server.client().stream(impatient());
        let script = async {
            let mut first = server.stream_request().await;
            assert_eq!(first.parameter("last_event_id"), None);
            first.stream_head().await;
            first.write(&wire.as_bytes()[..cut]).await;
            first.end(cut % 2 == 1).await;
            // Before the first id, the stream begins anew, as a server has it.
            let mut again = server.stream_request().await;
            let after = again.parameter("last_event_id").map_or(0, |cursor| {
                cursor.strip_prefix("1j8.").unwrap().parse().unwrap()
            });
            again.stream_head().await;
            for position in after + 1..=EVENTS {
                again.write(block(position).as_bytes()).await;
            }
            again
        };
        let mut seen = Vec::new();
        // Reads until the script is through, since a stream that has given everything opens again
        // only while it is read.
        let _open = {
            let mut script = std::pin::pin!(script);
            loop {
                tokio::select! {
                    open = &mut script => break open,
                    event = next_event(&mut stream) => note(event, &mut seen),
                }
            }
        };
        while seen.len() < EVENTS {
            let event = next_event(&mut stream).await;
            note(event, &mut seen);
            assert_eq!(stream.last_event_id(), seen.last().map(String::as_str));
        }
        assert_eq!(seen, ["1j8.1", "1j8.2", "1j8.3"], "cut after {cut} bytes");
    }
}

fn note(event: StreamEvent, seen: &mut Vec<String>) {
    if let StreamEvent::Event(event) = event {
        seen.push(event.id);
    }
}

/// The place to resume at is that of the last event taken, not of the last one received.
#[tokio::test]
async fn an_event_that_was_received_but_not_taken_is_not_skipped() {
    let server = Server::start().await;
    let mut stream = server.client().stream(impatient());
    let script = async {
        let mut first = server.stream_request().await;
        first.stream_head().await;
        first.write((block(1) + &block(2)).as_bytes()).await;
        first
    };
    let (_open, event) = tokio::join!(script, next_event(&mut stream));
    assert!(matches!(event, StreamEvent::Event(event) if event.id == "1j8.1"));
    assert_eq!(stream.last_event_id(), Some("1j8.1"));
}

/// `next` stands in `select!` loops; each drop of it must not cost a token or an event.
#[tokio::test]
async fn a_read_that_is_dropped_half_way_costs_nothing() {
    let server = Server::start().await;
    let mut stream = server.client().stream(impatient());
    let script = async {
        let mut only = server.stream_request().await;
        only.stream_head().await;
        for piece in block(1).as_bytes().chunks(3) {
            only.write(piece).await;
            tokio::task::yield_now().await;
        }
        let second = server.request().await;
        panic!("asked again: {}", second.line());
    };
    let reader = async {
        loop {
            match tokio::time::timeout(Duration::ZERO, stream.next()).await {
                Ok(Some(Ok(StreamEvent::Event(event)))) => return event,
                Ok(Some(Ok(_))) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let event = tokio::select! {
        event = reader => event,
        () = script => unreachable!("the script ends with a panic"),
    };
    assert_eq!(event.id, "1j8.1");
}

#[tokio::test]
async fn what_was_asked_for_stands_in_the_query() {
    let server = Server::start().await;
    let mut stream = server.client().stream(StreamOptions {
        tenant: Some(TENANT.parse().unwrap()),
        types: vec![
            "alert_fired".parse().unwrap(),
            "alert_resolved".parse().unwrap(),
        ],
        devices: vec!["core:1".parse().unwrap()],
        since: Some("2026-11-23T18:00:00Z".to_owned()),
        scope_tenant: true,
        ..impatient()
    });
    let script = async {
        let mut first = server.stream_request().await;
        assert!(
            first
                .line()
                .starts_with(&format!("GET /tenants/{TENANT}/events/stream?"))
        );
        assert_eq!(first.parameter("types"), Some("alert_fired,alert_resolved"));
        assert_eq!(first.parameter("device_id"), Some("core%3A1"));
        assert_eq!(first.parameter("since"), Some("2026-11-23T18%3A00%3A00Z"));
        assert_eq!(first.parameter("scope"), Some("tenant"));
        first.stream_head().await;
        first.write(b"event: cursor\nid: 1j8.7\ndata: {}\n\n").await;
        first.end(false).await;
        // The cursor takes the place of the time, or what came since then would be repeated.
        let again = server.stream_request().await;
        assert_eq!(again.parameter("since"), None);
        assert_eq!(again.parameter("last_event_id"), Some("1j8.7"));
        assert_eq!(again.parameter("scope"), Some("tenant"));
    };
    let reader = async {
        let moved = next_event(&mut stream).await;
        assert!(matches!(moved, StreamEvent::Moved { cursor } if cursor == "1j8.7"));
        next_event(&mut stream).await;
    };
    tokio::select! {
        () = script => {}
        () = reader => panic!("the stream ended"),
    }
}

#[tokio::test]
async fn the_servers_own_events_are_told_apart() {
    let server = Server::start().await;
    let mut stream = server.client().stream(impatient());
    let script = async {
        let mut line = server.stream_request().await;
        line.stream_head().await;
        line.write(
            b"event: gap\nid: 1j8.40\ndata: {\"requested\":\"1j7.3\",\"resumed_at\":\"1j8.40\",\"reason\":\"unknown_epoch\"}\n\n\
              event: stale\ndata: {\"since\":\"2026-11-23T18:00:00Z\",\"reason\":\"disk full\"}\n\n\
              event: fresh\ndata: {}\n\n\
              event: gap\nid: 1j8.41\ndata: {\"reason\":\"of a later version\"}\n\n\
              event: closing\ndata: {\"reason\":\"draining\",\"retry\":3,\"conflated\":0}\n\n",
        )
        .await;
        line.end(false).await;
    };
    let reader = async {
        assert!(matches!(next_event(&mut stream).await,
            StreamEvent::Gap(gap) if gap.reason == GapReason::UnknownEpoch && gap.requested == "1j7.3"));
        assert_eq!(stream.last_event_id(), Some("1j8.40"));
        assert!(matches!(next_event(&mut stream).await,
            StreamEvent::Stale(stale) if stale.reason.as_deref() == Some("disk full")));
        assert!(matches!(next_event(&mut stream).await, StreamEvent::Fresh));
        // A gap of a kind unknown here is shown as it came, never left out.
        assert!(matches!(next_event(&mut stream).await,
            StreamEvent::Event(event) if event.event == "gap"));
        assert!(matches!(next_event(&mut stream).await,
            StreamEvent::Closing(closing) if closing.reason == ClosingReason::Draining));
        // The server has spread its `retry` itself.
        assert!(matches!(stream.next().await,
            Some(Ok(StreamEvent::Interrupted { cause: None, wait })) if wait == Duration::from_millis(3)));
    };
    tokio::join!(script, reader);
}

#[tokio::test]
async fn a_final_refusal_ends_the_stream_with_its_problem() {
    for status in [403, 404, 410, 422] {
        let server = Server::start().await;
        let mut stream = server.client().stream(impatient());
        let script = async {
            let problem = format!(
                r#"{{"type":"about:blank","title":"No","status":{status},"detail":"not so","parameter":"since"}}"#
            );
            let line = server.stream_request().await;
            line.answer(status, "application/problem+json", "", &problem)
                .await;
        };
        let ((), first) = tokio::join!(script, stream.next());
        let error = first.unwrap().unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert_eq!(error.problem().unwrap().parameter.as_deref(), Some("since"));
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn a_401_is_tried_once_more_with_a_fresh_token() {
    let server = Server::start().await;
    let asked = Arc::new(AtomicU32::new(0));
    let access = AccessToken::provider({
        let asked = Arc::clone(&asked);
        move || {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            async move { Ok(format!("token-{number}")) }
        }
    });
    let client = Client::new(&server.url(), access).unwrap();
    let mut stream = client.stream(impatient());
    let script = async {
        for number in 0..2 {
            let mint = server.request().await;
            assert_eq!(
                mint.header("authorization"),
                Some(format!("Bearer token-{number}").as_str())
            );
            mint.answer(401, "text/plain", "", "no").await;
        }
    };
    let ((), first) = tokio::join!(script, stream.next());
    assert_eq!(first.unwrap().unwrap_err().status(), Some(401));
    assert!(stream.next().await.is_none());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_stream_token_that_was_lost_with_its_server_is_minted_anew() {
    let server = Server::start().await;
    let mut stream = server.client().stream(impatient());
    let script = async {
        server.stream_request().await.json(401, "{}").await;
        let mut again = server.stream_request().await;
        again.stream_head().await;
        again
    };
    let (_open, first) = tokio::join!(script, stream.next());
    assert!(
        matches!(first, Some(Ok(StreamEvent::Connected { connection_id }))
        if connection_id == "sse-1f0c9a7be210")
    );
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_it_asks_for() {
    for status in [429, 503] {
        let server = Server::start().await;
        let mut stream = server.client().stream(impatient());
        let script = async {
            let line = server.stream_request().await;
            line.answer(
                status,
                "application/problem+json",
                "Retry-After: 7\r\n",
                "{}",
            )
            .await;
        };
        let ((), first) = tokio::join!(script, stream.next());
        let Some(Ok(StreamEvent::Interrupted {
            cause: Some(cause),
            wait,
        })) = first
        else {
            panic!("{first:?}");
        };
        assert_eq!(cause.status(), Some(status));
        assert!((7.0..7.1).contains(&wait.as_secs_f64()), "{wait:?}");
    }
}

#[tokio::test]
async fn a_line_without_a_byte_is_taken_for_dead_and_opened_anew() {
    let server = Server::start().await;
    let mut stream = server.client().stream(StreamOptions {
        silence: Duration::from_millis(50),
        ..impatient()
    });
    let script = async {
        let mut mute = server.stream_request().await;
        mute.stream_head().await;
        mute.write(block(1).as_bytes()).await;
        let mut again = server.stream_request().await;
        assert_eq!(again.parameter("last_event_id"), Some("1j8.1"));
        again.stream_head().await;
        again.write(block(2).as_bytes()).await;
        (mute, again)
    };
    let reader = async {
        assert!(
            matches!(next_event(&mut stream).await, StreamEvent::Event(event) if event.id == "1j8.1")
        );
        let interrupted = stream.next().await;
        assert!(matches!(
            interrupted,
            Some(Ok(StreamEvent::Interrupted {
                cause: Some(ClientError::Silent { .. }),
                ..
            }))
        ));
        assert!(
            matches!(next_event(&mut stream).await, StreamEvent::Event(event) if event.id == "1j8.2")
        );
    };
    tokio::join!(script, reader);
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_until_it_is_back() {
    // It has its port, so that nobody else can be given that, and does not listen.
    let away = TcpSocket::new_v4().unwrap();
    away.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", away.local_addr().unwrap());
    let client = Client::new(&url, AccessToken::fixed("access")).unwrap();
    let mut stream = client.stream(impatient());
    for _ in 0..3 {
        let down = stream.next().await;
        assert!(matches!(
            down,
            Some(Ok(StreamEvent::Interrupted {
                cause: Some(ClientError::Connection { .. }),
                ..
            }))
        ));
    }
}

#[tokio::test]
async fn an_event_longer_than_accepted_ends_the_stream_after_what_came_before_it() {
    let server = Server::start().await;
    let mut stream = server.client().stream(StreamOptions {
        longest_event: 64,
        ..impatient()
    });
    let script = async {
        let mut line = server.stream_request().await;
        line.stream_head().await;
        let long = format!("{}data: {}\n\n", block(1), "x".repeat(65));
        line.write(long.as_bytes()).await;
        line
    };
    let reader = async {
        assert!(
            matches!(next_event(&mut stream).await, StreamEvent::Event(event) if event.id == "1j8.1")
        );
        assert!(matches!(
            stream.next().await,
            Some(Err(ClientError::TooLong(_)))
        ));
        assert!(stream.next().await.is_none());
    };
    tokio::join!(script, reader);
}

#[tokio::test]
async fn a_page_in_place_of_a_stream_is_not_read_as_one() {
    let server = Server::start().await;
    let mut stream = server.client().stream(impatient());
    let script = async {
        let line = server.stream_request().await;
        line.answer(200, "text/html", "", "<p>Please log in").await;
    };
    let ((), first) = tokio::join!(script, stream.next());
    assert!(matches!(first, Some(Err(ClientError::Unexpected { .. }))));
}

#[tokio::test]
async fn a_snapshot_comes_subject_by_subject_and_only_its_end_is_a_place_to_resume_at() {
    let server = Server::start().await;
    let mut stream = server.client().stream(StreamOptions {
        snapshot: true,
        conflate: Conflate::Types(vec!["metric_update".parse().unwrap()]),
        ..impatient()
    });
    let script = async {
        let mut first = server.stream_request().await;
        assert_eq!(first.parameter("snapshot"), Some("true"));
        assert_eq!(first.parameter("conflate"), Some("metric_update"));
        first.stream_head().await;
        first
            .write(
                b"event: snapshot\ndata: {\"type\":\"device_status\",\"id\":\"1j8.3\",\"data\":{\"n\":1}}\n\n",
            )
            .await;
        first.end(false).await;
        // It broke off before the whole was there: from the beginning, not from the subject's event.
        let mut second = server.stream_request().await;
        assert_eq!(second.parameter("last_event_id"), None);
        second.stream_head().await;
        second
            .write(b"event: snapshot_end\nid: 1j8.7\ndata: {}\n\n")
            .await;
        second.end(false).await;
        let third = server.stream_request().await;
        assert_eq!(third.parameter("last_event_id"), Some("1j8.7"));
        assert_eq!(
            third.parameter("snapshot"),
            Some("true"),
            "for behind a gap"
        );
    };
    let reader = async {
        let (mut subjects, mut ends) = (Vec::new(), Vec::new());
        loop {
            match stream.next().await.unwrap().unwrap() {
                StreamEvent::Snapshot(subject) => subjects.push((subject.event_type, subject.id)),
                StreamEvent::SnapshotEnd { cursor } => ends.push(cursor),
                StreamEvent::Event(event) => panic!("{event:?}"),
                _ => {}
            }
            if ends.len() == 1 && subjects.len() == 1 {
                assert_eq!(
                    subjects[0],
                    ("device_status".to_owned(), "1j8.3".to_owned())
                );
                assert_eq!(ends[0], "1j8.7");
                break;
            }
        }
        while stream.next().await.is_some() {}
    };
    tokio::select! {
        () = script => {}
        () = reader => unreachable!("the stream opens again and again"),
    }
}
