//! `tidings log`: what is done with a log's folder.

mod backup;
mod restore;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tidings_log::Downgrade;
use tidings_protocol::TenantId;

use super::{Failure, Outcome, SettingsArgs, print};

#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a folder, without changing anything: every frame, every index, the order. Also of a backup
    #[command(after_help = "\
Ends with 1 where events are lost. The server may run meanwhile.

Example:
  tidings log verify /var/lib/tidings")]
    Verify {
        /// The folder; the configured one (log.path) without it
        folder: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Make a backup of the log, of what is kept beside it, and of the state
    #[command(after_help = "\
A server that runs makes it itself, within log.backup_path, asked over admin_listen; of one that is stopped this
command makes it, anywhere. What the folder has of an earlier backup and is still the same is not written again.
Ends with 1 where no backup was made, where it lacks events that the log has lost, and where a tenant was purged
while it was finished: then make another.

Example:
  tidings log backup /var/backups/tidings/daily && tidings log verify /var/backups/tidings/daily")]
    Backup {
        /// The folder, empty or with an earlier backup of this log; `log.backup_path` without it
        target: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Make a log of a backup, in a new epoch: older cursors lead on exactly up to where it ends
    #[command(after_help = "\
What is sound is restored, what is not is told. Ends with 1 where events are missing.

Example:
  mv /var/lib/tidings /var/lib/tidings.old
  tidings log restore /var/backups/tidings/daily --to /var/lib/tidings --previous /var/lib/tidings.old")]
    Restore {
        /// The backup
        source: PathBuf,
        /// The folder of the restored log, empty or missing
        #[arg(long, value_name = "FOLDER")]
        to: PathBuf,
        /// A folder of the log as it went on after the backup: what was purged and revoked there stays so. Can be
        /// repeated
        #[arg(long, value_name = "FOLDER")]
        previous: Vec<PathBuf>,
        /// A tenant that was purged since the backup. Can be repeated
        #[arg(long, value_name = "ID")]
        purge: Vec<TenantId>,
    },
    /// Begin a new epoch: for a copy of a folder that goes on by itself. Nobody may have it open
    #[command(after_help = "\
A folder that was copied keeps its epoch. Where the copy goes on beside the other, or in its place after that had gone
on, one cursor would name two events. Afterwards cursors from before lead on up to where the copy ends now.

Example:
  tidings log fork /var/lib/tidings")]
    Fork {
        /// The folder; the configured one (log.path) without it
        folder: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Make the folder one of an older format, for an older version of Tidings. Nobody may have it open
    #[command(after_help = "\
No event is lost. Format 2 knows no ancestors, so cursors from before a restore or a fork are told unknown_epoch.

Example:
  tidings log downgrade --to 2 /var/lib/tidings")]
    Downgrade {
        /// The folder; the configured one (log.path) without it
        folder: Option<PathBuf>,
        /// The format
        #[arg(long, value_name = "FORMAT")]
        to: u32,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

pub(super) fn run(command: LogCommand) -> Outcome {
    match command.action {
        Action::Verify { folder, settings } => verify::run(folder, &settings),
        Action::Backup { target, settings } => backup::run(target, &settings),
        Action::Restore {
            source,
            to,
            previous,
            purge,
        } => restore::run(&source, &to, &previous, purge),
        Action::Fork {
            folder: path,
            settings,
        } => fork(&folder(path, &settings)?),
        Action::Downgrade {
            folder: path,
            to,
            settings,
        } => downgrade(&folder(path, &settings)?, to),
    }
}

/// The folder that was named, or the configured one.
fn folder(named: Option<PathBuf>, settings: &SettingsArgs) -> Result<PathBuf, Failure> {
    match named {
        Some(folder) => Ok(folder),
        None => Ok(settings.load()?.config.log.path),
    }
}

fn fork(folder: &std::path::Path) -> Outcome {
    crate::mirror::refuse_mirror(folder)?;
    let fork = tidings_log::fork(folder)?;
    print(&format!(
        "The log in {} goes on in epoch {}. Cursors of epoch {} lead on up to {}.{}.",
        folder.display(),
        fork.epoch,
        fork.parent,
        fork.parent,
        fork.fork
    ))
}

fn downgrade(folder: &std::path::Path, to: u32) -> Outcome {
    match tidings_log::downgrade(folder, to)? {
        Downgrade::Unneeded(format) => print(&format!(
            "The log in {} has format {format} already; nothing was changed.",
            folder.display()
        )),
        Downgrade::Done { epoch, forgotten } => {
            let epochs: Vec<String> = forgotten
                .iter()
                .map(|ancestor| ancestor.epoch.to_string())
                .collect();
            print(&format!(
                "The log in {} has format {to} now, with every event and its epoch {epoch}. Cursors of {} are told unknown_epoch.",
                folder.display(),
                epochs.join(", ")
            ))
        }
        Downgrade::Impossible => Err(Failure::new(format!(
            "there is no way back to format {to}, which can't hold what events are the latest state of: read the events with \
             `tidings tail --json`, and publish them to a new log of the older version"
        ))),
    }
}
