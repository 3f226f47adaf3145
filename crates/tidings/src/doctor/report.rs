//! What is found.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Good,
    /// It works, and will not always, or not for everybody.
    Warning,
    /// It does not work, or is open to whom it should not be.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word: `disk`, `redis`, `buffering`.
    pub check: &'static str,
    /// How bad it is.
    pub weight: Weight,
    /// What was found.
    pub what: String,
    /// What to do, where something should be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn good(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            weight: Weight::Good,
            what: what.into(),
            advice: None,
        }
    }

    /// Something to be done some day.
    #[must_use]
    pub fn warning(
        check: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            weight: Weight::Warning,
            what: what.into(),
            advice: Some(advice.into()),
        }
    }

    /// Something to be done now.
    #[must_use]
    pub fn problem(
        check: &'static str,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            weight: Weight::Problem,
            what: what.into(),
            advice: Some(advice.into()),
        }
    }
}
