use std::net::Ipv4Addr;
use std::sync::Barrier;

use super::*;
use crate::config::{Settings, resolve};

const TENANT: TenantId = TenantId::from_bytes([1; 16]);
const OTHER: TenantId = TenantId::from_bytes([2; 16]);

fn limits(flags: &[(&str, u64)]) -> Limits {
    let flags: Vec<_> = flags
        .iter()
        .map(|(key, limit)| (format!("limits.{key}"), limit.to_string()))
        .collect();
    let settings = Settings::gather(&[], None, &[], &flags).unwrap();
    Limits::new(&resolve(settings).unwrap().config)
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn which(result: Result<Place, LimitReached>) -> &'static str {
    result.unwrap_err().which
}

#[test]
fn each_limit_counts_its_own() {
    let limits = limits(&[
        ("streams", 5),
        ("streams_per_tenant", 3),
        ("streams_per_user", 2),
        ("streams_per_address", 4),
    ]);
    let reserve = |tenant, user: &str, last| limits.reserve(Some(tenant), user, address(last));
    let _one = reserve(TENANT, "ada", 1).unwrap();
    let _two = reserve(TENANT, "ada", 1).unwrap();
    assert_eq!(which(reserve(TENANT, "ada", 2)), STREAMS_PER_USER);
    let third = reserve(TENANT, "bob", 1).unwrap();
    assert_eq!(which(reserve(TENANT, "eve", 2)), STREAMS_PER_TENANT);
    // A user of another tenant is another user, whatever it is called.
    let _fourth = reserve(OTHER, "ada", 1).unwrap();
    assert_eq!(which(reserve(OTHER, "bob", 1)), STREAMS_PER_ADDRESS);
    let _fifth = reserve(OTHER, "bob", 2).unwrap();
    assert_eq!(which(reserve(OTHER, "eve", 3)), STREAMS);
    drop(third);
    reserve(OTHER, "eve", 3).unwrap();
}

#[test]
fn zero_does_not_limit() {
    let limits = limits(&[]);
    let places: Vec<_> = (0..2_000)
        .map(|_| limits.reserve(Some(TENANT), "ada", address(1)).unwrap())
        .collect();
    assert_eq!(limits.stream_counts().streams, 2_000);
    drop(places);
    for _ in 0..20_000 {
        limits.mint_allowed(address(1)).unwrap();
        limits.failure_recorded(address(1));
        limits.failures_exceeded(address(1)).unwrap();
        limits.publish_allowed(TENANT, u32::MAX).unwrap();
    }
}

#[test]
fn a_refused_reservation_charges_nothing() {
    let limits = limits(&[("streams_per_address", 1)]);
    let place = limits.reserve(Some(TENANT), "ada", address(1)).unwrap();
    for _ in 0..10 {
        assert_eq!(
            which(limits.reserve(Some(OTHER), "bob", address(1))),
            STREAMS_PER_ADDRESS
        );
    }
    let counts = StreamCounts {
        streams: 1,
        tenants: 1,
        addresses: 1,
    };
    assert_eq!(limits.stream_counts(), counts);
    drop(place);
    assert_eq!(limits.stream_counts(), StreamCounts::default());
}

#[test]
fn super_admins_without_a_tenant_share_no_tenant_limit() {
    let limits = limits(&[("streams_per_tenant", 1), ("streams_per_user", 2)]);
    let _places = [
        limits.reserve(None, "root", address(1)).unwrap(),
        limits.reserve(None, "root", address(1)).unwrap(),
        limits.reserve(None, "other", address(1)).unwrap(),
    ];
    assert_eq!(
        which(limits.reserve(None, "root", address(1))),
        STREAMS_PER_USER
    );
}

#[test]
fn one_client_counts_as_one_address_in_either_family() {
    let limits = limits(&[("streams_per_address", 1)]);
    let reserve = |text: &str| limits.reserve(None, "root", text.parse().unwrap());
    let _mapped = reserve("::ffff:192.0.2.1").unwrap();
    assert_eq!(which(reserve("192.0.2.1")), STREAMS_PER_ADDRESS);
    let _network = reserve("2001:db8:1:2::1").unwrap();
    assert_eq!(which(reserve("2001:db8:1:2:ffff::2")), STREAMS_PER_ADDRESS);
    reserve("2001:db8:1:3::1").unwrap();
}

#[test]
fn counts_are_exact_among_threads() {
    let limits = limits(&[("streams_per_user", 100)]);
    let start = Barrier::new(16);
    let kept: Vec<Place> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..500 {
                        drop(limits.reserve(Some(TENANT), "bob", address(2)));
                    }
                    (0..500)
                        .filter_map(|_| limits.reserve(Some(TENANT), "ada", address(1)).ok())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(kept.len(), 100);
    assert_eq!(limits.stream_counts().streams, 100);
    drop(kept);
    assert_eq!(limits.stream_counts(), StreamCounts::default());
}

#[tokio::test]
async fn a_place_moves_between_tasks() {
    let limits = limits(&[("streams", 1)]);
    let place = limits.reserve(None, "root", address(1)).unwrap();
    tokio::spawn(async move { drop(place) }).await.unwrap();
    assert_eq!(limits.stream_counts().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn a_minutes_worth_passes_at_once_and_then_evenly() {
    let limits = limits(&[("mints_per_address", 60)]);
    for _ in 0..60 {
        limits.mint_allowed(address(1)).unwrap();
    }
    let reached = limits.mint_allowed(address(1)).unwrap_err();
    assert_eq!((reached.which, reached.limit), (MINTS_PER_ADDRESS, 60));
    assert_eq!(reached.retry_after, SECOND);
    limits.mint_allowed(address(2)).unwrap();
    for _ in 0..100 {
        tokio::time::advance(reached.retry_after).await;
        limits.mint_allowed(address(1)).unwrap();
        limits.mint_allowed(address(1)).unwrap_err();
    }
    tokio::time::advance(MINUTE).await;
    let passed = (0..100)
        .filter(|_| limits.mint_allowed(address(1)).is_ok())
        .count();
    assert_eq!(passed, 60);
}

#[tokio::test(start_paused = true)]
async fn failures_shut_out_their_address_only_and_for_a_time() {
    let limits = limits(&[("failures_per_address", 3)]);
    for _ in 0..3 {
        limits.failures_exceeded(address(1)).unwrap();
        limits.failure_recorded(address(1));
    }
    let reached = limits.failures_exceeded(address(1)).unwrap_err();
    assert_eq!(reached.which, FAILURES_PER_ADDRESS);
    limits.failures_exceeded(address(2)).unwrap();
    // However often it fails meanwhile, it is not shut out for longer.
    for _ in 0..1_000 {
        limits.failure_recorded(address(1));
    }
    tokio::time::advance(reached.retry_after).await;
    limits.failures_exceeded(address(1)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_body_passes_and_is_paid_off() {
    let limits = limits(&[("publish_rate", 100)]);
    limits.publish_allowed(TENANT, 1_000).unwrap();
    let reached = limits.publish_allowed(TENANT, 1).unwrap_err();
    assert_eq!((reached.which, reached.limit), (PUBLISH_RATE, 100));
    assert_eq!(reached.retry_after, Duration::from_millis(9_010));
    limits.publish_allowed(OTHER, 1).unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    limits.publish_allowed(TENANT, 1).unwrap_err();
    tokio::time::advance(Duration::from_millis(10)).await;
    limits.publish_allowed(TENANT, 1_000).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_rate_holds_in_the_long_run_whatever_the_bodies() {
    let limits = limits(&[("publish_rate", 100)]);
    let mut passed = 0_u32;
    for step in 0..100_000_u32 {
        let events = 1 + step % 37;
        if limits.publish_allowed(TENANT, events).is_ok() {
            passed += events;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    // 100 s at 100 a second, the credit of the beginning, and at most one body beyond.
    assert!((10_000..=10_000 + 100 + 37).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn idle_addresses_are_forgotten() {
    let limits = limits(&[("mints_per_address", 10)]);
    let nth = |number: u32| IpAddr::V4(number.into());
    for round in 0..10_u32 {
        for number in 0..2_000 {
            limits.mint_allowed(nth(round * 2_000 + number)).unwrap();
        }
        tokio::time::advance(MINUTE).await;
    }
    assert!(
        limits.mints.tracked() <= 4_096,
        "{}",
        limits.mints.tracked()
    );
}

#[test]
fn every_limit_has_a_sentence_of_its_own() {
    let all = [
        STREAMS,
        STREAMS_PER_TENANT,
        STREAMS_PER_USER,
        STREAMS_PER_ADDRESS,
        MINTS_PER_ADDRESS,
        FAILURES_PER_ADDRESS,
        PUBLISH_RATE,
    ];
    let sentences: std::collections::BTreeSet<_> = all
        .iter()
        .map(|which| {
            LimitReached {
                which,
                limit: 7,
                retry_after: SECOND,
            }
            .to_string()
        })
        .collect();
    assert_eq!(sentences.len(), all.len());
}

#[tokio::test(start_paused = true)]
async fn other_limits_hold_at_once_and_what_is_taken_stays_taken() {
    let first = limits(&[("streams_per_user", 3), ("publish_rate", 1)]);
    let reserve = || first.reserve(Some(TENANT), "u", address(1));
    let places = [reserve().unwrap(), reserve().unwrap()];
    first.publish_allowed(TENANT, 1).unwrap();
    assert!(first.publish_allowed(TENANT, 1).is_err());

    let flags = [("limits.streams_per_user", "1"), ("limits.requests", "1")];
    let own = format!("{{\"{TENANT}\" = {{streams = 5, publish_rate = 7}}}}");
    let flags = flags
        .into_iter()
        .chain([("tenants", own.as_str())])
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let settings = Settings::gather(&[], None, &[], &flags.collect::<Vec<_>>()).unwrap();
    first.set(&resolve(settings).unwrap().config);
    assert_eq!(which(reserve()), "limits.streams_per_user");
    drop(places);
    let place = reserve().unwrap();
    assert_eq!(which(reserve()), "limits.streams_per_user");
    drop(place);
    assert_eq!(first.publish_allowed(OTHER, 1_000), Ok(()), "no limit now");
    assert_eq!(first.publishes.limit_of(&TENANT), 7);
    let request = first.request().unwrap();
    assert!(first.request().is_none());
    drop(request);
}

#[tokio::test(start_paused = true)]
async fn an_api_key_is_charged_by_its_own_limit_and_else_by_that_of_all_also_after_a_reload() {
    let limits = limits(&[("publish_rate_per_key", 2)]);
    let (slow, fast): (Arc<str>, Arc<str>) = ("slow".into(), "fast".into());
    let taken = |key: &Arc<str>, own| {
        let passes = |_: &usize| limits.key_allowed(key, own, 1).is_ok();
        (0..10).take_while(passes).count()
    };
    assert_eq!((taken(&slow, None), taken(&fast, Some(5))), (2, 5));
    let refused = limits.key_allowed(&fast, Some(5), 1).unwrap_err();
    assert_eq!((refused.which, refused.limit), (PUBLISH_RATE_PER_KEY, 5));
    let flags = [("limits.publish_rate_per_key".to_owned(), "4".to_owned())];
    let settings = Settings::gather(&[], None, &[], &flags).unwrap();
    limits.set(&resolve(settings).unwrap().config);
    tokio::time::advance(SECOND).await;
    assert_eq!((taken(&slow, None), taken(&fast, Some(5))), (4, 5));
}
