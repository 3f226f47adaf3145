//! Settings for those who watch the server.

use http::Uri;

use super::key::section;
use super::kinds;

section! {
    /// Metrics, at `/metrics` on `admin_listen`.
    MetricsConfig in "metrics." {
        /// How many tenants have series of their own, each three; the others are counted together as `other`. The
        /// busiest publishers among them are named. 0 names none, so that whoever reads metrics does not learn who the
        /// tenants are.
        tenants: usize = kinds::count::<0, 1_000>(), "0";
    }
}

section! {
    /// Traces of publishes and of streams' openings, sent to an `OpenTelemetry` collector by OTLP over HTTP, protobuf.
    TracesConfig in "traces." {
        /// The collector, such as `http://127.0.0.1:4318`; without a path `/v1/traces` is meant. Without it nothing is
        /// traced.
        endpoint: Option<Uri> = kinds::COLLECTOR, "";
        /// Which part of the requests is traced, from 0 to 1, of those whose callers say nothing. A publisher that names its
        /// trace (`traceparent`) decides for its own. At most 100 a second are traced in any case.
        sample: f64 = kinds::PART, "0.01";
    }
}
