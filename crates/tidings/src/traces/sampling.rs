//! Which requests are traced: those that their callers trace, and a part of the others; but only so many a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};
use parking_lot::Mutex;

/// How many requests are traced in a second at most. Whoever sets the flag in its `traceparent` is traced, and
/// it must not be the callers who decide what tracing costs.
const MOST_A_SECOND: u32 = 100;

const SECOND: Duration = Duration::from_secs(1);

/// The decision about each request.
#[derive(Clone, Debug)]
pub struct Sampling {
    wanted: Sampler,
    budget: Arc<Mutex<Budget>>,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Sampling {
    /// Traces this part of the requests whose callers say nothing, from 0 to 1.
    #[must_use]
    pub fn new(part: f64) -> Self {
        let others = Sampler::TraceIdRatioBased(part);
        Self {
            wanted: Sampler::ParentBased(Box::new(others)),
            budget: Arc::new(Mutex::new(Budget {
                left: MOST_A_SECOND,
                since: Instant::now(),
            })),
        }
    }
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            self.left = MOST_A_SECOND;
            self.since = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut wanted =
            self.wanted
                .should_sample(parent_context, trace_id, name, span_kind, attributes, links);
        if wanted.decision == SamplingDecision::RecordAndSample
            && !self.budget.lock().take(Instant::now())
        {
            wanted.decision = SamplingDecision::Drop;
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_are_traced_a_second_whoever_asks_for_more() {
        let start = Instant::now();
        let mut budget = Budget {
            left: MOST_A_SECOND,
            since: start,
        };
        let granted = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(now)).count();
        assert_eq!(granted(&mut budget, start), MOST_A_SECOND as usize);
        assert_eq!(granted(&mut budget, start + SECOND / 2), 0);
        assert_eq!(granted(&mut budget, start + SECOND), MOST_A_SECOND as usize);
    }
}
