//! `POST /backup` on the admin listener: the server makes a backup of its log while it runs.
//!
//! Who reaches the listener can have this process write files. So it writes in one folder only, which the configuration
//! names (`log.backup_path`), and only where nothing else is.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidings_log::{BackupError, BackupReport, Log, Stop};
use tidings_protocol::{Cursor, TenantId};

use crate::app::App;
use crate::config::LogKind;
use crate::error::Refusal;
use crate::registry::{FILE_NAME, Registry};
use crate::time::rfc3339;

/// Where the backup is to be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupRequest {
    /// A folder within `log.backup_path`, by its whole path or from there.
    pub(crate) target: PathBuf,
}

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BackupAnswer {
    /// The folder.
    pub(crate) target: PathBuf,
    /// The cursor of the last event in it.
    pub(crate) through: String,
    pub(crate) taken_at: String,
    pub(crate) segments: u64,
    pub(crate) segments_copied: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_copied: u64,
    pub(crate) has_state: bool,
    /// Positions that the log has lost: first and last of each stretch.
    pub(crate) lost: Vec<(u64, u64)>,
    /// Tenants that were purged while it was finished, and of whom it holds events.
    pub(crate) purged_since: Vec<TenantId>,
}

impl BackupAnswer {
    pub(crate) fn new(target: PathBuf, report: &BackupReport) -> Self {
        let through = Cursor {
            epoch: report.epoch,
            position: report.through,
        };
        Self {
            target,
            through: through.to_string(),
            taken_at: rfc3339(report.taken_at),
            segments: report.segments,
            segments_copied: report.segments_copied,
            bytes: report.bytes,
            bytes_copied: report.bytes_copied,
            has_state: report.has_state,
            lost: report
                .lost
                .iter()
                .map(|lost| (lost.first, lost.last))
                .collect(),
            purged_since: report.purged_since.clone(),
        }
    }
}

/// Makes a backup of a log and of the registry beside it.
pub(crate) fn back_up(
    log: &Log,
    registry: &Registry,
    target: &Path,
    stop: Stop<'_>,
) -> Result<BackupReport, BackupError> {
    let mut companions = || {
        let content = registry.export().map_err(|error| error.to_string())?;
        Ok(vec![(FILE_NAME.to_owned(), content)])
    };
    log.backup(target, &mut companions, stop)
}

/// `POST /backup`. Answers when it is made; goes on when the caller leaves.
pub(super) async fn make(
    State(app): State<Arc<App>>,
    Json(request): Json<BackupRequest>,
) -> Result<Json<BackupAnswer>, Refusal> {
    if app.config().log.kind != LogKind::Embedded {
        let detail = "this node's folder is a copy of NATS streams: back those up; a node with an empty folder copies them";
        return Err(Refusal::new(StatusCode::CONFLICT, detail));
    }
    let target = within(app.config().log.backup_path.as_deref(), &request.target)?;
    let shared = Arc::clone(&app);
    let work = app.operations.spawn(async move {
        let making = tokio::task::spawn_blocking(move || run(&shared, target));
        making.await
    });
    match work.await {
        Ok(Ok(answer)) => answer.map(Json),
        Ok(Err(panic)) | Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn run(app: &App, target: PathBuf) -> Result<BackupAnswer, Refusal> {
    let begun = Instant::now();
    match back_up(&app.log, &app.registry, &target, &|| app.life.is_draining()) {
        Ok(report) => {
            let answer = BackupAnswer::new(target, &report);
            app.metrics.last_backup.finished(&app.config().log.path);
            tracing::info!(
                target: "tidings::operate",
                folder = %answer.target.display(),
                through = answer.through,
                bytes = answer.bytes,
                bytes_copied = answer.bytes_copied,
                lost = answer.lost.len(),
                seconds = begun.elapsed().as_secs_f64(),
                "backup_made"
            );
            Ok(answer)
        }
        Err(error) => {
            tracing::error!(%error, folder = %target.display(), "a backup could not be made");
            Err(refusal(&error))
        }
    }
}

/// The folder that is meant, if it is one within the folder for backups.
fn within(root: Option<&Path>, asked: &Path) -> Result<PathBuf, Refusal> {
    let Some(root) = root else {
        let detail = "this server makes no backups while it runs: log.backup_path is not set";
        return Err(Refusal::new(StatusCode::FORBIDDEN, detail));
    };
    let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let target = root.join(asked);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    match target.strip_prefix(&root) {
        Ok(rest) if rest.components().all(plain) => Ok(target),
        _ => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "backups go into {} (log.backup_path) and nowhere else",
                root.display()
            ),
        )),
    }
}

fn refusal(error: &BackupError) -> Refusal {
    let detail = error.to_string();
    let is_full = |source: &std::io::Error| {
        matches!(
            source.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        )
    };
    match error {
        BackupError::Busy | BackupError::Locked { .. } | BackupError::Target { .. } => {
            Refusal::new(StatusCode::CONFLICT, detail)
        }
        BackupError::Io { source, .. } if is_full(source) => {
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, detail)
        }
        BackupError::Io { .. } | BackupError::Part { .. } => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
        }
        BackupError::NotReady | BackupError::Overtaken | BackupError::Stopped => {
            Refusal::unavailable(detail, Duration::from_secs(5))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_go_into_the_folder_for_them_and_nowhere_else() {
        let root = Path::new("/backups");
        let granted = |asked: &str| within(Some(root), Path::new(asked)).ok();
        assert_eq!(granted("daily"), Some(PathBuf::from("/backups/daily")));
        assert_eq!(granted("/backups/daily"), granted("daily"));
        assert_eq!(granted("a/b"), Some(PathBuf::from("/backups/a/b")));
        assert_eq!(granted("/backups"), Some(PathBuf::from("/backups")));
        for asked in [
            "/etc",
            "../etc",
            "a/../../etc",
            "/backups/../etc",
            "/backups2",
        ] {
            assert_eq!(granted(asked), None, "{asked}");
        }
        let without = within(None, Path::new("daily")).unwrap_err();
        assert!(without.detail().contains("log.backup_path"));
    }
}
