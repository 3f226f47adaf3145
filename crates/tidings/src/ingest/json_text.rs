//! JSON strings (RFC 8259, section 7) of values that were checked already.

use std::borrow::Cow;

/// The text of a JSON string, borrowed where it has no escape; `None` where the value is no string.
#[must_use]
pub fn read(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    // Nearly all names and ids are plain, and asking the parser again costs more than all else here.
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(value).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a text is written, what is read is what the parser reads.
        #[test]
        fn reads_what_the_parser_reads(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let found = read(&json);
            prop_assert_eq!(found.as_deref(), Some(text.as_str()));
        }
    }

    #[test]
    fn escapes_are_resolved_and_other_values_are_no_text() {
        let read = |json: &str| read(json).map(Cow::into_owned);
        assert_eq!(read(r#""a\u0062""#).as_deref(), Some("ab"));
        assert_eq!(read(r#""\"""#).as_deref(), Some("\""));
        for json in ["1", "null", "{}", "[\"a\"]", "true"] {
            assert_eq!(read(json), None, "{json}");
        }
        assert_eq!(read(r#""\ud800""#), None, "half of a surrogate pair");
    }
}
