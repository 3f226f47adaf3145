//! The window: the newest blocks, in memory, for streams that are live or nearly so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tidings_protocol::Position;

use super::block::Block;

/// The newest blocks of the log, bounded by bytes. Consecutive blocks touch: each begins after the
/// position that the one before speaks for.
#[derive(Debug)]
pub struct Window {
    /// Bytes that the blocks may take, apart from the newest one, which always stays.
    capacity: usize,
    blocks: Mutex<Blocks>,
    tail: AtomicU64,
}

#[derive(Debug, Default)]
struct Blocks {
    queue: VecDeque<Arc<Block>>,
    weight: usize,
}

impl Window {
    /// An empty window of at most `capacity` bytes over a log that ends at `tail`.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            blocks: Mutex::default(),
            tail: AtomicU64::new(0),
        }
    }

    /// Says where the log ends before anything was pushed.
    pub fn start_at(&self, tail: Position) {
        self.tail.store(tail, Ordering::Release);
    }

    /// The last position that can be had from here.
    #[must_use]
    pub fn tail(&self) -> Position {
        self.tail.load(Ordering::Acquire)
    }

    /// Adds the newest block and lets the oldest go.
    pub fn push(&self, block: Block) {
        let mut blocks = self.blocks.lock();
        let through = block.through();
        blocks.weight += block.weight();
        blocks.queue.push_back(Arc::new(block));
        while blocks.weight > self.capacity && blocks.queue.len() > 1 {
            if let Some(oldest) = blocks.queue.pop_front() {
                blocks.weight -= oldest.weight();
            }
        }
        // Under the lock, so that whoever reads this tail finds its block.
        self.tail.store(through, Ordering::Release);
    }

    /// Lets go of all blocks, since some hold what nobody may be shown any more; what they held is read
    /// from the log.
    pub fn forget(&self) {
        *self.blocks.lock() = Blocks::default();
    }

    /// Appends to `found` the blocks that hold what comes after `position`, at most about `limit`
    /// bytes of them but at least one. False when the window no longer reaches back that far.
    pub fn blocks_after(
        &self,
        position: Position,
        limit: usize,
        found: &mut Vec<Arc<Block>>,
    ) -> bool {
        let blocks = self.blocks.lock();
        let start = blocks
            .queue
            .partition_point(|block| block.through() <= position);
        match blocks.queue.get(start) {
            None => return position >= self.tail(),
            Some(block) if block.after() > position => return false,
            Some(_) => {}
        }
        let mut weight = 0;
        for block in blocks.queue.range(start..) {
            found.push(Arc::clone(block));
            weight += block.bytes().len();
            if weight >= limit {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tidings_log::EventRef;
    use tidings_protocol::{Epoch, TenantId};

    use super::*;
    use crate::cursors::EventIds;
    use crate::fanout::{BlockBuilder, TypeTable};

    fn block(after: Position, through: Position) -> Block {
        let types = TypeTable::default();
        let mut builder = BlockBuilder::new(&Arc::new(EventIds::of_log(Epoch(1))), after);
        for position in after + 1..=through {
            let event = EventRef {
                position,
                appended_at: 0,
                time: None,
                tenant: TenantId::from_bytes([1; 16]),
                event_type: "device_status",
                device: None,
                subject: None,
                origin: None,
                data: b"{}",
            };
            builder.push(&event, &types);
        }
        builder.finish(through)
    }

    fn found(window: &Window, position: Position) -> Option<Vec<Position>> {
        let mut blocks = Vec::new();
        window
            .blocks_after(position, usize::MAX, &mut blocks)
            .then(|| blocks.iter().map(|block| block.through()).collect())
    }

    #[test]
    fn a_window_says_when_it_does_not_reach_back_far_enough() {
        let window = Window::new(block(10, 13).weight() * 2);
        window.start_at(10);
        assert_eq!(found(&window, 10), Some(vec![]), "nothing new yet");
        assert_eq!(
            found(&window, 9),
            None,
            "what came before the start is in the log only"
        );
        for after in [10, 13, 16] {
            window.push(block(after, after + 3));
        }
        assert_eq!(window.tail(), 19);
        assert_eq!(found(&window, 10), None, "the oldest block had to go");
        assert_eq!(found(&window, 13), Some(vec![16, 19]));
        assert_eq!(
            found(&window, 14),
            Some(vec![16, 19]),
            "in the middle of a block"
        );
        assert_eq!(found(&window, 19), Some(vec![]));
    }

    #[test]
    fn what_a_window_forgets_is_in_the_log_only_and_what_comes_after_is_had_from_here() {
        let window = Window::new(1 << 20);
        window.push(block(0, 3));
        window.forget();
        assert_eq!(window.tail(), 3, "nothing is taken back");
        assert_eq!(found(&window, 0), None);
        assert_eq!(found(&window, 3), Some(vec![]));
        window.push(block(3, 5));
        assert_eq!(found(&window, 2), None);
        assert_eq!(found(&window, 3), Some(vec![5]));
    }

    #[test]
    fn the_newest_block_stays_however_large() {
        let window = Window::new(0);
        window.push(block(0, 500));
        assert_eq!(found(&window, 0), Some(vec![500]));
    }
}
