//! The files that TLS needs, read and checked.

use std::fs;
use std::path::Path;

use ::redis::{ClientTlsConfig, TlsCertificates};

use super::{Failure, Url};

/// The certificates that a URL names; none when it talks no TLS.
pub(super) fn certificates(url: &Url) -> Result<Option<TlsCertificates>, Failure> {
    if !url.tls {
        return Ok(None);
    }
    let client_tls = match (&url.cert, &url.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("certificate", cert)?,
            client_key: read("key", key)?,
        }),
        _ => None,
    };
    let root_cert = match &url.ca {
        Some(path) => Some(read("authorities", path)?),
        None => None,
    };
    Ok(Some(TlsCertificates {
        client_tls,
        root_cert,
    }))
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let refused = |why: String| {
        Failure::Refused(format!(
            "cannot use the {what} for redis in {}: {why}",
            path.display()
        ))
    };
    let bytes = fs::read(path).map_err(|error| refused(crate::text::io_error(&error)))?;
    if bytes.windows(11).any(|part| part == b"-----BEGIN ") {
        Ok(bytes)
    } else {
        Err(refused("it holds no PEM".into()))
    }
}
