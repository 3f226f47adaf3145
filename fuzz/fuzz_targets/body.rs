//! The body of a publish. The first byte chooses single (even) or NDJSON (odd).
//!
//! Promises: what is taken stands on one line of the wire as a JSON object that names its tenant once
//! and, where the event has a device, that device; what is refused is 400, 413 or 422.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tidings::ingest::body::{self, Layout};
use tidings::ingest::envelope::Terms;
use tidings_fuzz::deployment::{TENANT, deployment};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else {
        return;
    };
    let layout = if first % 2 == 0 {
        Layout::One
    } else {
        Layout::Lines
    };
    let deployment = deployment();
    let terms = Terms {
        tenant: deployment.tenant,
        known_types: &deployment.types,
        event_bytes: deployment.config.limits.event_bytes,
        subjects: &deployment.subjects,
        publisher: "fuzz",
        request_key: (first / 2 % 2 == 1).then_some("request"),
    };
    match body::read(layout, text, &terms, &deployment.config.limits) {
        Ok(read) => {
            assert_eq!(read.events.len(), read.lines.len());
            for event in &read.events {
                assert!(!event.data.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
                let text: &RawValue = serde_json::from_slice(&event.data).expect("JSON stays JSON");
                // JSON has numbers that no float holds (RFC 8259, section 6); they are kept as they were written.
                let Ok(data) = serde_json::from_str::<Value>(text.get()) else {
                    continue;
                };
                let data = data.as_object().expect("an object stays one");
                assert_eq!(data["tenant_id"], TENANT);
                if let Some(device) = &event.device {
                    assert_eq!(data["device_id"], device.as_str());
                }
            }
        }
        Err(refusal) => {
            let problem = refusal.problem();
            assert!(matches!(problem.status, 400 | 413 | 422), "{problem:?}");
        }
    }
});
