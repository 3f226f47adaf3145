//! What can be wrong with a configuration, told so that it can be mended at once.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// The command that runs prefers this to the built-in default.
    Command,
    /// A line of the configuration file, from 1.
    File {
        /// The file as it was named.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(Arc<str>),
    /// A command line flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::Command => formatter.write_str("command"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Variable(name) => formatter.write_str(name),
            Self::Flag => formatter.write_str("flag"),
        }
    }
}

/// One thing that is wrong with a configuration. It never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, such as `stream.heartbeat` or `auth.publishers[0].tenants`; empty where a whole file is at fault.
    pub key: String,
    /// The value as TOML text; `None` where there is none or it is secret.
    pub value: Option<String>,
    /// Where the value came from, where that is known.
    pub source: Option<Source>,
    /// What is wrong and what would do, a sentence without its full stop.
    pub problem: String,
}

impl ConfigError {
    /// An error about a key whose value and source are not at hand.
    #[must_use]
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
            source: None,
            problem: problem.into(),
        }
    }

    /// An error about a file as a whole or, with `line` (from 1), about its syntax there.
    pub(super) fn file(path: &Path, line: Option<usize>, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        match line {
            Some(line) => Self {
                source: Some(Source::File {
                    path: path.into(),
                    line,
                }),
                ..Self::new("", problem)
            },
            None => Self::new("", format!("{}: {problem}", path.display())),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(formatter, " = {value}")?;
        }
        match &self.source {
            Some(source) if self.key.is_empty() => write!(formatter, "{source}: ")?,
            Some(source) => write!(formatter, " ({source}): ")?,
            None if self.key.is_empty() => {}
            None => formatter.write_str(": ")?,
        }
        formatter.write_str(&self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// All that is wrong with a configuration, at least one thing; displayed one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Collects errors; `errors` is not empty.
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        debug_assert!(!errors.is_empty());
        Self(errors)
    }

    /// The errors, in the order in which they were found.
    #[must_use]
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            error.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
