//! What there is of each tenant, by the directories of the segments.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use tidings_protocol::{Position, TenantId};

use crate::ReadError;
use crate::event::{Scope, TenantUsage};
use crate::format::{FRAME_HEADER, FrameHeader};
use crate::index::{DirectoryEntry, FramePlace};
use crate::reading::{Fault, index_fault};
use crate::segment::Segment;
use crate::view::{Shared, Snapshot};

/// How often a count starts anew when the log changes under it.
const ATTEMPTS: usize = 4;

impl Shared {
    /// See [`Log::tenants`](crate::Log::tenants).
    pub(crate) fn tenants(&self) -> Result<Vec<TenantUsage>, ReadError> {
        self.counted(|snapshot| {
            let mut usages = HashMap::new();
            for segment in snapshot.segments.iter() {
                let directory = segment.directory(&self.files);
                for entry in directory.map_err(|error| index_fault(segment, error))? {
                    let hidden = self.hidden(snapshot, entry.tenant).max(snapshot.horizon);
                    self.count(segment, &entry, hidden, &mut usages)?;
                }
            }
            Ok(usages.into_values().collect())
        })
    }

    /// See [`Log::tenant`](crate::Log::tenant).
    pub(crate) fn tenant(&self, tenant: TenantId) -> Result<TenantUsage, ReadError> {
        self.counted(|snapshot| {
            let hidden = self.hidden(snapshot, tenant).max(snapshot.horizon);
            let mut usages = HashMap::new();
            for segment in snapshot.segments.iter() {
                let entry = segment
                    .with_tenant(&self.files, tenant, |frames| frames.entry(tenant))
                    .map_err(|error| index_fault(segment, error))?;
                if let Some(entry) = entry {
                    self.count(segment, &entry, hidden, &mut usages)?;
                }
            }
            Ok(usages.remove(&tenant).unwrap_or(TenantUsage {
                tenant,
                events: 0,
                bytes: 0,
                oldest_at: None,
            }))
        })
    }

    fn counted<T>(&self, count: impl Fn(&Snapshot) -> Result<T, Fault>) -> Result<T, ReadError> {
        let io_error = |source| ReadError::Io { after: 0, source };
        for _ in 0..ATTEMPTS {
            match count(&self.snapshot(Scope::All)) {
                Ok(counted) => return Ok(counted),
                Err(Fault::Damaged(segment)) => self.repair(&segment).map_err(io_error)?,
                // The segment was unlinked meanwhile.
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Fault::Io(error)) => return Err(io_error(error)),
            }
        }
        Err(io_error(io::Error::new(
            io::ErrorKind::InvalidData,
            "the log's files change under the reader",
        )))
    }

    /// Adds what a segment holds of a tenant behind `hidden`.
    fn count(
        &self,
        segment: &Arc<Segment>,
        entry: &DirectoryEntry,
        hidden: Position,
        usages: &mut HashMap<TenantId, TenantUsage>,
    ) -> Result<(), Fault> {
        if entry.last <= hidden {
            return Ok(());
        }
        let (events, bytes, oldest_at) = if entry.first > hidden {
            (entry.events, entry.bytes, entry.first_at)
        } else {
            let left: Vec<FramePlace> = segment
                .with_tenant(&self.files, entry.tenant, |frames| {
                    frames.frames[frames.first_after(hidden)..].to_vec()
                })
                .map_err(|error| index_fault(segment, error))?;
            let Some(first) = left.first() else {
                return Ok(());
            };
            (
                left.iter().map(|frame| u64::from(frame.count)).sum(),
                left.iter().map(FramePlace::length).sum(),
                self.appended_at(segment, first)?,
            )
        };
        let usage = usages.entry(entry.tenant).or_insert(TenantUsage {
            tenant: entry.tenant,
            events: 0,
            bytes: 0,
            oldest_at: None,
        });
        usage.events += events;
        usage.bytes += bytes;
        usage.oldest_at.get_or_insert(oldest_at);
        Ok(())
    }

    fn appended_at(&self, segment: &Arc<Segment>, place: &FramePlace) -> Result<i64, Fault> {
        let mut bytes = [0; FRAME_HEADER];
        let file = self.files.log(segment.number).map_err(Fault::Io)?;
        file.read_at(&mut bytes, place.offset())
            .map_err(Fault::Io)?;
        FrameHeader::decode(&bytes, segment.salt, place.offset())
            .map(|header| header.appended_at)
            .ok_or_else(|| Fault::Damaged(Arc::clone(segment)))
    }
}
