//! The members of a JSON object whose text was checked already.
//!
//! An event's envelope is read by the JSON library, which checks all of its text, `data` included, and gives `data`
//! as a piece of text. To look into that piece with the library again would check it again: more than all the rest
//! of taking an event in. Here nothing is checked; it is only found where names and values begin and end (RFC 8259,
//! sections 2 to 7).

/// A member as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// What stands between the quotes of its name, escapes and all.
    pub(super) name: &'a str,
    /// Its name has escapes.
    pub(super) escaped: bool,
    pub(super) value: &'a str,
}

/// The members of an object. Ends early in a text that is no JSON after all.
pub(super) struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Members<'a> {
    /// The members of an object; `None` of any other value.
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let mut members = Self { text, at: 0 };
        members.skip_white();
        (members.advance()? == b'{').then_some(members)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn advance(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip_white(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes a string, whose first quote was passed; whether anything in it is escaped.
    ///
    /// Most are short, so they are looked through eight bytes at a time rather than by a search that would first
    /// have to be got ready.
    fn skip_string(&mut self) -> Option<bool> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        loop {
            while let Some(eight) = bytes.get(self.at..self.at + 8) {
                let word = u64::from_le_bytes(eight.try_into().ok()?);
                let found = with(word, b'"') | with(word, b'\\');
                if found != 0 {
                    self.at += found.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match self.advance()? {
                b'"' => return Some(escaped),
                b'\\' => {
                    escaped = true;
                    // What is escaped, be it a quote.
                    self.at += 1;
                }
                _ => {}
            }
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.advance()? {
                b'"' => {
                    self.skip_string()?;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                _ if depth > 0 => {}
                _ => {
                    // A number or a word.
                    while !matches!(
                        self.peek(),
                        None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
                    ) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn member(&mut self) -> Option<Member<'a>> {
        self.skip_white();
        if self.peek()? == b',' {
            self.at += 1;
            self.skip_white();
        }
        if self.advance()? != b'"' {
            return None;
        }
        let name_start = self.at;
        let escaped = self.skip_string()?;
        let name = self.text.get(name_start..self.at - 1)?;
        self.skip_white();
        if self.advance()? != b':' {
            return None;
        }
        self.skip_white();
        let value_start = self.at;
        self.skip_value()?;
        Some(Member {
            name,
            escaped,
            value: self.text.get(value_start..self.at)?,
        })
    }
}

/// The high bit of each byte of a word that is `byte`. Above the first that is, others can be set too.
const fn with(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let zero_where = word ^ (ONES * byte as u64);
    zero_where.wrapping_sub(ONES) & !zero_where & (ONES << 7)
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.member()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::ingest::json_text;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\\\\"{}\\[\\]:,\u{0}-\u{1f}é ]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map("[a-z\"\\\\\n{}]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// However an object is laid out, the parser finds the same members with the same texts.
        #[test]
        fn finds_what_the_parser_finds(
            object in proptest::collection::hash_map("[a-z\"\\\\\n{}é]{0,5}", any_json(), 0..6),
            pretty: bool,
            white in "[ \t\r\n]{0,3}",
        ) {
            let object = Value::Object(object.into_iter().collect());
            let text = if pretty {
                serde_json::to_string_pretty(&object).unwrap()
            } else {
                object.to_string()
            };
            let text = format!("{white}{text}{white}");
            let expected: HashMap<String, &RawValue> = serde_json::from_str(&text).unwrap();
            let found: Vec<_> = Members::of(&text).unwrap().collect();
            prop_assert_eq!(found.len(), expected.len());
            for Member { name, escaped, value } in found {
                prop_assert_eq!(escaped, name.contains('\\'));
                let name = json_text::read(&format!("\"{name}\"")).unwrap().into_owned();
                prop_assert_eq!(value, expected[&name].get());
            }
        }

        /// Nothing that could come here makes it panic or run on.
        #[test]
        fn ends_in_any_text(text in "[\\\\\"{}\\[\\]:,a1é ]{0,24}") {
            prop_assert!(Members::of(&text).into_iter().flatten().count() <= text.len());
        }
    }

    #[test]
    fn every_kind_of_value_is_found_between_its_neighbours() {
        let text =
            r#" {"a":-1.5e3 ,"a":"\\\"}","b" : [1,{"x":"]"},[]],"c":null,"":{"d":{}},"e":true}"#;
        let members = Members::of(text).unwrap();
        let found: Vec<_> = members.map(|member| (member.name, member.value)).collect();
        assert_eq!(
            found,
            [
                ("a", "-1.5e3"),
                ("a", r#""\\\"}""#),
                ("b", r#"[1,{"x":"]"},[]]"#),
                ("c", "null"),
                ("", r#"{"d":{}}"#),
                ("e", "true"),
            ]
        );
        assert_eq!(Members::of("{ }").unwrap().count(), 0);
        for text in ["[]", "null", "\"{}\"", "7", ""] {
            assert!(Members::of(text).is_none(), "{text}");
        }
    }
}
