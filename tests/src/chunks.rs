//! The body of an answer that says `Transfer-Encoding: chunked` (RFC 9112, section 7.1), taken apart as it comes:
//! Tidings' own streams have none, those that come through a proxy do.

/// Takes the framing out of a chunked body that arrives in pieces of any size.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// Within the line that begins a chunk: what it says so far.
    Length(Vec<u8>),
    /// So many bytes of the chunk are still to come.
    Content(usize),
    /// So many bytes of the line end behind a chunk are still to come.
    Behind(usize),
    /// The chunk of no bytes has come.
    Ended,
}

impl Default for State {
    fn default() -> Self {
        Self::Length(Vec::new())
    }
}

impl Chunks {
    /// What of the content is in these bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        while let Some(&first) = bytes.first() {
            match &mut self.state {
                State::Length(line) => {
                    bytes = &bytes[1..];
                    if first == b'\n' {
                        let length = length_of(line);
                        self.state = if length == 0 {
                            State::Ended
                        } else {
                            State::Content(length)
                        };
                    } else {
                        line.push(first);
                    }
                }
                State::Content(left) => {
                    let taken = bytes.len().min(*left);
                    content.extend_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Behind(2);
                    }
                }
                State::Behind(left) => {
                    bytes = &bytes[1..];
                    *left -= 1;
                    if *left == 0 {
                        self.state = State::default();
                    }
                }
                State::Ended => break,
            }
        }
        content
    }

    /// Whether the body was ended and not cut off.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

/// The length in hexadecimal, before extensions and the end of the line.
fn length_of(line: &[u8]) -> usize {
    let text = std::str::from_utf8(line).expect("a chunk's length is text");
    let digits = text.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_the_same_whole_and_byte_by_byte() {
        let body = b"4\r\nabcd\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        let mut whole = Chunks::default();
        assert_eq!(whole.feed(body), b"abcd0123456789");
        assert!(whole.ended());
        let mut pieces = Chunks::default();
        let content: Vec<u8> = body.iter().flat_map(|&byte| pieces.feed(&[byte])).collect();
        assert_eq!(content, b"abcd0123456789");
        assert!(pieces.ended());
    }

    #[test]
    fn a_body_that_is_cut_off_has_not_ended() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.feed(b"5\r\nabc"), b"abc");
        assert!(!chunks.ended());
    }
}
