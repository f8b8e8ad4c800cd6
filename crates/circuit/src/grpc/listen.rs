//! Where the API listens. Everything is bound before anything is served, so
//! that a daemon which cannot serve says so at once.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit_api::ListenAddress;
use circuit_core::{Error, Result};
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::text;

/// The mode of the Unix socket: its owner and group may talk to the daemon.
const SOCKET_MODE: u32 = 0o660;
/// The longest path the kernel takes for a Unix socket.
const MAX_SOCKET_PATH: usize = 107;
/// How long a daemon that may own a socket has to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How TCP connections are protected. A Unix socket is protected by its mode.
#[derive(Clone, Default)]
pub struct Security {
    /// Serve TLS with this.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether `tls` demands and verifies certificates of clients.
    pub verifies_clients: bool,
    /// Whether anybody who reaches a port may use the API.
    pub insecure: bool,
}

/// Bound addresses.
pub struct Listeners {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) unix: Vec<UnixSocket>,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Listeners {
    /// Where it listens, with the ports the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddress> {
        let tcp = self
            .tcp
            .iter()
            .filter_map(|listener| listener.local_addr().ok());
        let tcp = tcp.map(|at| ListenAddress::Tcp {
            host: at.ip().to_string(),
            port: at.port(),
        });
        let unix = self
            .unix
            .iter()
            .map(|socket| ListenAddress::Unix(socket.file.path.clone()));
        tcp.chain(unix).collect()
    }
}

/// Binds every address, after checking that none is open to more than it
/// should be.
///
/// # Errors
/// When an address cannot be bound or is refused by [`check_exposure`].
pub async fn bind(addresses: &[ListenAddress], security: &Security) -> Result<Listeners> {
    let mut listeners = Listeners {
        tcp: Vec::new(),
        unix: Vec::new(),
        tls: security.tls.clone(),
    };
    let mut resolved = Vec::new();
    for address in addresses {
        if let ListenAddress::Tcp { host, port } = address {
            let at = resolve(address, host, *port).await?;
            check_exposure(address, &at, security)?;
            resolved.push((address, at));
        }
    }
    for (address, at) in resolved {
        listeners.tcp.extend(bind_tcp(address, &at).await?);
    }
    for address in addresses {
        if let ListenAddress::Unix(path) = address {
            listeners.unix.push(bind_unix(path).await?);
        }
    }
    Ok(listeners)
}

async fn resolve(address: &ListenAddress, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![(Ipv6Addr::UNSPECIFIED, port).into()]);
    }
    let mut at: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| cannot_listen(address, &e))?
        .collect();
    at.sort_unstable();
    at.dedup();
    Ok(at)
}

/// Refuses to listen where strangers could reach the API and nothing would
/// tell them from friends.
///
/// # Errors
/// When one of `at` is beyond loopback, clients are not verified, and that was
/// not asked for.
pub fn check_exposure(
    address: &ListenAddress,
    at: &[SocketAddr],
    security: &Security,
) -> Result<()> {
    let verified = security.tls.is_some() && security.verifies_clients;
    let exposed = at.iter().any(|at| !at.ip().to_canonical().is_loopback());
    if !exposed || verified || security.insecure {
        return Ok(());
    }
    let missing = if security.tls.is_some() {
        "--tls-client-ca"
    } else {
        "--tls-server-cert, --tls-server-key and --tls-client-ca"
    };
    Err(Error::invalid(format!(
        "refusing to listen on {address}: it can be reached from other hosts, and clients would \
         not be verified; give {missing}, or --insecure if everybody who reaches it may use it"
    )))
}

async fn bind_tcp(address: &ListenAddress, at: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for at in at {
        let listener = match TcpListener::bind(at).await {
            // "Every address" of a host without IPv6.
            Err(e) if is_every_v6(address, at) && e.raw_os_error() == Some(libc_eafnosupport()) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
            }
            result => result,
        };
        listeners.push(listener.map_err(|e| cannot_listen(address, &e))?);
    }
    Ok(listeners)
}

fn is_every_v6(address: &ListenAddress, at: &SocketAddr) -> bool {
    let unnamed = matches!(address, ListenAddress::Tcp { host, .. } if host.is_empty());
    unnamed && at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn libc_eafnosupport() -> i32 {
    nix::errno::Errno::EAFNOSUPPORT as i32
}

fn cannot_listen(address: &ListenAddress, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the program that listens there, or give --address",
        io::ErrorKind::PermissionDenied => "; run the server as root, or give --address",
        _ => "",
    };
    let reason = text::io_error(error);
    Error::unavailable(format!("cannot listen on {address}: {reason}{remedy}"))
}

/// A Unix socket that listens, and its file.
pub(super) struct UnixSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The file of a socket; removed with it unless somebody replaced it.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).ok() == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

async fn bind_unix(path: &Path) -> Result<UnixSocket> {
    let address = ListenAddress::Unix(path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("/"));
    // Bound under another name first, so that it has its mode when it appears.
    let hidden = dir.join(format!(".{}", std::process::id()));
    if path.as_os_str().len().max(hidden.as_os_str().len()) > MAX_SOCKET_PATH {
        return Err(Error::invalid(format!(
            "cannot listen on {address}: the path is longer than {MAX_SOCKET_PATH} bytes"
        )));
    }
    let fail = |e: io::Error| cannot_listen(&address, &e);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(fail)?;
    check_abandoned(path, &address).await?;
    remove_if_there(&hidden).map_err(fail)?;
    let bound = bind_hidden(&hidden, path);
    if bound.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    bound.map_err(fail)
}

fn bind_hidden(hidden: &Path, path: &Path) -> io::Result<UnixSocket> {
    let listener = UnixListener::bind(hidden)?;
    fs::set_permissions(hidden, fs::Permissions::from_mode(SOCKET_MODE))?;
    let identity = identity(hidden)?;
    fs::rename(hidden, path)?;
    Ok(UnixSocket {
        listener,
        file: SocketFile {
            path: path.to_owned(),
            identity,
        },
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes sure that what is at `path` is nothing, or a socket without a server.
async fn check_abandoned(path: &Path, address: &ListenAddress) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot_listen(address, &e)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(Error::precondition(format!(
                "cannot listen on {address}: there is a file that is no socket; move it away"
            )));
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(e)) => Err(cannot_listen(address, &e)),
        // A server too busy to accept is a server.
        Ok(Ok(_)) | Err(_) => Err(Error::precondition(format!(
            "cannot listen on {address}: another server answers there; stop it, or give --address"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(at: &str, security: &Security) -> Result<()> {
        let address = ListenAddress::Tcp {
            host: "x".into(),
            port: 1,
        };
        check_exposure(&address, &[at.parse().unwrap()], security)
    }

    fn tls() -> Option<Arc<ServerConfig>> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.unwrap());
        Some(Arc::new(config.unwrap()))
    }

    #[test]
    fn loopback_needs_nothing() {
        for at in [
            "127.0.0.1:1",
            "127.8.8.8:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(check(at, &Security::default()).is_ok(), "{at}");
        }
    }

    #[test]
    fn beyond_loopback_clients_are_verified_or_the_user_insists() {
        let plain = Security::default();
        let unverified = Security {
            tls: tls(),
            ..Security::default()
        };
        let verified = Security {
            verifies_clients: true,
            ..unverified.clone()
        };
        let insecure = Security {
            insecure: true,
            ..Security::default()
        };
        for at in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let error = check(at, &plain).unwrap_err().to_string();
            assert!(
                error.contains("--tls-server-cert, --tls-server-key and"),
                "{error}"
            );
            let error = check(at, &unverified).unwrap_err().to_string();
            assert!(
                error.contains("give --tls-client-ca, or --insecure"),
                "{error}"
            );
            assert!(check(at, &verified).is_ok() && check(at, &insecure).is_ok());
        }
    }

    #[tokio::test]
    async fn every_address_is_refused_before_anything_is_bound() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let addresses = [ListenAddress::Unix(socket.clone()), ":0".parse().unwrap()];
        assert!(bind(&addresses, &Security::default()).await.is_err());
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_goes_with_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/circuit.sock");
        let addresses = [ListenAddress::Unix(path.clone())];
        let listeners = bind(&addresses, &Security::default()).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, SOCKET_MODE);
        assert_eq!(listeners.addresses(), addresses);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        drop(listeners);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let addresses = [ListenAddress::Unix(path.clone())];
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(&addresses, &Security::default()).await.unwrap();
        let error = bind(&addresses, &Security::default())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("another server answers there"), "{error}");
        assert!(path.exists());
        drop(first);

        fs::write(&path, "precious").unwrap();
        let error = bind(&addresses, &Security::default())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_replaced_socket_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listeners = bind(&[ListenAddress::Unix(path.clone())], &Security::default()).await;
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(listeners);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_taken_port_and_an_endless_path_are_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap().to_string();
        let error = bind(&[at.parse().unwrap()], &Security::default())
            .await
            .err()
            .unwrap();
        // C libraries say it in words of their own.
        let want = format!("cannot listen on {at}: address ");
        assert!(error.message().starts_with(&want), "{error}");
        let remedy = "in use; stop the program";
        assert!(error.message().contains(remedy), "{error}");

        let path = PathBuf::from(format!("/tmp/{}", "a".repeat(120)));
        let error = bind(&[ListenAddress::Unix(path)], &Security::default())
            .await
            .err()
            .unwrap();
        assert!(error.message().contains("longer than"), "{error}");
    }

    #[tokio::test]
    async fn a_name_and_a_chosen_port() {
        let addresses = ["localhost:0".parse().unwrap()];
        let listeners = bind(&addresses, &Security::default()).await.unwrap();
        for address in listeners.addresses() {
            assert!(matches!(address, ListenAddress::Tcp { port, .. } if port != 0));
        }
    }
}
