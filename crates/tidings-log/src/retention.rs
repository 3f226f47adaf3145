//! Retention: what is taken from the log, when, and what is remembered of it.

use std::sync::Arc;

use tidings_protocol::TenantId;

use crate::format::{SEGMENTS, index_name, log_name};
use crate::meta::Removal;
use crate::segment::Segment;
use crate::view::Shared;

impl Shared {
    /// Takes what retention does not keep.
    pub(crate) fn retain(&self) {
        let _one_at_a_time = self.retention.lock();
        // Readers' horizon moves first, so that no one is reading what is about to go.
        self.ages();
        let outcome = self
            .remove_while(|oldest, _| self.is_too_old(oldest))
            .and_then(|()| self.make_room_locked(0));
        if let Err(reason) = outcome {
            crate::seldom!(
                error,
                reason,
                "retention can't remove the oldest segment; trying again"
            );
        }
        self.trim_tenants_locked();
    }

    /// Removes the oldest segments until so many bytes more stay within the cap.
    pub(crate) fn make_room(&self, bytes: u64) -> Result<(), String> {
        let _one_at_a_time = self.retention.lock();
        self.make_room_locked(bytes)
    }

    /// Takes the oldest events of tenants that exceed their cap.
    pub(crate) fn trim_tenants(&self) {
        let _one_at_a_time = self.retention.lock();
        self.trim_tenants_locked();
    }

    fn make_room_locked(&self, bytes: u64) -> Result<(), String> {
        match self.options.byte_cap() {
            Some(cap) => self.remove_while(|_, total| total + bytes > cap),
            None => Ok(()),
        }
    }

    /// Whether everything in a segment is too old for whose it is.
    fn is_too_old(&self, segment: &Segment) -> bool {
        let last_run = segment.summary().last_run;
        // What has expired is hidden already; its file stays while it may be read for keys at a start.
        if last_run >= self.clock.now().run - self.options.key_window_micros() {
            return false;
        }
        let too_old = |retention| last_run < self.clock.cutoff_for(retention);
        if self.horizons.are_all_alike() {
            return too_old(self.horizons.retention_of_all());
        }
        if !self.horizons.retentions().any(too_old) {
            return false;
        }
        match segment.directory(&self.files) {
            Ok(directory) if directory.is_empty() => too_old(self.horizons.retention_of_all()),
            Ok(directory) => directory
                .iter()
                .all(|entry| too_old(self.horizons.retention(entry.tenant))),
            // It is built anew where it is read for what goes with the segment.
            Err(_) => self.horizons.retentions().all(too_old),
        }
    }

    /// Bytes of segment files on disk.
    pub(crate) fn segment_bytes(&self) -> u64 {
        let segments = Arc::clone(&self.view.read().segments);
        let total: u64 = segments.iter().map(|segment| segment.allocated()).sum();
        total + self.workshop.prepared_bytes()
    }

    /// Removes the oldest segment while it is sealed and unwanted, by what it holds and the bytes of all
    /// segments, and the state needs nothing of it any more.
    fn remove_while(&self, unwanted: impl Fn(&Segment, u64) -> bool) -> Result<(), String> {
        let mut removed = false;
        loop {
            let Some(oldest) = self.view.read().segments.first().cloned() else {
                break;
            };
            if !oldest.is_sealed() || !unwanted(&oldest, self.segment_bytes()) {
                break;
            }
            let covered = self.state.covers(oldest.summary().reached);
            if !covered.map_err(|error| error.to_string())? {
                break;
            }
            self.remove(&oldest)?;
            removed = true;
        }
        if removed && let Err(error) = self.files.storage.sync_folder(SEGMENTS) {
            // The files come back after a power loss; opening removes them again.
            crate::seldom!(warn, %error, "syncing the folder of segments");
        }
        Ok(())
    }

    /// Removes the oldest segment: remembers durably what goes with it, takes it from the readers'
    /// view, unlinks its files. Who reads it at this moment goes on in the open file.
    fn remove(&self, segment: &Segment) -> Result<(), String> {
        let summary = segment.summary();
        let directory = segment.directory(&self.files).or_else(|_| {
            self.rescan(segment)
                .and_then(|()| segment.directory(&self.files))
        });
        let directory = directory.map_err(|error| error.to_string())?;
        let (through, taken, at) = {
            let view = self.view.read();
            let at = if summary.events == 0 {
                view.removed_at
            } else {
                summary.last_time
            };
            // Of what is blank nobody is told; what was lost may have been anybody's.
            let lost = view.lost.iter().map(|lost| lost.last);
            let taken = lost
                .filter(|last| *last <= summary.reached)
                .fold(summary.last, u64::max);
            (
                view.removed_through.max(summary.reached),
                view.taken_through.max(taken),
                at,
            )
        };
        let removal = Removal {
            through,
            taken,
            at,
            tenants: directory
                .into_iter()
                .map(|entry| (entry.tenant, entry.last))
                .collect(),
        };
        self.meta
            .record_removal(&removal)
            .map_err(|error| error.to_string())?;
        {
            let mut view = self.view.write();
            view.segments = Arc::new(view.segments[1..].to_vec());
            view.removed_through = removal.through;
            view.taken_through = removal.taken;
            view.removed_at = removal.at;
            view.removed.extend(removal.tenants);
            let lost = view.lost.iter().filter(|lost| lost.last > removal.through);
            view.lost = Arc::new(lost.copied().collect());
        }
        self.files.forget(segment.number);
        for name in [index_name(segment.number), log_name(segment.number)] {
            if let Err(error) = self.files.storage.remove(&name)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(name, %error, "removing an old segment; opening the log removes it");
            }
        }
        tracing::info!(
            segment = segment.number,
            first = summary.first,
            last = summary.last,
            "removed the oldest segment"
        );
        Ok(())
    }

    fn trim_tenants_locked(&self) {
        for (tenant, account) in self.caps.exceeding() {
            let Some(cap) = self.caps.of(tenant) else {
                continue;
            };
            match self.trim(tenant, cap) {
                Ok(kept) => self.caps.settle(tenant, account, kept),
                Err(error) => {
                    crate::seldom!(error, %tenant, %error, "counting a tenant's bytes; trying again");
                }
            }
        }
    }

    /// Keeps a tenant's newest frames, as many as fit into the cap and at least the last; answers
    /// their bytes.
    fn trim(&self, tenant: TenantId, cap: u64) -> std::io::Result<u64> {
        let segments = Arc::clone(&self.view.read().segments);
        let mut kept = 0;
        let mut horizon = 0;
        for segment in segments.iter().rev() {
            horizon = segment.with_tenant(&self.files, tenant, |frames| {
                if kept + frames.bytes <= cap {
                    kept += frames.bytes;
                    return 0;
                }
                for frame in frames.frames.iter().rev() {
                    if kept > 0 && kept + frame.length() > cap {
                        return frame.last();
                    }
                    kept += frame.length();
                }
                0
            })?;
            if horizon > 0 {
                break;
            }
        }
        if horizon > 0 {
            let mut view = self.view.write();
            let trimmed = view.trimmed.entry(tenant).or_default();
            *trimmed = horizon.max(*trimmed);
            view.trimmed_through = view.trimmed_through.max(horizon);
        }
        Ok(kept)
    }
}
