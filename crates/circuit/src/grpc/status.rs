//! The one place that says which status code an error is.

use circuit_core::{Error, ErrorKind};
use tonic::{Code, Status};

/// The longest text put into a status: it travels as a header, clients bound
/// those, and escaping can triple it.
const MAX_MESSAGE: usize = 4096;

/// The status code of a kind of error.
#[must_use]
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status that tells a client about an error.
#[must_use]
pub fn status(error: &Error) -> Status {
    Status::new(code(error.kind()), shorten(error.message()))
}

fn shorten(message: &str) -> String {
    if message.len() <= MAX_MESSAGE {
        return message.to_owned();
    }
    format!("{} …", &message[..message.floor_char_boundary(MAX_MESSAGE)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_text() {
        let status = status(&Error::not_found("network a does not exist"));
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "network a does not exist")
        );
    }

    #[test]
    fn endless_texts_are_cut_between_characters() {
        let status = status(&Error::internal("é".repeat(5000)));
        assert_eq!(status.message().chars().count(), MAX_MESSAGE / 2 + 2);
    }
}
