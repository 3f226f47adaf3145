//! The horizon of age: up to which position events have expired.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use tidings_protocol::Position;

use crate::format::{FRAME_HEADER, FRAMES_BEGIN, FrameHeader, FrameKind};
use crate::segment::{Files, Segment};
use crate::view::Shared;

/// How much of a segment is read at once to look at frame headers.
const WALK_BYTES: usize = 64 << 10;

/// How far age has come. Only moves forward.
pub(crate) struct Horizon {
    /// The last expired position.
    position: Position,
    /// The frame that expires next: its segment, its offset, and its run time where it is known.
    number: u64,
    offset: u64,
    next_run: Option<i64>,
}

impl Horizon {
    pub(crate) fn new() -> Self {
        Self {
            position: 0,
            number: 0,
            offset: FRAMES_BEGIN,
            next_run: None,
        }
    }
}

impl Shared {
    /// The last position that is older than the retention allows, exactly as of now. Costs by the
    /// frames that expired since the last call.
    pub(crate) fn age_horizon(&self) -> Position {
        let cutoff = self.clock.cutoff();
        let mut horizon = self.horizon.lock();
        if cutoff == i64::MIN || horizon.next_run.is_some_and(|run| run >= cutoff) {
            return horizon.position;
        }
        let segments = Arc::clone(&self.view.read().segments);
        for segment in segments.iter() {
            if segment.number < horizon.number {
                continue;
            }
            match pass(&mut horizon, segment, &self.files, cutoff) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Readers meet the same trouble and tell of it; until then nothing expires.
                    tracing::warn!(segment = segment.number, %error, "looking for what has expired");
                    break;
                }
            }
        }
        horizon.position
    }
}

/// Moves the horizon through a segment; whether the whole of it has expired.
fn pass(horizon: &mut Horizon, segment: &Segment, files: &Files, cutoff: i64) -> io::Result<bool> {
    let sealed = segment.is_sealed();
    let summary = segment.summary();
    if segment.number > horizon.number {
        horizon.number = segment.number;
        horizon.offset = FRAMES_BEGIN;
    }
    horizon.next_run = None;
    if summary.events == 0 {
        return Ok(sealed);
    }
    if summary.last_run < cutoff {
        horizon.position = horizon.position.max(summary.last);
        horizon.offset = summary.end;
        return Ok(sealed);
    }
    if let Some(step) = segment.last_step(files, |step| step.run_time < cutoff)?
        && step.offset > horizon.offset
    {
        horizon.offset = step.offset;
    }
    walk(
        segment,
        files,
        horizon.offset,
        summary.end,
        |header, offset| {
            horizon.offset = offset;
            if header.kind == FrameKind::Events {
                if header.run_time >= cutoff {
                    horizon.next_run = Some(header.run_time);
                    return ControlFlow::Break(());
                }
                horizon.position = horizon.position.max(header.last());
            }
            horizon.offset = offset + header.frame_bytes();
            ControlFlow::Continue(())
        },
    )?;
    Ok(false)
}

/// Looks at the headers of a segment's frames in order, from the frame at `offset` on.
pub(crate) fn walk(
    segment: &Segment,
    files: &Files,
    mut offset: u64,
    end: u64,
    mut look: impl FnMut(&FrameHeader, u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let file = files.log(segment.number)?;
    let mut buffer = Vec::new();
    let mut start = 0_u64;
    while offset < end {
        if let Some(behind) = segment.skip(offset) {
            offset = behind;
            continue;
        }
        if offset < start || offset + FRAME_HEADER as u64 > start + buffer.len() as u64 {
            buffer.resize(WALK_BYTES, 0);
            let read = file.read_at(&mut buffer, offset).or_else(|_| {
                // Some of it can't be read; what stands at hand perhaps can.
                buffer.truncate(FRAME_HEADER);
                file.read_at(&mut buffer, offset)
            })?;
            buffer.truncate(read);
            start = offset;
        }
        let from = usize::try_from(offset - start).expect("within the buffer");
        let Some(header) = FrameHeader::decode(&buffer[from..], segment.salt, offset) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no frame at offset {offset}"),
            ));
        };
        if look(&header, offset).is_break() {
            return Ok(());
        }
        offset += header.frame_bytes();
    }
    Ok(())
}
