//! Keys: what the declarations in `model.rs` turn into.

use toml::Value;

use super::error::{ConfigError, Source};
use super::gather::Settings;
use super::show::without_credentials;

/// How the text of a variable, a flag or a default becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The text itself, whatever it looks like; never shown.
    Secret,
    /// The text itself, unless it is a TOML string in quotes; shown without the user and password in it.
    Url,
    /// The text itself, unless it is a TOML string in quotes.
    Text,
    /// A TOML value where it parses as one, otherwise the text itself.
    Value,
    /// Like [`Class::Value`], and text is a list whose items commas separate.
    List,
}

/// A kind of value: how it is described, and how a TOML value becomes one.
pub(super) struct Kind<T: 'static> {
    /// What a reader of the reference is told about it, such as `duration`.
    pub(super) name: &'static str,
    pub(super) class: Class,
    /// The error says what is wrong and what would do; it must not quote the value of a secret.
    pub(super) read: fn(&Value) -> Result<T, Fault>,
}

/// A value that won't do: where within it, and why.
pub(super) struct Fault {
    /// What to append to the key, such as `[1].tenants`; usually empty.
    pub(super) within: String,
    pub(super) problem: String,
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self {
            within: String::new(),
            problem,
        }
    }
}

impl From<&str> for Fault {
    fn from(problem: &str) -> Self {
        problem.to_owned().into()
    }
}

/// One setting that can be made.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its dotted name, such as `stream.heartbeat`.
    pub name: &'static str,
    /// What kind of value it takes, such as `duration`.
    pub kind: &'static str,
    /// The text of its default, as a variable would hold it; empty for none.
    pub default: &'static str,
    /// Whether a reload applies it; otherwise it holds for the life of the process.
    pub live: bool,
    /// What it is for: the lines of its doc comment, each with the space that follows `///`.
    pub(super) doc: &'static [&'static str],
    /// What its section is about, likewise.
    pub(super) section_doc: &'static [&'static str],
    pub(super) class: Class,
}

impl Key {
    /// Whether its value must never be shown.
    #[must_use]
    pub fn secret(&self) -> bool {
        self.class == Class::Secret
    }

    /// What it is for, in Markdown.
    #[must_use]
    pub fn documentation(&self) -> String {
        joined(self.doc)
    }

    /// What its section is about, in Markdown.
    #[must_use]
    pub fn section_documentation(&self) -> String {
        joined(self.section_doc)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TIDINGS_{}", self.name.replace('.', "__").to_uppercase())
    }
}

fn joined(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// Reads typed values out of settings and gathers what is wrong with them.
pub(super) struct Reader<'settings> {
    settings: &'settings Settings,
    errors: Vec<ConfigError>,
}

impl<'settings> Reader<'settings> {
    pub(super) fn new(settings: &'settings Settings) -> Self {
        Self {
            settings,
            errors: Vec::new(),
        }
    }

    /// The value of `name`, or `None` and an error more.
    pub(super) fn read<T>(&mut self, name: &'static str, kind: &Kind<T>) -> Option<T> {
        let setting = self.settings.get(name);
        match (kind.read)(&setting.value) {
            Ok(value) => Some(value),
            Err(fault) => {
                let shown = kind.class != Class::Secret && fault.within.is_empty();
                self.errors.push(ConfigError {
                    key: format!("{name}{}", fault.within),
                    value: shown.then(|| match kind.class {
                        Class::Url => without_credentials(&setting.value).to_string(),
                        _ => setting.value.to_string(),
                    }),
                    source: Some(setting.source.clone())
                        .filter(|source| *source != Source::Default),
                    problem: fault.problem,
                });
                None
            }
        }
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }
}

/// Declares a section of the configuration: the struct, its keys and how they are read, from one text.
///
/// A field is `name: Type = KIND, "default"`; with `, live` behind it a reload applies it. Fields after `sections` are
/// sections themselves.
macro_rules! section {
    (@is_live) => { false };
    (@is_live live) => { true };
    (
        $(#[doc = $section_doc:literal])+
        $name:ident in $prefix:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident : $type:ty = $kind:expr, $default:literal $(, $live:ident)?;
            )*
        }
        $(sections {
            $(
                $(#[$section_attribute:meta])+
                $section:ident : $section_type:ty;
            )*
        })?
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                pub $field: $type,
            )*
            $($(
                $(#[$section_attribute])+
                pub $section: $section_type,
            )*)?
        }

        impl $name {
            const DOC: &'static [&'static str] = &[$($section_doc),+];

            const KEYS: &'static [$crate::config::Key] = &[$(
                $crate::config::Key {
                    name: concat!($prefix, stringify!($field)),
                    kind: $kind.name,
                    default: $default,
                    live: $crate::config::key::section!(@is_live $($live)?),
                    doc: &[$($doc),+],
                    section_doc: Self::DOC,
                    class: $kind.class,
                },
            )*];

            /// Appends this section's keys, in the order of their declaration.
            pub(in $crate::config) fn keys(all: &mut Vec<&'static $crate::config::Key>) {
                all.extend(Self::KEYS);
                $($(<$section_type>::keys(all);)*)?
            }

            /// Takes over from what runs the values that hold for the life of the process.
            pub(in $crate::config) fn keep_fixed_keys(&mut self, running: &Self) {
                $(
                    if !$crate::config::key::section!(@is_live $($live)?) {
                        self.$field.clone_from(&running.$field);
                    }
                )*
                $($(self.$section.keep_fixed_keys(&running.$section);)*)?
            }

            /// Reads every key before it gives up, so that all errors are told at once.
            pub(in $crate::config) fn read(reader: &mut $crate::config::key::Reader<'_>) -> Option<Self> {
                $(let $field = reader.read(concat!($prefix, stringify!($field)), &$kind);)*
                $($(let $section = <$section_type>::read(reader);)*)?
                Some(Self {
                    $($field: $field?,)*
                    $($($section: $section?,)*)?
                })
            }
        }
    };
}
pub(super) use section;
