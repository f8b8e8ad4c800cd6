//! What is examined on a node, and what is found.

use async_trait::async_trait;

use crate::Result;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Fine,
    /// Good to know.
    Note,
    /// It was bad, and was put right.
    Fixed,
    /// It may become a problem.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Fixed => "fixed",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was examined: one word.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub message: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
    /// Whether it is put right when that is asked for.
    pub fixable: bool,
}

impl Finding {
    /// All is well.
    pub fn fine(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Fine,
            message: message.into(),
            remedy: String::new(),
            fixable: false,
        }
    }

    /// Good to know.
    pub fn note(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            level: Level::Note,
            ..Self::fine(check, message)
        }
    }

    /// It may become a problem; with what to do.
    pub fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            remedy: remedy.into(),
            ..Self::fine(check, message)
        }
    }

    /// Something does not work; with what to do.
    pub fn problem(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Problem,
            ..Self::warning(check, message, remedy)
        }
    }

    /// The same, as something that can be put right by itself.
    #[must_use]
    pub fn fixable(self) -> Self {
        Self {
            fixable: true,
            ..self
        }
    }

    /// The same, now that it was put right.
    #[must_use]
    pub fn fixed(self) -> Self {
        Self {
            level: Level::Fixed,
            remedy: String::new(),
            ..self
        }
    }
}

/// Examines a node.
#[async_trait]
pub trait Doctor: Send + Sync {
    /// Examines one thing after the other, and puts right what is safe to, if
    /// `fix`. Each finding is told to `tell`, which says whether to go on.
    ///
    /// # Errors
    /// When nothing could be examined.
    async fn examine(
        &self,
        fix: bool,
        tell: &(dyn Fn(Finding) -> bool + Send + Sync),
    ) -> Result<()>;
}
