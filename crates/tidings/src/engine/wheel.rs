//! When streams are due: a timer wheel.
//!
//! A stream has one valid entry, named by the tick that it is scheduled for; entries that were
//! overtaken are skipped when their tick comes. What lies beyond the wheel's horizon is entered at
//! the horizon and looked at again there.

/// The wheel's unit of time.
pub(super) const TICK: std::time::Duration = std::time::Duration::from_millis(100);

const SLOTS: u64 = 512;

/// A count of [`TICK`]s since the engine's start.
pub(super) type Tick = u64;

/// Slots of the streams that are due, by tick.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// The first tick that has not been worked off.
    next: Tick,
}

impl Wheel {
    /// An empty wheel whose first tick is `start`.
    pub(super) fn new(start: Tick) -> Self {
        Self {
            slots: vec![Vec::new(); usize::try_from(SLOTS).expect("small")],
            next: start,
        }
    }

    /// Enters a stream. Gives the tick that it will come up at.
    pub(super) fn insert(&mut self, stream: u32, due: Tick) -> Tick {
        let tick = due.clamp(self.next, self.next + SLOTS - 1);
        self.slot(tick).push(stream);
        tick
    }

    /// The streams entered for the next tick, if that is not after `now`. The vector is to be given
    /// back by [`Wheel::recycle`].
    pub(super) fn due(&mut self, now: Tick) -> Option<(Tick, Vec<u32>)> {
        if self.next > now {
            return None;
        }
        let tick = self.next;
        self.next += 1;
        Some((tick, std::mem::take(self.slot(tick))))
    }

    /// Takes back a vector from [`Wheel::due`], so that a tick allocates nothing.
    pub(super) fn recycle(&mut self, tick: Tick, mut streams: Vec<u32>) {
        streams.clear();
        let slot = self.slot(tick);
        if slot.is_empty() {
            *slot = streams;
        }
    }

    fn slot(&mut self, tick: Tick) -> &mut Vec<u32> {
        &mut self.slots[usize::try_from(tick % SLOTS).expect("small")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work_off(wheel: &mut Wheel, now: Tick) -> Vec<(Tick, u32)> {
        let mut found = Vec::new();
        while let Some((tick, streams)) = wheel.due(now) {
            found.extend(streams.iter().map(|&stream| (tick, stream)));
            wheel.recycle(tick, streams);
        }
        found
    }

    #[test]
    fn a_stream_comes_up_at_its_tick() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.insert(7, 3), 3);
        assert_eq!(wheel.insert(8, 700), 511, "beyond the horizon");
        assert!(work_off(&mut wheel, 2).is_empty());
        assert_eq!(work_off(&mut wheel, 3), [(3, 7)]);
        assert_eq!(wheel.insert(9, 1), 4, "what is overdue comes up at once");
        assert_eq!(work_off(&mut wheel, 600), [(4, 9), (511, 8)]);
    }
}
