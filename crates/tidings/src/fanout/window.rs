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
