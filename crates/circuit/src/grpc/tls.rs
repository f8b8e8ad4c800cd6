//! The server's side of TLS: its certificate, and whose clients it accepts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use circuit_core::{Error, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::text;

/// The PEM files of a server, as the flags name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tls-server-cert`.
    pub cert: Option<PathBuf>,
    /// `--tls-server-key`.
    pub key: Option<PathBuf>,
    /// `--tls-client-ca`.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files; `None` when there are none.
    ///
    /// # Errors
    /// When one of them is missing, unreadable, or not what it should be.
    pub fn load(&self) -> Result<Option<Arc<ServerConfig>>> {
        let (cert, key) = match (&self.cert, &self.key, &self.client_ca) {
            (Some(cert), Some(key), _) => (cert, key),
            (None, None, None) => return Ok(None),
            (Some(_), None, _) => {
                return Err(Error::invalid(
                    "--tls-server-cert needs --tls-server-key too",
                ));
            }
            (None, Some(_), _) => {
                return Err(Error::invalid(
                    "--tls-server-key needs --tls-server-cert too",
                ));
            }
            (None, None, Some(_)) => {
                return Err(Error::invalid(
                    "--tls-client-ca needs --tls-server-cert and --tls-server-key too",
                ));
            }
        };
        self.config(cert, key).map(|config| Some(Arc::new(config)))
    }

    fn config(&self, cert: &Path, key: &Path) -> Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::internal(format!("cannot set up tls: {e}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| {
                    Error::invalid(format!("--tls-client-ca {}: {e}", path.display()))
                })?)
            }
        };
        let chain = certificates("--tls-server-cert", cert)?;
        let mut config = builder
            .with_single_cert(chain, private_key("--tls-server-key", key)?)
            .map_err(|e| {
                let (cert, key) = (cert.display(), key.display());
                Error::invalid(format!("{cert} and {key} do not belong together: {e}"))
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--tls-client-ca", path)? {
        roots
            .add(certificate)
            .map_err(|e| Error::invalid(format!("--tls-client-ca {}: {e}", path.display())))?;
    }
    Ok(roots)
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(flag, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(flag, path, "it holds no pem certificate")),
        Err(e) => Err(wrong(flag, path, format!("it is no pem file: {e}"))),
    }
}

fn private_key(flag: &str, path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(flag, path)?)
        .map_err(|e| wrong(flag, path, format!("it holds no pem private key: {e}")))
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        wrong(
            flag,
            path,
            format!("cannot read it: {}", text::io_error(&e)),
        )
    })
}

fn wrong(flag: &str, path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{flag} {}: {reason}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> Option<PathBuf> {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    }

    #[test]
    fn half_a_pair_is_refused() {
        let some = || Some(PathBuf::from("/x"));
        for (cert, key, client_ca, part) in [
            (some(), None, None, "needs --tls-server-key"),
            (None, some(), some(), "needs --tls-server-cert"),
            (
                None,
                None,
                some(),
                "needs --tls-server-cert and --tls-server-key",
            ),
            (
                some(),
                some(),
                None,
                "--tls-server-cert /x: cannot read it: no such file",
            ),
        ] {
            let error = TlsFiles {
                cert,
                key,
                client_ca,
            }
            .load()
            .unwrap_err()
            .to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(TlsFiles::default().load().unwrap().is_none());
    }

    #[test]
    fn wrong_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = write(dir.path(), "cert.pem", &made.cert.pem());
        let key = write(dir.path(), "key.pem", &made.signing_key.serialize_pem());
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other_key = write(dir.path(), "other.pem", &other.signing_key.serialize_pem());
        let junk = write(dir.path(), "junk.pem", "junk");

        let load = |cert: &Option<PathBuf>, key: &Option<PathBuf>, ca: &Option<PathBuf>| {
            let files = TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: ca.clone(),
            };
            files
                .load()
                .map(|config| config.is_some())
                .map_err(|e| e.to_string())
        };
        assert_eq!(load(&cert, &key, &None), Ok(true));
        assert_eq!(load(&cert, &key, &cert), Ok(true));
        assert!(
            load(&junk, &key, &None)
                .unwrap_err()
                .contains("junk.pem: it holds no pem cert")
        );
        assert!(
            load(&cert, &junk, &None)
                .unwrap_err()
                .contains("it holds no pem private key")
        );
        assert!(
            load(&cert, &key, &junk)
                .unwrap_err()
                .contains("--tls-client-ca")
        );
        assert!(
            load(&cert, &other_key, &None)
                .unwrap_err()
                .contains("do not belong together")
        );
    }
}
