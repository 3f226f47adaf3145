//! An input taken apart into the parts that a parser is given.

/// Splits an input at its first `\0`, `parts - 1` times; parts that are missing are empty. A corpus
/// that is separated so can be read, and written by hand.
#[must_use]
pub fn split<const PARTS: usize>(input: &[u8]) -> [&[u8]; PARTS] {
    let mut parts = [&[][..]; PARTS];
    let mut pieces = input.splitn(PARTS, |&byte| byte == 0);
    for part in &mut parts {
        *part = pieces.next().unwrap_or_default();
    }
    parts
}

/// The part as text; `None` where it is no UTF-8, which no caller of such a parser would hand on.
#[must_use]
pub fn text(part: &[u8]) -> Option<&str> {
    std::str::from_utf8(part).ok()
}
