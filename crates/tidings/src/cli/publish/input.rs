//! Lines of events, gathered to batches.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidings_client::NewEvent;
use tokio::sync::mpsc;

use crate::cli::Failure;

/// How long a batch waits for more lines, so that `tail -f … | tidings publish` is prompt.
const LINGER: Duration = Duration::from_millis(50);
/// Lines that may wait between the reader and the sender.
const AHEAD: usize = 2_000;
/// The longest line; the server takes no longer event by default.
const LONGEST_LINE: u64 = 16 << 20;

/// Where lines come from.
pub(super) struct Source {
    reader: Box<dyn BufRead + Send>,
    /// Of a file, how many bytes there are.
    length: Option<u64>,
}

impl Source {
    /// The file, or standard input for none and for `-`.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if io::stdin().is_terminal() {
                eprintln!(
                    "tidings: reading events from the terminal, one a line; Ctrl-D ends them"
                );
            }
            return Ok(Self {
                reader: Box::new(BufReader::new(io::stdin())),
                length: None,
            });
        };
        let failed = |error: io::Error| Failure::new(format_args!("{}: {error}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self {
            length: metadata.is_file().then_some(metadata.len()),
            reader: Box::new(BufReader::with_capacity(1 << 18, file)),
        })
    }

    /// A bar on a terminal, nothing elsewhere.
    pub(super) fn progress(&self) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match self.length {
            Some(length) => (
                ProgressBar::new(length),
                "{bar:30} {percent:>3} %  {msg}  {elapsed}, {eta} left",
            ),
            None => (ProgressBar::new_spinner(), "{spinner}  {msg}  {elapsed}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
        bar
    }
}

/// Events that are published in one body.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<NewEvent>,
    /// The number of each event's line in the input, from 1; blank lines count.
    pub(super) lines: Vec<u64>,
    /// Bytes of the input up to the batch's end.
    pub(super) bytes: u64,
    /// Why there is nothing behind these events, other than the end of the input.
    pub(super) refused: Option<String>,
}

impl Batch {
    /// Whether a repeat stores nothing twice.
    pub(super) fn is_keyed(&self) -> bool {
        self.events.iter().all(|event| event.key.is_some())
    }

    fn take(&mut self, line: Line) {
        self.bytes = line.bytes;
        match line.event {
            Ok(Some(event)) => {
                self.events.push(event);
                self.lines.push(line.number);
            }
            Ok(None) => {}
            Err(error) => self.refused = Some(format!("line {}: {error}", line.number)),
        }
    }
}

struct Line {
    number: u64,
    bytes: u64,
    event: Result<Option<NewEvent>, String>,
}

/// Reads the source in a thread of its own and gives full batches, and part-full ones when no line came
/// for a moment. The reader stays a bounded number of lines ahead.
pub(super) fn batches(
    source: Source,
    size: usize,
    key_prefix: Option<String>,
) -> mpsc::Receiver<Batch> {
    let (line_sender, mut lines) = mpsc::channel(AHEAD);
    std::thread::spawn(move || read(source.reader, key_prefix.as_deref(), &line_sender));
    let (batch_sender, batches) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            let mut batch = Batch::default();
            batch.take(line);
            let linger = tokio::time::sleep(LINGER);
            let mut linger = std::pin::pin!(linger);
            while batch.events.len() < size && batch.refused.is_none() {
                let line = tokio::select! {
                    biased;
                    line = lines.recv() => line,
                    () = &mut linger => break,
                };
                let Some(line) = line else { break };
                batch.take(line);
            }
            if batch_sender.send(batch).await.is_err() {
                return;
            }
        }
    });
    batches
}

fn read(mut reader: impl BufRead, key_prefix: Option<&str>, lines: &mpsc::Sender<Line>) {
    let mut bytes = 0;
    for number in 1.. {
        let mut text = Vec::new();
        let read = (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut text);
        let event = match read {
            Ok(0) => return,
            Ok(length) => {
                bytes += length as u64;
                if text.last() != Some(&b'\n') && length as u64 == LONGEST_LINE {
                    Err(format!("longer than {LONGEST_LINE} bytes"))
                } else {
                    parse(&text, number, key_prefix)
                }
            }
            Err(error) => Err(error.to_string()),
        };
        let last = event.is_err();
        let line = Line {
            number,
            bytes,
            event,
        };
        if lines.blocking_send(line).is_err() || last {
            return;
        }
    }
}

fn parse(text: &[u8], number: u64, key_prefix: Option<&str>) -> Result<Option<NewEvent>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut event: NewEvent = serde_json::from_slice(text).map_err(|error| {
        // serde_json counts lines within the text, of which there is one.
        let said = error.to_string();
        said.split(" at line ").next().unwrap_or(&said).to_owned()
    })?;
    if let (None, Some(prefix)) = (&event.key, key_prefix) {
        event.key = Some(format!("{prefix}-{number}"));
    }
    Ok(Some(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source {
            reader: Box::new(io::Cursor::new(text.to_owned().into_bytes())),
            length: None,
        }
    }

    fn line(number: u32) -> String {
        format!("{{\"type\":\"device_status\",\"data\":{{\"n\":{number}}}}}\n")
    }

    #[tokio::test]
    async fn lines_are_numbered_as_the_input_has_them_and_keyed_by_that() {
        let text = format!("{}\n  \r\n{}{}", line(1), line(2), line(3).trim_end());
        let mut batches = batches(source(&text), 2, Some("import".to_owned()));
        let first = batches.recv().await.unwrap();
        assert_eq!(first.lines, [1, 4]);
        assert!(first.is_keyed());
        let keys: Vec<_> = first
            .events
            .iter()
            .map(|event| event.key.clone().unwrap())
            .collect();
        assert_eq!(keys, ["import-1", "import-4"]);
        let second = batches.recv().await.unwrap();
        assert_eq!(second.lines, [5]);
        assert_eq!(second.bytes, text.len() as u64);
        assert!(batches.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_line_that_is_no_event_ends_the_input_after_those_before_it() {
        let text = format!("{}{}", line(1), "{\"type\":\"snapshot\",\"data\":{}}\n") + &line(3);
        let mut batches = batches(source(&text), 100, None);
        let only = batches.recv().await.unwrap();
        assert_eq!(only.lines, [1]);
        assert!(!only.is_keyed());
        let refused = only.refused.unwrap();
        assert!(
            refused.starts_with("line 2: ") && refused.contains("server's own"),
            "{refused}"
        );
        assert!(batches.recv().await.is_none());
    }

    /// `tail -f … | tidings publish` must not wait for a hundred lines.
    #[tokio::test]
    async fn a_batch_does_not_wait_for_lines_that_do_not_come() {
        let (reader, mut writer) = io::pipe().unwrap();
        let source = Source {
            reader: Box::new(BufReader::new(reader)),
            length: None,
        };
        let mut batches = batches(source, 100, None);
        io::Write::write_all(&mut writer, line(1).as_bytes()).unwrap();
        assert_eq!(batches.recv().await.unwrap().lines, [1]);
        io::Write::write_all(&mut writer, line(2).as_bytes()).unwrap();
        assert_eq!(batches.recv().await.unwrap().lines, [2]);
        drop(writer);
        assert!(batches.recv().await.is_none());
    }
}
