//! Settings for those who watch the server.

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
