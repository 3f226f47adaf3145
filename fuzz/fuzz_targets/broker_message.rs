//! Messages of a broker, of either layout: `SUBJECT \0 HEADER \0 PAYLOAD`.
//!
//! Promises: what is read stands on one line of the wire; the fleet's is a JSON object that names the
//! tenant that it is given to; the own layout's is written again as it was read.

#![no_main]

use async_nats::HeaderMap;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tidings::jetstream::fleet::FleetDecoder;
use tidings::jetstream::message::{self, KnownTypes};
use tidings_fuzz::deployment::deployment;
use tidings_fuzz::input;

/// The one header of the own layout.
const HEADER: &str = "Tidings";

fuzz_target!(|bytes: &[u8]| {
    let [subject, header, payload] = input::split(bytes);
    let (Some(subject), Some(header)) = (input::text(subject), input::text(header)) else {
        return;
    };
    let deployment = deployment();
    let one_line = |data: &[u8]| !data.iter().any(|byte| matches!(byte, b'\n' | b'\r'));

    let mut headers = HeaderMap::new();
    if !header.contains(['\r', '\n']) {
        headers.insert(HEADER, header);
    }
    let types = KnownTypes::new(&deployment.types);
    let _ = message::digest(header);
    if let Ok((tenant, event)) = message::decode(&types, subject, Some(&headers), payload) {
        assert!(one_line(&event.data));
        let again = message::subject(tenant, &event);
        let reread = message::decode(&types, &again, Some(&headers), payload)
            .expect("what was read is read again under the subject that it is written with");
        assert_eq!(reread, (tenant, event));
    }

    for stream in &deployment.config.nats.fleet {
        let decoder = FleetDecoder::new(stream.clone(), &deployment.config);
        if let Ok(Some((tenant, event))) = decoder.decode(subject, payload) {
            assert!(one_line(&event.data));
            let text: &RawValue = serde_json::from_slice(&event.data).expect("JSON stays JSON");
            // JSON has numbers that no float holds (RFC 8259, section 6); they are kept as they were written.
            let Ok(data) = serde_json::from_str::<Value>(text.get()) else {
                continue;
            };
            let named = data["tenant_id"].as_str().expect("a tenant is a text");
            assert_eq!(named.parse(), Ok(tenant));
        }
    }
});
