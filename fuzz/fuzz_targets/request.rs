//! The parameters of a stream: `QUERY \0 TENANT \0 LAST-EVENT-ID \0 AUTHORIZATION`.
//!
//! Promises: a request is read or refused with 422 that names what is wrong; a stream that is read asks
//! for no type that the deployment does not have, and its cursor is the header's where there is one.

#![no_main]

use http::{HeaderMap, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use tidings::stream::request::{LAST_EVENT_ID, StartRequest, StreamRequest};
use tidings_fuzz::deployment::deployment;
use tidings_fuzz::input;

fuzz_target!(|bytes: &[u8]| {
    let [query, tenant, cursor, authorization] = input::split(bytes);
    let (Some(query), Some(tenant)) = (input::text(query), input::text(tenant)) else {
        return;
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [(LAST_EVENT_ID, cursor), ("authorization", authorization)] {
        if let Ok(value) = HeaderValue::from_bytes(value)
            && !value.is_empty()
        {
            headers.insert(name, value);
        }
    }
    let deployment = deployment();
    let types = &deployment.types;
    let tenant = (!tenant.is_empty()).then_some(tenant);
    match StreamRequest::parse(tenant, Some(query), &headers, types, types) {
        Ok(request) => {
            if let (Some(shown), StartRequest::Cursor(cursor)) =
                (headers.get(LAST_EVENT_ID), &request.start)
            {
                assert_eq!(String::from_utf8_lossy(shown.as_bytes()), *cursor);
            }
            let asked = request.view.types.iter().chain(&request.conflate).flatten();
            for name in asked {
                assert!(types.iter().any(|known| known.as_str() == name));
            }
            assert!(!(request.snapshot && matches!(request.start, StartRequest::Since(_))));
        }
        Err(refusal) => {
            let problem = refusal.problem();
            assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY.as_u16());
            assert!(problem.parameter.is_some(), "{problem:?}");
        }
    }
});
