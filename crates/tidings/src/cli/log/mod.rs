//! `tidings log`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tidings_log::VerifyReport;

use super::{Outcome, SettingsArgs, print};

#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a folder, without changing anything: every frame, every index, the order
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
}

pub(super) fn run(command: LogCommand) -> Outcome {
    let Action::Verify { folder, settings } = command.action;
    let folder = match folder {
        Some(folder) => folder,
        None => settings.load()?.config.log.path,
    };
    let report = tidings_log::verify(&folder)?;
    print(&described(&report))?;
    Ok(ExitCode::from(u8::from(lossy(&report))))
}

fn lossy(report: &VerifyReport) -> bool {
    report.findings.iter().any(|finding| finding.loses_events)
}

fn described(report: &VerifyReport) -> String {
    let mut text = format!(
        "{} events in {} bodies and {} segments, {} bytes read",
        report.events, report.frames, report.segments, report.bytes
    );
    if let (Some(epoch), Some(first), Some(last)) = (report.epoch, report.first, report.last) {
        let _ = write!(text, "; cursors {epoch}.{first} to {epoch}.{last}");
    }
    text.push('\n');
    for finding in &report.findings {
        let place = finding
            .offset
            .map_or_else(String::new, |offset| format!(" at byte {offset}"));
        let weight = if finding.loses_events {
            "events are lost"
        } else {
            "mended when the log is opened"
        };
        let _ = writeln!(text, "{}{place}: {} ({weight})", finding.file, finding.what);
    }
    text.push_str(match (report.findings.is_empty(), lossy(report)) {
        (true, _) => "The log is sound.\n",
        (false, false) => "No event is lost.\n",
        (false, true) => "The log is damaged.\n",
    });
    text
}

#[cfg(test)]
mod tests {
    use tidings_log::Finding;

    use super::*;

    #[test]
    fn a_loss_is_told_from_what_mends_itself() {
        let mut report = VerifyReport::default();
        assert!(described(&report).ends_with("The log is sound.\n"));
        let finding = |loses_events| Finding {
            file: "a".to_owned(),
            offset: Some(7),
            what: "torn".to_owned(),
            loses_events,
        };
        report.findings.push(finding(false));
        assert!(described(&report).ends_with("No event is lost.\n"));
        assert!(!lossy(&report));
        report.findings.push(finding(true));
        let text = described(&report);
        assert!(
            text.contains("a at byte 7: torn (events are lost)"),
            "{text}"
        );
        assert!(lossy(&report));
    }
}
