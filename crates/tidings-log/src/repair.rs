//! What to do when a segment does not hold what its index says.

use std::io;

use crate::event::Lost;
use crate::format::{Events, FRAMES_BEGIN, FrameHeader, FrameKind};
use crate::index::{FramePlace, MemoryIndex};
use crate::scan;
use crate::segment::{Files, Segment};
use crate::view::Shared;

impl Shared {
    /// Examines every frame that a segment's index names, and takes those that are damaged out of
    /// it; their positions become lost. An index that can't be read is built anew from the segment.
    pub(crate) fn repair(&self, segment: &Segment) -> io::Result<()> {
        tracing::error!(
            segment = segment.number,
            "a segment does not hold what its index says; examining it"
        );
        let index = match segment.memory_index() {
            Some(index) => index,
            None => match segment
                .disk_index()
                .map(|disk| disk.load(&*self.files.storage))
            {
                Some(Ok(index)) => index,
                Some(Err(_)) | None => return self.rescan(segment),
            },
        };
        let (index, lost) = examine(segment, &self.files, index)?;
        self.files.forget(segment.number);
        segment.repaired(index);
        for stretch in &lost {
            tracing::error!(
                segment = segment.number,
                first = stretch.first,
                last = stretch.last,
                "events are lost: their frame is damaged"
            );
        }
        self.add_lost(&lost);
        Ok(())
    }

    /// Builds the index of a sealed segment anew.
    pub(crate) fn rescan(&self, segment: &Segment) -> io::Result<()> {
        self.files.forget(segment.number);
        let file = self.files.log(segment.number)?;
        let before = segment.summary();
        let within = before.first..=before.reached;
        let scan = scan::scan_within(&*file, segment.salt, None, &within, &mut |_, _, _| {})?;
        let mut lost = scan.index.lost.clone();
        lost.extend_from_slice(&scan.unproven);
        let now = scan.index.summary;
        if now.events == 0 {
            lost = vec![Lost {
                first: before.first,
                last: before.last,
            }];
        } else {
            if now.follows >= before.first {
                lost.push(Lost {
                    first: before.first,
                    last: now.follows,
                });
            }
            if now.reached < before.reached {
                lost.push(Lost {
                    first: now.reached + 1,
                    last: before.reached,
                });
            }
        }
        segment.repaired(scan.index);
        self.add_lost(&lost);
        self.workshop.index_again(segment.number);
        tracing::warn!(
            segment = segment.number,
            "built the index of a segment anew"
        );
        Ok(())
    }
}

/// Whether a reader gets everything out of a frame: the checksum holds, and the payload has as many events as
/// the header says. Of what fails only the latter no disk is to blame, and reading would end there for ever.
fn can_be_read(header: &FrameHeader, frame: &[u8]) -> bool {
    let count = header.count as usize;
    header.payload(frame).is_some_and(|payload| {
        header.kind == FrameKind::Blank || Events::new(payload).take(count).count() == count
    })
}

/// Answers the index of the sound frames, with the stretches between them as skips, and the
/// positions that are lost.
fn examine(
    segment: &Segment,
    files: &Files,
    mut index: MemoryIndex,
) -> io::Result<(MemoryIndex, Vec<Lost>)> {
    let file = files.log(segment.number)?;
    let mut lost = Vec::new();
    let mut sound: Vec<(u64, u64)> = Vec::new();
    let mut buffer = Vec::new();
    for frames in index.tenants.values_mut() {
        let mut first_at = None;
        frames.frames.retain(|place: &FramePlace| {
            let length = usize::try_from(place.length()).expect("less than a segment");
            buffer.resize(length, 0);
            let read = file.read_at(&mut buffer, place.offset()).unwrap_or(0);
            let header = FrameHeader::decode(&buffer[..read], segment.salt, place.offset());
            let header = header.filter(|header| {
                header.position == place.position && can_be_read(header, &buffer[..read])
            });
            let holds = header.is_some();
            if let Some(header) = header {
                first_at.get_or_insert(header.appended_at);
                sound.push((place.offset(), place.end()));
            } else {
                lost.push(Lost {
                    first: place.position,
                    last: place.last(),
                });
            }
            holds
        });
        frames.bytes = frames.frames.iter().map(FramePlace::length).sum();
        frames.first_at = first_at.unwrap_or(0);
    }
    sound.sort_unstable();
    lost.sort_unstable();
    let mut skips = Vec::new();
    let mut end = FRAMES_BEGIN;
    for (from, to) in sound {
        if from > end {
            skips.push((end, from));
        }
        end = to;
    }
    if end < index.summary.end {
        skips.push((end, index.summary.end));
    }
    index.lost.extend_from_slice(&lost);
    index.lost.sort_unstable();
    index.skips = skips;
    Ok((index, lost))
}
