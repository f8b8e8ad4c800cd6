//! What a plugin says when it fails, and which versions it says it speaks.

use serde_json::Value;

use super::CniVersion;
use crate::{Error, ErrorKind, Result};

/// Error codes that the CNI specification gives a meaning.
pub mod code {
    /// The plugin does not speak the list's version.
    pub const INCOMPATIBLE_VERSION: u64 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u64 = 2;
    /// The container is not known: nothing of it needs cleaning up.
    pub const UNKNOWN_CONTAINER: u64 = 3;
    /// An environment variable is wrong.
    pub const INVALID_ENVIRONMENT: u64 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u64 = 5;
    /// The configuration could not be decoded.
    pub const DECODING_FAILURE: u64 = 6;
    /// The configuration is wrong.
    pub const INVALID_CONFIG: u64 = 7;
    /// A passing condition: try again later.
    pub const TRY_AGAIN_LATER: u64 = 11;
    /// What no other code says; from 100 on, codes are the plugin's own.
    pub const OTHER: u64 = 999;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u64 = 50;
    /// STATUS: as 50, and containers already attached may be cut off.
    pub const LIMITED_CONNECTIVITY: u64 = 51;
}

/// The error object that a failing plugin writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReport {
    /// The code; under 100 the specification gives it its meaning.
    pub code: u64,
    /// The short text.
    pub msg: String,
    /// The long text, empty when there is none.
    pub details: String,
}

impl ErrorReport {
    /// A report without details.
    pub fn new(code: u64, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same report with words in front that say what was being done.
    #[must_use]
    pub fn context(self, what: impl std::fmt::Display) -> Self {
        Self {
            msg: format!("{what}: {}", self.msg),
            ..self
        }
    }

    /// The error object, as a plugin writes it.
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut object = serde_json::Map::new();
        object.insert("cniVersion".to_owned(), version.as_str().into());
        object.insert("code".to_owned(), self.code.into());
        object.insert("msg".to_owned(), self.msg.as_str().into());
        if !self.details.is_empty() {
            object.insert("details".to_owned(), self.details.as_str().into());
        }
        object.into()
    }

    /// Reads an error object out of what a plugin wrote; `None` when this is
    /// something else.
    pub fn parse(stdout: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(stdout).ok()?;
        let text = |key: &str| match value.get(key) {
            Some(Value::String(text)) => text.trim().to_owned(),
            _ => String::new(),
        };
        let report = Self {
            code: value.get("code")?.as_u64()?,
            msg: text("msg"),
            details: text("details"),
        };
        Some(report)
    }

    /// The kind of error this is to a caller.
    pub fn kind(&self) -> ErrorKind {
        match self.code {
            code::TRY_AGAIN_LATER | code::NOT_AVAILABLE | code::LIMITED_CONNECTIVITY => {
                ErrorKind::Unavailable
            }
            code::INCOMPATIBLE_VERSION | code::UNSUPPORTED_FIELD | code::INVALID_CONFIG => {
                ErrorKind::FailedPrecondition
            }
            _ => ErrorKind::Internal,
        }
    }

    /// Whether a failed ADD with this report must be followed by a DEL.
    pub fn owes_cleanup(&self) -> bool {
        self.code != code::UNKNOWN_CONTAINER
    }

    /// The words of the report: text, details and code.
    pub fn text(&self) -> String {
        let mut text = match (self.msg.as_str(), self.details.as_str()) {
            ("", "") => "no reason given".to_owned(),
            ("", only) | (only, "") => only.to_owned(),
            (msg, details) => format!("{msg}: {details}"),
        };
        text.push_str(&format!(" (code {})", self.code));
        text
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::FailedPrecondition => code::INVALID_CONFIG,
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => code::TRY_AGAIN_LATER,
            ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Internal => code::OTHER,
        };
        Self::new(code, error.message())
    }
}

/// Reads the answer to VERSION: the versions known here that the plugin
/// speaks.
///
/// # Errors
/// When this is no answer to VERSION.
pub fn supported_versions(stdout: &[u8]) -> Result<Vec<CniVersion>> {
    let value: Value = serde_json::from_slice(stdout)
        .map_err(|e| Error::precondition(format!("answer to VERSION is not json: {e}")))?;
    let Some(versions) = value.get("supportedVersions").and_then(Value::as_array) else {
        return Err(Error::precondition(
            "answer to VERSION has no supportedVersions",
        ));
    };
    Ok(versions
        .iter()
        .filter_map(|version| version.as_str()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_report_is_read() {
        let report = ErrorReport::parse(
            br#"{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"lease held"}"#,
        )
        .unwrap();
        assert_eq!(report.text(), "busy: lease held (code 11)");
        assert_eq!(report.kind(), ErrorKind::Unavailable);
        assert!(report.owes_cleanup());
        let gone = ErrorReport::parse(br#"{"code":3,"msg":""}"#).unwrap();
        assert!(!gone.owes_cleanup());
        assert_eq!(gone.text(), "no reason given (code 3)");
        assert_eq!(ErrorReport::parse(b"{\"ips\":[]}"), None);
        assert_eq!(ErrorReport::parse(b"oops"), None);
    }

    #[test]
    fn supported_versions_pass_over_unknown_ones() {
        let stdout = br#"{"cniVersion":"1.0.0","supportedVersions":["0.4.0","3.0.0","1.0.0"]}"#;
        assert_eq!(
            supported_versions(stdout).unwrap(),
            [CniVersion::V0_4_0, CniVersion::V1_0_0]
        );
        assert!(supported_versions(b"{}").is_err());
    }
}
