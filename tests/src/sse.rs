//! A decoder of event streams, written from the WHATWG text ("9.2.6 Interpreting an event stream")
//! and from nothing of the server's. It also keeps what browsers throw away and the tests must see:
//! comments, `retry`, and whether a block had an `id` of its own.

/// One event, as a browser would dispatch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The `id` of this block, or none where it had none.
    pub id: Option<String>,
    /// What a browser would send as `Last-Event-ID` after this event.
    pub last_event_id: String,
    /// The event's name, `message` where the block had none.
    pub name: String,
    /// The data lines, joined by line feeds.
    pub data: String,
}

impl Event {
    /// The data as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The id, of an event that must have one.
    pub fn cursor(&self) -> &str {
        self.id
            .as_deref()
            .unwrap_or_else(|| panic!("an event without an id: {self:?}"))
    }
}

/// What a stream is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A complete event.
    Event(Event),
    /// A comment line, without its colon.
    Comment(String),
    /// A time to wait before coming back, in milliseconds.
    Retry(u64),
}

/// Takes bytes as they come and gives items.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    started: bool,
    after_carriage_return: bool,
    id: Option<String>,
    last_event_id: String,
    name: String,
    data: String,
}

impl Decoder {
    /// Takes more bytes; gives what they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        for &byte in bytes {
            let follows_carriage_return = std::mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    let line = std::mem::take(&mut self.line);
                    items.extend(self.interpret(&line));
                }
                _ => self.line.push(byte),
            }
        }
        items
    }

    fn interpret(&mut self, line: &[u8]) -> Option<Item> {
        let text = String::from_utf8_lossy(line);
        let mut text = text.as_ref();
        if !self.started {
            self.started = true;
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            return self.dispatch();
        }
        if let Some(comment) = text.strip_prefix(':') {
            return Some(Item::Comment(comment.to_owned()));
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                self.id = Some(value.to_owned());
                value.clone_into(&mut self.last_event_id);
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                return value.parse().ok().map(Item::Retry);
            }
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Item> {
        let id = self.id.take();
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // No data line, no event; the id stays.
        data.pop()?;
        Some(Item::Event(Event {
            id,
            last_event_id: self.last_event_id.clone(),
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, last: &str, name: &str, data: &str) -> Item {
        Item::Event(Event {
            id: id.map(str::to_owned),
            last_event_id: last.to_owned(),
            name: name.to_owned(),
            data: data.to_owned(),
        })
    }

    /// The examples of the standard's own text, each line ending in each of its three ways.
    #[test]
    fn the_standards_examples_read_as_it_says() {
        for ending in ["\n", "\r\n", "\r"] {
            let text =
                "\u{feff}: test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n\
                data:  third event\n\ndata\n\ndata\ndata\n\nretry: 10\nretry: 1x\ndata:\n"
                    .replace('\n', ending);
            let expected = [
                Item::Comment(" test stream".to_owned()),
                event(Some("1"), "1", "message", "first event"),
                event(Some(""), "", "message", "second event"),
                event(None, "", "message", " third event"),
                event(None, "", "message", ""),
                event(None, "", "message", "\n"),
                Item::Retry(10),
            ];
            assert_eq!(Decoder::default().feed(text.as_bytes()), expected);
            let mut decoder = Decoder::default();
            let one_by_one: Vec<Item> = text
                .bytes()
                .flat_map(|byte| decoder.feed(&[byte]))
                .collect();
            assert_eq!(one_by_one, expected);
        }
    }
}
