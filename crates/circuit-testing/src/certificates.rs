//! Certificates for servers that talk TLS.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes an authority, `ca.pem`, and certificates of it for that host:
/// `server.pem` and `client.pem`, with their keys in `server.key` and `client.key`.
pub fn certificates(folder: &Path, host: &str) {
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).expect("a file in the folder");
    };
    let authority = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let certificate = params.self_signed(&authority).expect("a certificate");
    write("ca.pem", certificate.pem());
    let issuer = Issuer::new(params, authority);
    for name in ["server", "client"] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        // OpenSSL takes two of one name for one.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        write(&format!("{name}.pem"), certificate.pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}
