//! Placeholder until the runners are in place.
