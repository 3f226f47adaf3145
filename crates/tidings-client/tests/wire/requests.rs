//! Publishing and the history against hand-written bytes.

use crate::support::Server;
use tidings_client::{ClientError, HistoryOptions, NewEvent};
use tidings_protocol::TenantId;

fn tenant() -> TenantId {
    "11111111-1111-4111-8111-111111111111".parse().unwrap()
}

fn event(number: u32) -> NewEvent {
    let data = serde_json::json!({"status": "online", "number": number});
    NewEvent::new("device_status".parse().unwrap(), &data)
        .unwrap()
        .with_device("core-1".parse().unwrap())
        .with_key(format!("k{number}"))
}

const RECEIPT: &str = r#"{"accepted":1,"duplicates":0,"first":"1j8.1","last":"1j8.1"}"#;

#[tokio::test]
async fn one_event_goes_as_json_and_several_as_lines() {
    let server = Server::start().await;
    let client = server.client();
    for (count, content_type) in [(1, "application/json"), (3, "application/x-ndjson")] {
        let events: Vec<_> = (0..count).map(event).collect();
        let script = async {
            let request = server.request().await;
            assert_eq!(
                request.line(),
                "POST /tenants/11111111-1111-4111-8111-111111111111/events HTTP/1.1"
            );
            assert_eq!(request.header("content-type"), Some(content_type));
            assert_eq!(request.header("authorization"), Some("Bearer access"));
            let lines: Vec<serde_json::Value> = request
                .body
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            request.json(200, RECEIPT).await;
            lines
        };
        let (lines, receipt) = tokio::join!(script, client.publish(tenant(), &events));
        assert_eq!(receipt.unwrap().first, "1j8.1");
        assert_eq!(lines.len(), events.len());
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(
                *line,
                serde_json::json!({
                    "type": "device_status", "device_id": "core-1", "key": format!("k{number}"),
                    "data": {"status": "online", "number": number},
                })
            );
        }
    }
}

#[tokio::test]
async fn a_refusal_names_line_and_field() {
    let server = Server::start().await;
    let client = server.client();
    let script = async {
        let problem = r#"{"type":"about:blank","title":"Unprocessable Content","status":422,
            "detail":"data.tenant_id names another tenant","line":2,"field":"data.tenant_id"}"#;
        let request = server.request().await;
        request
            .answer(422, "application/problem+json", "", problem)
            .await;
    };
    let events = [event(1), event(2)];
    let ((), answer) = tokio::join!(script, client.publish(tenant(), &events));
    let error = answer.unwrap_err();
    assert!(!error.is_temporary());
    assert_eq!(error.problem().unwrap().line, Some(2));
    let text = error.to_string();
    assert!(
        text.contains("line 2") && text.contains("data.tenant_id"),
        "{text}"
    );
}

#[tokio::test]
async fn a_proxy_that_answers_in_its_own_words_is_still_understood() {
    let server = Server::start().await;
    let client = server.client();
    let script = async {
        let request = server.request().await;
        request
            .answer(502, "text/html", "", "<h1>Bad Gateway")
            .await;
    };
    let ((), answer) = tokio::join!(script, client.mint_stream_token());
    let error = answer.unwrap_err();
    assert_eq!(error.status(), Some(502));
    assert!(error.is_temporary());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_not_half_an_answer() {
    let server = Server::start().await;
    let client = server.client();
    let script = async {
        let mut request = server.request().await;
        request
            .write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{\"token\":\"st\"")
            .await;
        request.end(false).await;
    };
    let ((), answer) = tokio::join!(script, client.mint_stream_token());
    assert!(matches!(answer, Err(ClientError::Connection { .. })));
}

#[tokio::test]
async fn the_history_is_read_page_by_page() {
    let server = Server::start().await;
    let client = server.client();
    let script = async {
        let first = server.request().await;
        assert!(
            first
                .line()
                .starts_with("GET /tenants/11111111-1111-4111-8111-111111111111/events?")
        );
        assert_eq!(first.parameter("after"), Some("1j8.4"));
        assert_eq!(first.parameter("limit"), Some("2"));
        assert_eq!(first.parameter("types"), Some("device_status"));
        first
            .json(
                200,
                r#"{"events":[{"id":"1j8.5","type":"device_status","device_id":null,
                    "time":"2026-11-23T18:00:00Z","data":{"a": 1}}],"next":"1j8.9",
                    "gap":{"requested":"1j8.4","resumed_at":"1j8.5","reason":"expired"}}"#,
            )
            .await;
    };
    let options = HistoryOptions {
        after: Some("1j8.4".to_owned()),
        limit: Some(2),
        types: vec!["device_status".parse().unwrap()],
        ..HistoryOptions::default()
    };
    let ((), page) = tokio::join!(script, client.history(tenant(), &options));
    let page = page.unwrap();
    assert_eq!(page.next, "1j8.9");
    assert_eq!(page.events[0].data.get(), r#"{"a": 1}"#);
    assert_eq!(page.gap.unwrap().resumed_at, "1j8.5");
}
