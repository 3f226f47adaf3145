//! The disk under the log: whose folder it is, what file system, how much room, how long a sync takes.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfs, statfs, statvfs};
use rustix::process::geteuid;

use super::report::Finding;
use super::running::Running;
use crate::config::Config;

/// A file of the log, which is reserved before the last one is full.
const SEGMENT: u64 = 64 << 20;

/// How many syncs are tried.
const SYNCS: usize = 15;

/// From here on a publish waits for the disk more than for anything else.
const SLOW_SYNC: Duration = Duration::from_millis(20);

/// Looks at `log.path`, or at where it would be made.
#[must_use]
pub fn check(config: &Config, server: Option<&Running>) -> Vec<Finding> {
    let folder = &config.log.path;
    let Some(place) = existing(folder) else {
        return vec![Finding::problem(
            "disk",
            format!("{} is nowhere", folder.display()),
            "set log.path to a folder on a disk",
        )];
    };
    let mut findings = Vec::new();
    if place == *folder {
        findings.extend(fs::metadata(&place).ok().map(|found| {
            let user = server.map_or_else(|| geteuid().as_raw(), |server| server.user);
            owned(folder, found.uid(), found.permissions().mode(), user)
        }));
    }
    if let Ok(kind) = statfs(&place) {
        findings.push(file_system(magic(kind.f_type)));
    }
    if let Ok(room) = statvfs(&place) {
        findings.push(space(&room, taken(folder), config.log.max_bytes));
    }
    match syncs(&place) {
        Ok(took) => findings.push(sync(&took)),
        Err(error) => findings.push(Finding::problem(
            "disk",
            format!("a file in {} can't be written and synced: {error}", place.display()),
            "run this as the server's user; if it is the server's user, give it the folder (chown) and look at the disk",
        )),
    }
    findings
}

/// The folder, or the nearest above it that there is.
fn existing(folder: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(folder).ok()?;
    if folder.is_dir() {
        return Some(folder.to_owned());
    }
    let found = absolute.ancestors().find(|folder| folder.is_dir());
    found.map(Path::to_owned)
}

/// Judges who owns the folder and who may look into it.
fn owned(folder: &Path, owner: u32, mode: u32, user: u32) -> Finding {
    let folder = folder.display();
    if owner != user && user != 0 {
        return Finding::problem(
            "disk",
            format!("{folder} belongs to user {owner}, and the server runs as {user}"),
            format!("chown -R {user} {folder}"),
        );
    }
    if owner != user {
        return Finding::warning(
            "disk",
            format!("{folder} belongs to user {owner}, and this runs as root"),
            "what a server of that user may do is seen when this is run as it: runuser -u tidings -- tidings doctor",
        );
    }
    if mode & 0o007 != 0 {
        return Finding::warning(
            "disk",
            format!(
                "every user of this machine may look into {folder} (mode {:o})",
                mode & 0o777
            ),
            format!("it has all tenants' events: chmod o= {folder}"),
        );
    }
    Finding::good("disk", format!("{folder} is the server's own"))
}

/// The numbers by which Linux tells file systems apart (statfs(2)) are 32 bits wide, whatever holds them.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "the type of the field differs by architecture, the numbers do not"
)]
fn magic(kind: impl Into<i128>) -> u32 {
    kind.into() as u32
}

/// Judges the kind of a file system.
fn file_system(magic: u32) -> Finding {
    let known = match magic {
        0xef53 => ("ext4", None),
        0x5846_5342 => ("XFS", None),
        0x9123_683e => ("Btrfs", None),
        0x2fc1_2fc1 => ("ZFS", None),
        0xf2f5_2010 => ("F2FS", None),
        0x0102_1994 | 0x8584_58f6 => ("memory", Some(true)),
        0x6969 => ("NFS", Some(false)),
        0xff53_4d42 | 0xfe53_4d42 => ("SMB", Some(false)),
        0x6573_5546 => ("FUSE", Some(false)),
        0x0102_1997 => ("9p", Some(false)),
        0x794c_7630 => ("an overlay, as containers have it", Some(false)),
        _ => ("a file system that is not known here", None),
    };
    match known {
        (name, None) => Finding::good("disk", format!("the log is on {name}")),
        (name, Some(true)) => Finding::problem(
            "disk",
            format!("the log is in {name}, and gone with the machine's next start"),
            "set log.path to a folder on a disk",
        ),
        (name, Some(false)) => Finding::warning(
            "disk",
            format!("the log is on {name}"),
            "the log trusts syncs and locks, which such file systems keep in their own way: use a local disk, in a container a volume",
        ),
    }
}

/// What the log takes already.
fn taken(folder: &Path) -> u64 {
    let files = ["", "segments"]
        .into_iter()
        .filter_map(|part| fs::read_dir(folder.join(part)).ok());
    files
        .flatten()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.blocks() * 512)
        .sum()
}

/// Judges the room against what the log may take.
fn space(room: &StatVfs, taken: u64, max_bytes: u64) -> Finding {
    let free = room.f_bavail * room.f_frsize;
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    if free < 2 * SEGMENT {
        return Finding::problem(
            "disk",
            format!("{} are free", mib(free)),
            "publishing will soon be refused (507): make room, or lower log.max_bytes or log.retention",
        );
    }
    if room.f_files > 0 && room.f_favail < 1_000 {
        return Finding::problem(
            "disk",
            format!("the file system has room for {} files more", room.f_favail),
            "remove small files, or make one with more inodes",
        );
    }
    let (limit, goal) = match max_bytes {
        0 => (
            0,
            "log.max_bytes is 0, so the log grows until retention stops it".to_owned(),
        ),
        max => (
            (max + SEGMENT).saturating_sub(taken),
            format!("the log may take {}", mib(max)),
        ),
    };
    let what = format!(
        "{} are free, {} taken by the log; {goal}",
        mib(free),
        mib(taken)
    );
    if max_bytes == 0 {
        let advice = "set log.max_bytes below the size of the disk, so that the oldest events go before it is full";
        return Finding::warning("disk", what, advice);
    }
    if free < limit {
        let advice = format!(
            "the disk will be full before the log is at its limit: lower log.max_bytes, or give it {} more",
            mib(limit - free)
        );
        return Finding::warning("disk", what, advice);
    }
    Finding::good("disk", what)
}

/// How long syncs of small writes take here.
fn syncs(folder: &Path) -> io::Result<Vec<Duration>> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    // The name is gone before anything can go wrong.
    fs::remove_file(&path)?;
    let mut took = (0..SYNCS)
        .map(|_| {
            (&file).write_all(&[0; 4096])?;
            let started = Instant::now();
            file.sync_data()?;
            Ok(started.elapsed())
        })
        .collect::<io::Result<Vec<_>>>()?;
    took.sort_unstable();
    Ok(took)
}

/// Judges sorted times of syncs by their median.
fn sync(took: &[Duration]) -> Finding {
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let what = format!(
        "a sync takes {median:.1?}, at most {most:.1?} of {}",
        took.len()
    );
    if median > SLOW_SYNC {
        let advice =
            "every publish waits for one: use a local SSD, or publish many events in a body";
        Finding::warning("disk", what, advice)
    } else {
        Finding::good("disk", what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Weight;
    use super::*;

    #[test]
    fn a_folder_is_judged_by_its_owner_and_by_who_may_look() {
        let folder = Path::new("/log");
        assert_eq!(owned(folder, 7, 0o750, 7).weight, Weight::Good);
        assert_eq!(owned(folder, 7, 0o755, 7).weight, Weight::Warning);
        assert_eq!(owned(folder, 0, 0o700, 7).weight, Weight::Problem);
        assert_eq!(owned(folder, 7, 0o700, 0).weight, Weight::Warning);
    }

    #[test]
    fn what_forgets_is_a_problem_and_what_lies_elsewhere_a_warning() {
        assert_eq!(file_system(0xef53).weight, Weight::Good);
        assert_eq!(file_system(0x0102_1994).weight, Weight::Problem);
        assert_eq!(file_system(0x6969).weight, Weight::Warning);
        assert_eq!(file_system(1).weight, Weight::Good);
    }

    #[test]
    fn a_slow_disk_is_said_by_its_median() {
        let mut took = vec![Duration::from_micros(200); 14];
        took.push(Duration::from_secs(1));
        assert_eq!(sync(&took).weight, Weight::Good);
        assert_eq!(
            sync(&[Duration::from_millis(25); 15]).weight,
            Weight::Warning
        );
    }

    #[test]
    fn room_is_measured_by_what_the_log_may_still_take() {
        let mut room = statvfs("/").unwrap();
        room.f_frsize = 1 << 20;
        room.f_files = 0;
        let mut judged = |free_mib: u64, taken_mib: u64, max_mib: u64| {
            room.f_bavail = free_mib;
            space(&room, taken_mib << 20, max_mib << 20).weight
        };
        assert_eq!(judged(100, 0, 1_000), Weight::Problem);
        assert_eq!(judged(500, 0, 1_000), Weight::Warning);
        assert_eq!(judged(500, 600, 1_000), Weight::Good);
        assert_eq!(judged(2_000, 0, 1_000), Weight::Good);
        assert_eq!(judged(2_000, 0, 0), Weight::Warning);
    }

    #[test]
    fn a_folder_that_is_still_to_be_made_is_judged_by_where() {
        let folder = tempfile::tempdir().unwrap();
        let found = existing(&folder.path().join("a/b"));
        assert_eq!(found.as_deref(), Some(folder.path()));
        assert_eq!(syncs(folder.path()).unwrap().len(), SYNCS);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
