//! TLS between commands and the server.

use std::path::{Path, PathBuf};

use circuit::grpc::{Security, tls::TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::fake::Server;
use crate::run;

/// Authorities and certificates in a folder.
struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for authority in ["ca", "other-ca"] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(DnType::CommonName, authority);
            let key = KeyPair::generate().unwrap();
            pki.write(authority, &params.self_signed(&key).unwrap().pem(), &key);
            let issuer = Issuer::new(params, key);
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            let params = CertificateParams::new(names).unwrap();
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &issuer).unwrap();
            pki.write(&format!("{authority}-leaf"), &leaf.pem(), &key);
        }
        // As `openssl req -x509` makes them: its own authority.
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        pki.write("self", &params.self_signed(&key).unwrap().pem(), &key);
        pki
    }

    fn write(&self, name: &str, cert: &str, key: &KeyPair) {
        std::fs::write(self.path(&format!("{name}.pem")), cert).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn security(&self, cert: &str, client_ca: Option<&str>) -> Security {
        let files = TlsFiles {
            cert: Some(self.path(&format!("{cert}.pem"))),
            key: Some(self.path(&format!("{cert}.key"))),
            client_ca: client_ca.map(|ca| self.path(&format!("{ca}.pem"))),
        };
        let tls = files.load().unwrap();
        Security {
            tls,
            verifies_clients: client_ca.is_some(),
            insecure: false,
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_certificate_is_verified_unless_told_otherwise() {
    let pki = Pki::new();
    let server = Server::start_tcp(pki.security("ca-leaf", None)).await;
    let at = &server.target();
    let (ca, other) = (pki.path("ca.pem"), pki.path("other-ca.pem"));
    let nodes = ["cluster", "nodes"];
    run(at, &["--tls-ca", text(&ca), nodes[0], nodes[1]])
        .await
        .ok();
    run(
        &format!("https://{at}"),
        &["--tls-ca", text(&ca), nodes[0], nodes[1]],
    )
    .await
    .ok();
    run(at, &["--tls-server-cert", text(&ca), nodes[0], nodes[1]])
        .await
        .ok();
    run(at, &["--tls-skip-verify", nodes[0], nodes[1]])
        .await
        .ok();
    let ran = run(at, &["--tls-ca", text(&other), nodes[0], nodes[1]]).await;
    assert!(ran.error().contains("UnknownIssuer"), "{ran:?}");
    let ran = run(&format!("https://{at}"), &nodes).await;
    assert!(ran.error().starts_with("cannot t"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_can_be_trusted_by_itself() {
    let pki = Pki::new();
    let server = Server::start_tcp(pki.security("self", None)).await;
    let port = server.target().rsplit(':').next().unwrap().to_owned();
    let own = pki.path("self.pem");
    let by_name = format!("localhost:{port}");
    run(&by_name, &["--tls-ca", text(&own), "cluster", "nodes"])
        .await
        .ok();
    // It carries the name, not the address.
    let ran = run(
        &server.target(),
        &["--tls-ca", text(&own), "cluster", "nodes"],
    )
    .await;
    assert!(ran.error().contains("not valid for"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_verified_when_that_is_demanded() {
    let pki = Pki::new();
    let server = Server::start_tcp(pki.security("ca-leaf", Some("ca"))).await;
    let at = &server.target();
    let ca = pki.path("ca.pem");
    let with = async |leaf: &str| {
        let cert = pki.path(&format!("{leaf}.pem"));
        let key = pki.path(&format!("{leaf}.key"));
        let ca = text(&ca);
        let arguments = [
            "--tls-ca",
            ca,
            "--tls-client-cert",
            text(&cert),
            "--tls-client-key",
        ];
        let arguments = [&arguments[..], &[text(&key), "cluster", "nodes"]].concat();
        run(at, &arguments).await
    };
    with("ca-leaf").await.ok();
    with("other-ca-leaf").await.error();
    let ran = run(at, &["--tls-ca", text(&ca), "cluster", "nodes"]).await;
    assert!(ran.error().contains("--tls-client-cert"), "{ran:?}");
    let ran = run(at, &["--tls-skip-verify", "cluster", "nodes"]).await;
    ran.error();
    // Others are served all the while.
    with("ca-leaf").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_of_a_tls_server_is_told_so() {
    let pki = Pki::new();
    let server = Server::start_tcp(pki.security("ca-leaf", None)).await;
    let ran = run(&server.target(), &["cluster", "nodes"]).await;
    assert!(ran.error().contains("--tls-ca"), "{ran:?}");
    let plain = Server::start_tcp(Security::default()).await;
    run(&plain.target(), &["cluster", "nodes"]).await.ok();
    let ran = run(&plain.target(), &["--tls-skip-verify", "cluster", "nodes"]).await;
    assert!(
        ran.error()
            .starts_with("cannot talk tls with circuit at 127."),
        "{ran:?}"
    );
}
