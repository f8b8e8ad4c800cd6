//! The error every service of Circuit returns: what kind it is, and a text
//! that names the thing and the remedy.

use std::fmt;

/// What kind of failure an [`Error`] is; each maps to one gRPC status code and
/// tells a caller whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The request is right, the state of the system is not.
    FailedPrecondition,
    /// Something this needs does not answer; trying again may help.
    Unavailable,
    /// Something this needs did not answer in time.
    DeadlineExceeded,
    /// Anything else: a defect, or an answer nobody foresaw.
    Internal,
}

/// A failure, with a lower-case text and no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// The result of every service.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructor {
    ($name:ident, $kind:ident) => {
        #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    };
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    constructor!(not_found, NotFound);
    constructor!(already_exists, AlreadyExists);
    constructor!(invalid, InvalidArgument);
    constructor!(precondition, FailedPrecondition);
    constructor!(unavailable, Unavailable);
    constructor!(deadline, DeadlineExceeded);
    constructor!(internal, Internal);

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error with words in front that say what was being done.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self {
            kind: self.kind,
            message: format!("{what}: {}", self.message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
