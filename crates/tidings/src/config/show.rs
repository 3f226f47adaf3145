//! What is in effect and why: `config show`.

use serde_json::{Map, json};
use toml::Value;

use super::error::Source;
use super::gather::{KEYS, Settings};
use super::key::{Class, Key};

/// What is shown instead of a secret.
pub(super) const MASK: &str = "********";

impl Settings {
    /// The effective settings as a table: key, value as TOML, source. Secrets are masked.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<[String; 3]> = KEYS
            .iter()
            .map(|key| {
                let setting = self.get(key.name);
                let value = match masked(key, &setting.value) {
                    Value::String(text) if text.is_empty() => "-".to_owned(),
                    value => value.to_string(),
                };
                [key.name.to_owned(), value, setting.source.to_string()]
            })
            .collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let (key_width, value_width) = (width(0), width(1).min(48));
        rows.iter()
            .fold(String::new(), |table, [key, value, source]| {
                table + &format!("{key:key_width$}  {value:value_width$}  {source}\n")
            })
    }

    /// The same as JSON: an object of `{"value", "source"}` by key; `null` where nothing is set. A source
    /// is `{"kind": "default" | "command" | "file" | "variable" | "flag"}`, with `path` and `line`, or `name`.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let settings: Map<String, serde_json::Value> = KEYS
            .iter()
            .map(|key| {
                let setting = self.get(key.name);
                let value = match masked(key, &setting.value) {
                    Value::String(text) if text.is_empty() => serde_json::Value::Null,
                    value => json!(value),
                };
                let shown = json!({"value": value, "source": source_json(&setting.source)});
                (key.name.to_owned(), shown)
            })
            .collect();
        settings.into()
    }
}

fn source_json(source: &Source) -> serde_json::Value {
    match source {
        Source::Default => json!({"kind": "default"}),
        Source::Command => json!({"kind": "command"}),
        Source::File { path, line } => {
            json!({"kind": "file", "path": path.to_string_lossy(), "line": line})
        }
        Source::Variable(name) => json!({"kind": "variable", "name": name.as_ref()}),
        Source::Flag => json!({"kind": "flag"}),
    }
}

/// The value with what is secret in it replaced; that nothing is set is no secret.
fn masked(key: &Key, value: &Value) -> Value {
    match value {
        Value::String(text) if key.secret() && !text.is_empty() => MASK.into(),
        _ if key.secret() => Value::String(String::new()),
        value if key.class == Class::Url => without_credentials(value),
        value => without_hashes(value),
    }
}

/// A URL with the user and password in it replaced. What can't be taken apart is cut generously.
pub(super) fn without_credentials(value: &Value) -> Value {
    let Some((text, (front, rest))) = value
        .as_str()
        .and_then(|text| Some((text, text.rsplit_once('@')?)))
    else {
        return value.clone();
    };
    let scheme = front
        .find("://")
        .map_or("", |end| text.get(..end + 3).unwrap_or_default());
    format!("{scheme}{MASK}@{rest}").into()
}

/// The hash of a weak secret can be reversed, so hashes are not shown either.
fn without_hashes(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(without_hashes).collect()),
        Value::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, value)| {
                    let value = if name == "secret_sha256" {
                        MASK.into()
                    } else {
                        without_hashes(value)
                    };
                    (name.clone(), value)
                })
                .collect(),
        ),
        value => value.clone(),
    }
}
