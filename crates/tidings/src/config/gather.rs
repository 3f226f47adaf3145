//! From defaults, file, variables and flags to one effective value for each key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use super::error::{ConfigError, ConfigErrors, Source};
use super::key::{Class, Key};
use super::{CONFIG_VARIABLE, Config};

/// What every variable of a setting begins with.
const VARIABLE_PREFIX: &str = "TIDINGS_";

/// Variables that begin like settings but are read by the command line instead: the configuration file,
/// and the server and credentials of the commands that are clients.
pub const NOT_SETTINGS: &[&str] = &[
    CONFIG_VARIABLE,
    "TIDINGS_CA_FILE",
    "TIDINGS_TENANT",
    "TIDINGS_TOKEN",
    "TIDINGS_URL",
];

/// All keys, in the order of their declaration.
pub(super) static KEYS: LazyLock<Vec<&'static Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    Config::keys(&mut keys);
    keys
});

/// Marks values that are forgotten. Its keys are drawn anew by each process, so that a mark says nothing of a value.
static MARKING: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// An effective value, not yet validated.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) source: Source,
}

/// The effective value of each key and where it came from, before validation.
///
/// Its `Debug` output names the sources only, since values can be secret.
#[derive(Clone)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// Lines of the file by path, also of what lies within a value, such as `auth.publishers[1].tenants`.
    lines: BTreeMap<String, usize>,
    /// Of values that are forgotten, by which they are told from others.
    marks: BTreeMap<&'static str, u64>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_map()
            .entries(
                self.values
                    .iter()
                    .map(|(name, setting)| (name, &setting.source)),
            )
            .finish()
    }
}

impl Settings {
    /// Lays the sources over each other, lowest first. `file` is a path and the text read from it.
    ///
    /// # Errors
    /// The file is no TOML; keys that do not exist, each with the nearest that does.
    pub fn gather(
        fallbacks: &[(String, String)],
        file: Option<(&Path, &str)>,
        variables: &[(OsString, OsString)],
        flags: &[(String, String)],
    ) -> Result<Self, ConfigErrors> {
        let defaults = KEYS.iter().map(|key| {
            let value = text_value(key.class, key.default);
            (
                key.name,
                Setting {
                    value,
                    source: Source::Default,
                },
            )
        });
        let mut gathering = Gathering {
            settings: Self {
                values: defaults.collect(),
                lines: BTreeMap::new(),
                marks: BTreeMap::new(),
            },
            errors: Vec::new(),
        };
        for (name, text) in fallbacks {
            gathering.set_text(name, text, &Source::Command);
        }
        if let Some((path, text)) = file {
            gathering.set_file(path, text)?;
        }
        gathering.set_variables(variables);
        for (name, text) in flags {
            gathering.set_text(name, text, &Source::Flag);
        }
        if gathering.errors.is_empty() {
            Ok(gathering.settings)
        } else {
            Err(ConfigErrors::new(gathering.errors))
        }
    }

    /// Where the effective value of a key came from; `None` for a key that does not exist.
    #[must_use]
    pub fn source(&self, key: &str) -> Option<&Source> {
        self.values.get(key).map(|setting| &setting.source)
    }

    /// The setting of a declared key.
    pub(super) fn get(&self, name: &'static str) -> &Setting {
        self.values
            .get(name)
            .expect("every declared key has at least its default")
    }

    /// Puts a mask in the place of each secret. What remains is for showing only, and a server holds it as
    /// long as it runs.
    pub(super) fn forget_secrets(&mut self) {
        let hidden = |key: &&&Key| key.secret() || key.class == Class::Url;
        for key in KEYS.iter().filter(hidden) {
            let mark = MARKING.hash_one(self.get(key.name).value.to_string());
            self.marks.insert(key.name, mark);
        }
        for key in KEYS.iter().filter(|key| key.secret()) {
            if let Some(setting) = self.values.get_mut(key.name)
                && setting.value.as_str() != Some("")
            {
                setting.value = super::show::MASK.into();
            }
        }
        for key in KEYS.iter().filter(|key| key.class == Class::Url) {
            if let Some(setting) = self.values.get_mut(key.name) {
                setting.value = super::show::without_credentials(&setting.value);
            }
        }
    }

    /// The keys that have another value in `other`, secrets among them.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<&'static Key> {
        let is_changed = |key: &&'static Key| {
            self.get(key.name).value != other.get(key.name).value
                || self.marks.get(key.name) != other.marks.get(key.name)
        };
        KEYS.iter().copied().filter(is_changed).collect()
    }

    /// Adds to an error what is known about where its key was set, to the line.
    #[must_use]
    pub fn locate(&self, mut error: ConfigError) -> ConfigError {
        let name = declared(&error.key);
        if error.source.is_none() {
            error.source = self
                .source(name)
                .filter(|source| **source != Source::Default)
                .cloned();
        }
        if let Some(Source::File { line, .. }) = &mut error.source {
            // What is missing has no line, but what it is missing in has one.
            let mut path = error.key.as_str();
            while path.len() > name.len() && !self.lines.contains_key(path) {
                path = &path[..path.rfind(['.', '[']).unwrap_or(0)];
            }
            *line = self.lines.get(path).copied().unwrap_or(*line);
        }
        error
    }
}

struct Gathering {
    settings: Settings,
    errors: Vec<ConfigError>,
}

impl Gathering {
    fn set_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigErrors> {
        // The parser's own rendering of an error quotes the line, which may hold a secret.
        let refuse = |error: &toml::de::Error| {
            let line = error.span().map(|span| line_of(text, span.start));
            ConfigErrors::from(ConfigError::file(
                path,
                line,
                format!("this is not TOML: {}", error.message()),
            ))
        };
        let spans = DeTable::parse(text).map_err(|error| refuse(&error))?;
        let table: Table = toml::from_str(text).map_err(|error| refuse(&error))?;
        let mut lines = BTreeMap::new();
        table_lines("", spans.get_ref(), text, &mut lines);
        let path: Arc<Path> = path.into();
        self.set_table("", table, &|key| Source::File {
            path: Arc::clone(&path),
            line: lines.get(key).copied().unwrap_or(1),
        });
        self.settings.lines = lines;
        Ok(())
    }

    fn set_variables(&mut self, variables: &[(OsString, OsString)]) {
        let mut named: Vec<_> = variables
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX) && !NOT_SETTINGS.contains(name))
            .collect();
        // The environment has no order; errors should.
        named.sort_unstable();
        for (variable, value) in named {
            let name = variable[VARIABLE_PREFIX.len()..]
                .replace("__", ".")
                .to_lowercase();
            let source = Source::Variable(variable.into());
            match value.to_str() {
                Some(text) => self.set_text(&name, text, &source),
                None => self.errors.push(ConfigError {
                    source: Some(source),
                    ..ConfigError::new(name, "the value is not UTF-8 text")
                }),
            }
        }
    }

    /// Sets a key, or with a TOML table a whole section, from a variable's or flag's text.
    fn set_text(&mut self, name: &str, text: &str, source: &Source) {
        if let Some(key) = key(name) {
            let value = text_value(key.class, text);
            self.set(key, value, source.clone());
        } else if is_section(name) {
            match parse_value(text) {
                Some(Value::Table(table)) => self.set_table(name, table, &|_| source.clone()),
                _ => self.errors.push(not_a_value(name, source.clone())),
            }
        } else {
            self.errors.push(unknown(name, source.clone()));
        }
    }

    /// Sets all that a table holds; `section` is its path, empty at the root.
    fn set_table(&mut self, section: &str, table: Table, source: &dyn Fn(&str) -> Source) {
        for (name, value) in table {
            let path = join(section, &name);
            if let Some(key) = key(&path) {
                self.set(key, value, source(&path));
            } else if is_section(&path) {
                match value {
                    Value::Table(table) => self.set_table(&path, table, source),
                    _ => self.errors.push(not_a_value(&path, source(&path))),
                }
            } else {
                self.errors.push(unknown(&path, source(&path)));
            }
        }
    }

    fn set(&mut self, key: &Key, value: Value, source: Source) {
        self.settings
            .values
            .insert(key.name, Setting { value, source });
    }
}

fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().copied().find(|key| key.name == name)
}

/// The declared key that a path lies in; the path as far as its first bracket where there is none.
fn declared(path: &str) -> &str {
    let within = |key: &&Key| {
        path.strip_prefix(key.name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match KEYS.iter().copied().find(within) {
        Some(key) => key.name,
        None => path.split('[').next().unwrap_or_default(),
    }
}

/// Whether `name` is a section, so the beginning of keys.
fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() {
        name.to_owned()
    } else {
        format!("{section}.{name}")
    }
}

/// What a text given for a key of this class means.
pub(super) fn text_value(class: Class, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match class {
        Class::Secret => as_text(),
        Class::Text | Class::Url => match parse_value(text) {
            Some(quoted @ Value::String(_)) => quoted,
            _ => as_text(),
        },
        Class::Value => parse_value(text).unwrap_or_else(as_text),
        Class::List => match parse_value(text) {
            Some(list @ Value::Array(_)) => list,
            _ => Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(item.to_owned()))
                    .collect(),
            ),
        },
    }
}

fn parse_value(text: &str) -> Option<Value> {
    Value::deserialize(ValueDeserializer::parse(text).ok()?).ok()
}

fn not_a_value(section: &str, source: Source) -> ConfigError {
    ConfigError {
        source: Some(source),
        ..ConfigError::new(
            section,
            format!(
                "this is a section; set the keys in it, such as {}",
                nearest(section).name
            ),
        )
    }
}

fn unknown(name: &str, source: Source) -> ConfigError {
    let nearest = nearest(name);
    let suggestion = match source {
        Source::Variable(_) => nearest.variable(),
        _ => nearest.name.to_owned(),
    };
    ConfigError {
        source: Some(source),
        ..ConfigError::new(
            name,
            format!("there is no such key; did you mean {suggestion}?"),
        )
    }
}

/// The key that is most like `name`: as a whole, or by its last part where the section is wrong.
fn nearest(name: &str) -> &'static Key {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let name_last = last(name);
    KEYS.iter()
        .copied()
        .min_by_key(|key| {
            let whole = strsim::damerau_levenshtein(name, key.name);
            let part = 1 + strsim::damerau_levenshtein(&name_last, &last(key.name));
            (whole.min(part), whole)
        })
        .expect("there are keys")
}

fn table_lines(
    section: &str,
    table: &DeTable<'_>,
    text: &str,
    lines: &mut BTreeMap<String, usize>,
) {
    for (name, value) in table {
        let path = join(section, name.get_ref());
        lines.insert(path.clone(), line_of(text, name.span().start));
        value_lines(&path, value, text, lines);
    }
}

fn value_lines(
    path: &str,
    value: &Spanned<DeValue<'_>>,
    text: &str,
    lines: &mut BTreeMap<String, usize>,
) {
    match value.get_ref() {
        DeValue::Table(table) => table_lines(path, table, text, lines),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                lines.insert(path.clone(), line_of(text, item.span().start));
                value_lines(&path, item, text, lines);
            }
        }
        _ => {}
    }
}

/// The line, from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .char_indices()
        .take_while(|(index, _)| *index < offset)
        .filter(|(_, character)| *character == '\n')
        .count()
}
