//! `tidings log restore`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidings_log::{RestoreOptions, RestoreReport};
use tidings_protocol::TenantId;

use super::super::table::{seconds, size};
use super::super::{Failure, Outcome, print};
use crate::auth::ManagedKey;
use crate::auth::revocation::Revocation;
use crate::registry::{FILE_NAME, Purge, Registry};
use crate::time::{rfc3339, unix_microseconds};

/// Revocations are kept as long as they were: the server lets go of those that are too old.
const FOR_EVER: Duration = Duration::ZERO;

pub(super) fn run(source: &Path, to: &Path, previous: &[PathBuf], purge: Vec<TenantId>) -> Outcome {
    let mut since = Since::default();
    for folder in previous {
        since.look_into(folder)?;
    }
    let now = unix_microseconds(SystemTime::now());
    let unknown = || Purge {
        at: now,
        by: String::new(),
    };
    for tenant in purge {
        since.purged.entry(tenant).or_insert_with(unknown);
    }
    let options = RestoreOptions {
        purge: since.purged.keys().copied().collect(),
    };
    let mut finish = |purged: &[TenantId]| -> Result<(), String> {
        let registry = Registry::open(to, FOR_EVER).map_err(|error| error.to_string())?;
        let purged: Vec<(TenantId, Purge)> = purged
            .iter()
            .map(|tenant| {
                let known = since.purged.get(tenant).cloned();
                (*tenant, known.unwrap_or_else(unknown))
            })
            .collect();
        let taken = registry.take_over(&purged, &since.revocations, &since.keys);
        taken.map_err(|error| error.to_string())
    };
    let report = tidings_log::restore(source, to, &options, &mut finish)?;
    described(to, &report)
}

/// What happened since a backup and must hold in the restored log too.
#[derive(Default)]
struct Since {
    purged: BTreeMap<TenantId, Purge>,
    revocations: Vec<Revocation>,
    keys: Vec<(Arc<str>, Arc<ManagedKey>)>,
}

impl Since {
    /// Looks into the folder of a log as it went on. Nothing there is changed.
    fn look_into(&mut self, folder: &Path) -> Result<(), Failure> {
        let now = unix_microseconds(SystemTime::now());
        let unknown = Purge {
            at: now,
            by: String::new(),
        };
        for tenant in tidings_log::purged_in(folder)? {
            self.purged.entry(tenant).or_insert_with(|| unknown.clone());
        }
        let file = folder.join(FILE_NAME);
        if !file.try_exists()? {
            return Ok(());
        }
        // Opening it may repair it, so a copy is opened.
        let copy = Scratch::make()?;
        std::fs::copy(&file, copy.0.join(FILE_NAME))?;
        let registry = Registry::open(&copy.0, FOR_EVER)
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        self.purged.extend(registry.purged().list());
        self.revocations.extend(registry.revocations().kept(now));
        self.keys.extend(registry.keys().all());
        Ok(())
    }
}

/// A folder of this process's own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;

        let name = format!(
            "tidings-restore-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn described(to: &Path, report: &RestoreReport) -> Outcome {
    print(&format!(
        "{}: {} events in {} segments, {}, as of {}. The log goes on in epoch {}; cursors of epoch {} lead on up to {}.{}.",
        to.display(),
        report.events,
        report.segments,
        size(report.bytes),
        seconds(&rfc3339(report.taken_at)),
        report.epoch,
        report.parent,
        report.parent,
        report.fork
    ))?;
    for tenant in &report.purged {
        eprintln!("tidings: {tenant} is purged, and stays so");
    }
    for finding in &report.findings {
        eprintln!("tidings: {finding}");
    }
    for lost in &report.lost {
        eprintln!(
            "tidings: the positions {} to {} are missing; who resumes before them is told of a gap",
            lost.first, lost.last
        );
    }
    Ok(ExitCode::from(u8::from(!report.lost.is_empty())))
}
