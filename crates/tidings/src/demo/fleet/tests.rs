use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::agent::payload::tests::assert_like_example;

const PUSH: [&[&str]; 3] = [
    &["started", "backing_up", "pushing", "failed"],
    &[
        "started",
        "backing_up",
        "pushing",
        "settling",
        "verifying",
        "committed",
    ],
    &[
        "started",
        "backing_up",
        "pushing",
        "settling",
        "verifying",
        "reverted",
    ],
];
const UPGRADE: [&[&str]; 3] = [
    &["downloading", "uploading", "failed"],
    &[
        "downloading",
        "uploading",
        "rebooting",
        "verifying",
        "failed",
    ],
    &[
        "downloading",
        "uploading",
        "rebooting",
        "verifying",
        "completed",
    ],
];

fn start() -> Timestamp {
    "2026-11-23T18:00:00Z".parse().unwrap()
}

/// Steps a fleet at these distances, in milliseconds, and gives what happened and when.
fn run(options: FleetOptions, steps: &[i64]) -> Vec<(Timestamp, TenantId, NewEvent)> {
    let mut fleet = Fleet::new(options, start());
    let mut now = start();
    let mut happened = Vec::new();
    for step in steps {
        now += SignedDuration::from_millis(*step);
        happened.extend(
            fleet
                .step(now)
                .into_iter()
                .map(|(tenant, event)| (now, tenant, event)),
        );
    }
    happened
}

fn options(devices: usize, tenants: usize, rate: f64, seed: u64) -> FleetOptions {
    FleetOptions {
        devices,
        tenants,
        rate,
        seed,
    }
}

/// The stages that each operation went through, with their times, by its id.
fn stages(
    happened: &[(Timestamp, TenantId, NewEvent)],
    event_type: &str,
    id: &str,
) -> BTreeMap<String, Vec<(Timestamp, String)>> {
    let mut operations: BTreeMap<String, Vec<(Timestamp, String)>> = BTreeMap::new();
    for (time, _, event) in happened {
        if event.event_type.as_str() == event_type {
            let data: Value = serde_json::from_str(event.data.get()).unwrap();
            operations
                .entry(data[id].as_str().unwrap().to_owned())
                .or_default()
                .push((*time, data["stage"].as_str().unwrap().to_owned()));
        }
    }
    operations
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_rate_is_held(
        rate in 0.2_f64..200.0,
        seed: u64,
        devices in 1_usize..60,
        steps in proptest::collection::vec(0_i64..500, 1..200),
    ) {
        let elapsed: i64 = steps.iter().sum();
        let expected = elapsed as f64 / 1000.0 * rate;
        let count = run(options(devices, 3, rate, seed), &steps).len() as f64;
        prop_assert!((expected - 1.5..=expected + 0.5).contains(&count), "{count} of {expected}");
    }

    #[test]
    fn stages_come_in_order_and_keep_their_distance(seed: u64, devices in 1_usize..30) {
        let happened = run(options(devices, 2, 10.0, seed), &vec![250; 2400]);
        for (event_type, id, courses) in
            [("config_push", "push_operation_id", PUSH), ("firmware_progress", "job_id", UPGRADE)]
        {
            for (operation, stages) in stages(&happened, event_type, id) {
                let names: Vec<_> = stages.iter().map(|(_, stage)| stage.as_str()).collect();
                prop_assert!(
                    courses.iter().any(|course| course.starts_with(&names)),
                    "{operation}: {names:?}"
                );
                for pair in stages.windows(2) {
                    prop_assert!(pair[1].0 - pair[0].0 >= SignedDuration::from_secs(1));
                }
            }
        }
    }

    #[test]
    fn alerts_are_resolved_only_after_they_fired_and_once(seed: u64, devices in 1_usize..30) {
        let mut firing = BTreeMap::new();
        let mut per_device = BTreeMap::new();
        for (_, tenant, event) in run(options(devices, 2, 10.0, seed), &vec![250; 2400]) {
            let data: Value = serde_json::from_str(event.data.get()).unwrap();
            let id = data["alert_event_id"].to_string();
            let device = event.device_id.unwrap();
            match event.event_type.as_str() {
                "alert_fired" => {
                    prop_assert!(data["current_value"].as_f64() > data["threshold"].as_f64());
                    prop_assert_eq!(per_device.insert(device.clone(), id.clone()), None);
                    prop_assert_eq!(firing.insert(id, (tenant, device)), None);
                }
                "alert_resolved" => {
                    prop_assert_eq!(per_device.remove(&device), Some(id.clone()));
                    prop_assert_eq!(firing.remove(&id), Some((tenant, device)));
                }
                _ => {}
            }
        }
    }

    /// A device first says that it is there; one that is down reports nothing but that until it is up.
    #[test]
    fn a_device_that_is_down_reports_nothing(seed: u64, devices in 2_usize..30) {
        let mut up: BTreeMap<_, bool> = BTreeMap::new();
        for (_, tenant, event) in run(options(devices, 3, 10.0, seed), &vec![250; 2400]) {
            let data: Value = serde_json::from_str(event.data.get()).unwrap();
            let device = (tenant, event.device_id.unwrap());
            let was_up = up.get(&device).copied();
            match event.event_type.as_str() {
                "device_status" => {
                    up.insert(device, data["status"] == "online");
                }
                "metric_update" | "alert_fired" | "config_push" => {
                    prop_assert_eq!(was_up, Some(true), "{}", event.event_type);
                }
                _ => prop_assert!(was_up.is_some()),
            }
        }
        prop_assert_eq!(up.len(), devices);
    }

    #[test]
    fn every_payload_has_the_shape_of_its_example_and_says_that_it_is_simulated(seed: u64) {
        let mut seen = std::collections::BTreeSet::new();
        for (_, tenant, event) in run(options(12, 3, 20.0, seed), &vec![250; 2400]) {
            assert_like_example(&event, &[]);
            let data: Value = serde_json::from_str(event.data.get()).unwrap();
            prop_assert_eq!(&data["simulated"], true);
            prop_assert_eq!(data["tenant_id"].as_str().unwrap(), tenant.to_string());
            let text = ["message", "site"].into_iter().find_map(|field| data[field].as_str());
            if let Some(text) = text {
                prop_assert!(text.starts_with("Simulated"), "{text}");
            }
            seen.insert(format!("{}{}", event.event_type, data["type"].as_str().unwrap_or_default()));
        }
        prop_assert_eq!(seen.len(), 8, "{:?}", seen);
    }

    #[test]
    fn the_same_seed_gives_the_same_course(seed: u64) {
        let once = run(options(20, 3, 50.0, seed), &[100; 200]);
        let again = run(options(20, 3, 50.0, seed), &[100; 200]);
        let texts = |happened: Vec<(Timestamp, TenantId, NewEvent)>| -> Vec<String> {
            happened.iter().map(|(_, _, event)| serde_json::to_string(event).unwrap()).collect()
        };
        prop_assert_eq!(texts(once), texts(again));
    }
}

#[test]
fn devices_are_spread_over_tenants_that_stay_the_same() {
    let fleet = Fleet::new(options(40, 3, 1.0, 1), start());
    let tenants: Vec<_> = fleet.tenants().iter().map(ToString::to_string).collect();
    assert_eq!(
        tenants,
        [
            "11111111-1111-4111-8111-111111111111",
            "22222222-2222-4222-8222-222222222222",
            "33333333-3333-4333-8333-333333333333",
        ]
    );
    assert_eq!(
        Fleet::new(options(40, 12, 1.0, 1), start()).tenants().len(),
        12
    );
    assert_eq!(
        Fleet::new(options(2, 12, 1.0, 1), start()).tenants().len(),
        2
    );
}

/// A laptop that slept for an hour must not wake to an hour's events at once.
#[test]
fn what_was_missed_for_long_is_left_out() {
    let mut fleet = Fleet::new(options(40, 3, 100.0, 1), start());
    let later = start() + SignedDuration::from_hours(1);
    assert_eq!(fleet.step(later).len(), 200);
    assert_eq!(fleet.step(later).len(), 0);
    assert_eq!(fleet.step(later + SignedDuration::from_secs(1)).len(), 100);
}
