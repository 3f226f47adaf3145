//! The horizons of age: up to which position events have expired, for all tenants and for those with a
//! retention of their own.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use tidings_protocol::{Position, TenantId};

use crate::LogOptions;
use crate::format::{FRAME_HEADER, FRAMES_BEGIN, FrameHeader, FrameKind};
use crate::index::Summary;
use crate::segment::{Files, Segment};
use crate::view::Shared;

/// How much of a segment is read at once to look at frame headers.
const WALK_BYTES: usize = 64 << 10;

/// How far age has come, for each retention that there is.
pub(crate) struct Horizons {
    /// Of those without a retention of their own.
    all: Class,
    own: Vec<Class>,
    /// Of tenants with a retention of their own, which of `own` it is.
    tenants: HashMap<TenantId, usize>,
}

/// Tenants with the same retention.
struct Class {
    /// In microseconds; `None` is for ever.
    retention: Option<i64>,
    horizon: Mutex<Horizon>,
}

/// How far age has come for one retention. Only moves forward.
#[derive(Clone, Copy)]
struct Horizon {
    reached: Age,
    /// The frame that expires next: its segment, its offset, and its run time where it is known.
    number: u64,
    offset: u64,
    next_run: Option<i64>,
}

/// What age has taken, by one retention.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Age {
    /// The last position that is too old.
    pub(crate) position: Position,
    /// The last position that is too old and of a tenant with this retention.
    pub(crate) taken: Position,
}

/// What age has taken at one instant.
pub(crate) struct Ages {
    pub(crate) all: Age,
    own: Vec<Age>,
}

impl Ages {
    fn each(&self) -> impl Iterator<Item = &Age> {
        std::iter::once(&self.all).chain(&self.own)
    }

    /// Nothing up to here is young enough for any retention.
    pub(crate) fn floor(&self) -> Position {
        self.each().map(|age| age.position).min().unwrap_or(0)
    }

    /// Something up to here may be too old for some retention.
    pub(crate) fn ceiling(&self) -> Position {
        self.each().map(|age| age.position).max().unwrap_or(0)
    }

    /// The last position that age has taken from anybody.
    pub(crate) fn taken(&self) -> Position {
        self.each().map(|age| age.taken).max().unwrap_or(0)
    }
}

impl Horizons {
    pub(crate) fn new(options: &LogOptions) -> Self {
        let mut own: Vec<Class> = Vec::new();
        let mut tenants = HashMap::new();
        for (tenant, retention) in options.own_retentions() {
            let class = own.iter().position(|class| class.retention == retention);
            let class = class.unwrap_or_else(|| {
                own.push(Class::new(retention));
                own.len() - 1
            });
            tenants.insert(tenant, class);
        }
        Self {
            all: Class::new(options.retention_micros()),
            own,
            tenants,
        }
    }

    /// What age has taken where nothing is too old.
    pub(crate) fn ageless(&self) -> Ages {
        Ages {
            all: Age::default(),
            own: vec![Age::default(); self.own.len()],
        }
    }

    /// The last position that is too old for a tenant.
    pub(crate) fn of(&self, ages: &Ages, tenant: TenantId) -> Position {
        let own = self.tenants.get(&tenant).map(|class| ages.own[*class]);
        own.unwrap_or(ages.all).position
    }

    /// The retention of a tenant, in microseconds; `None` is for ever.
    pub(crate) fn retention(&self, tenant: TenantId) -> Option<i64> {
        let own = self.tenants.get(&tenant).map(|class| &self.own[*class]);
        own.unwrap_or(&self.all).retention
    }

    /// The retention of those without one of their own.
    pub(crate) fn retention_of_all(&self) -> Option<i64> {
        self.all.retention
    }

    /// All retentions.
    pub(crate) fn retentions(&self) -> impl Iterator<Item = Option<i64>> {
        std::iter::once(&self.all)
            .chain(&self.own)
            .map(|class| class.retention)
    }

    /// Tenants whose events stay when they are too old for all others.
    pub(crate) fn who_keep_longer(&self, ages: &Ages) -> Vec<TenantId> {
        let own = self.tenants.iter();
        own.filter(|(_, class)| ages.own[**class].position < ages.all.position)
            .map(|(tenant, _)| *tenant)
            .collect()
    }

    pub(crate) fn are_all_alike(&self) -> bool {
        self.own.is_empty()
    }

    fn belongs(&self, tenant: TenantId, class: Option<usize>) -> bool {
        self.tenants.get(&tenant).copied() == class
    }
}

impl Class {
    fn new(retention: Option<i64>) -> Self {
        Self {
            retention,
            horizon: Mutex::new(Horizon {
                reached: Age::default(),
                number: 0,
                offset: FRAMES_BEGIN,
                next_run: None,
            }),
        }
    }
}

impl Shared {
    /// What is older than each retention allows, exactly as of now. Costs by the frames that expired
    /// since the last call.
    pub(crate) fn ages(&self) -> Ages {
        let horizons = &self.horizons;
        let own = horizons.own.iter().enumerate();
        Ages {
            all: self.age(&horizons.all, None),
            own: own
                .map(|(number, class)| self.age(class, Some(number)))
                .collect(),
        }
    }

    fn age(&self, class: &Class, number: Option<usize>) -> Age {
        let cutoff = self.clock.cutoff_for(class.retention);
        let mut horizon = class.horizon.lock();
        if cutoff == i64::MIN || horizon.next_run.is_some_and(|run| run >= cutoff) {
            return horizon.reached;
        }
        let passing = Passing {
            shared: self,
            class: number,
            cutoff,
        };
        let segments = Arc::clone(&self.view.read().segments);
        for segment in segments.iter() {
            if segment.number < horizon.number {
                continue;
            }
            match passing.pass(&mut horizon, segment) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    // Readers meet the same trouble and tell of it; until then nothing expires.
                    crate::seldom!(warn, segment = segment.number, %error, "looking for what has expired");
                    break;
                }
            }
        }
        horizon.reached
    }
}

/// A horizon on its way.
struct Passing<'p> {
    shared: &'p Shared,
    /// The retention at hand; `None` is that of all.
    class: Option<usize>,
    cutoff: i64,
}

impl Passing<'_> {
    /// Moves the horizon through a segment; whether the whole of it has expired.
    fn pass(&self, horizon: &mut Horizon, segment: &Segment) -> io::Result<bool> {
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
        if summary.last_run < self.cutoff {
            let taken = self.taken_of(segment, &summary);
            horizon.advance(summary.last, taken);
            horizon.offset = summary.end;
            return Ok(sealed);
        }
        let files = &self.shared.files;
        let alike = self.shared.horizons.are_all_alike();
        // Where retentions differ, whose frames have expired must be seen frame by frame.
        if alike
            && let Some(step) = segment.last_step(files, |step| step.run_time < self.cutoff)?
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
                    if header.run_time >= self.cutoff {
                        horizon.next_run = Some(header.run_time);
                        return ControlFlow::Break(());
                    }
                    let of_class = alike || self.shared.horizons.belongs(header.tenant, self.class);
                    horizon.advance(header.last(), if of_class { header.last() } else { 0 });
                }
                horizon.offset = offset + header.frame_bytes();
                ControlFlow::Continue(())
            },
        )?;
        Ok(false)
    }

    /// The last position in a segment that has expired as a whole, of a tenant with this retention.
    fn taken_of(&self, segment: &Segment, summary: &Summary) -> Position {
        let horizons = &self.shared.horizons;
        if horizons.are_all_alike() {
            return summary.last;
        }
        match segment.directory(&self.shared.files) {
            Ok(directory) => directory
                .iter()
                .filter(|entry| horizons.belongs(entry.tenant, self.class))
                .map(|entry| entry.last)
                .max()
                .unwrap_or(0),
            // Saying that something has gone where nothing has is the lesser evil.
            Err(error) => {
                crate::seldom!(warn, segment = segment.number, %error, "looking for whose events have expired");
                summary.last
            }
        }
    }
}

impl Horizon {
    fn advance(&mut self, position: Position, taken: Position) {
        self.reached.position = self.reached.position.max(position);
        self.reached.taken = self.reached.taken.max(taken);
    }
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
