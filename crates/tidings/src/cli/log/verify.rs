//! `tidings log verify`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use tidings_log::VerifyReport;

use super::super::{Outcome, SettingsArgs, print};

pub(super) fn run(folder: Option<PathBuf>, settings: &SettingsArgs) -> Outcome {
    let folder = super::folder(folder, settings)?;
    let report = tidings_log::verify(&folder)?;
    print(&described(&report))?;
    Ok(ExitCode::from(u8::from(lossy(&report))))
}

fn lossy(report: &VerifyReport) -> bool {
    report.findings.iter().any(|finding| finding.loses_events)
}

fn described(report: &VerifyReport) -> String {
    let kind = if report.is_backup { "A backup: " } else { "" };
    let mut text = format!(
        "{kind}{} events in {} bodies and {} segments, {} bytes read",
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
        let weight = match (finding.loses_events, report.is_backup) {
            (true, _) => "events are lost",
            (false, false) => "mended when the log is opened",
            (false, true) => "take care: remove the file, and the next backup writes it anew",
        };
        let _ = writeln!(text, "{}{place}: {} ({weight})", finding.file, finding.what);
    }
    text.push_str(
        match (report.findings.is_empty(), lossy(report), report.is_backup) {
            (true, _, false) => "The log is sound.\n",
            (true, _, true) => "The backup is sound.\n",
            (false, false, _) => "No event is lost.\n",
            (false, true, false) => "The log is damaged.\n",
            (false, true, true) => "The backup is damaged.\n",
        },
    );
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
