//! Addresses as people write them: where a client connects to, and where a
//! server listens.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// The port the API is served on when none is named.
pub const DEFAULT_PORT: u16 = 8080;

/// The Unix socket the daemon listens on and clients try first.
pub const DEFAULT_SOCKET: &str = "/run/circuit/circuit.sock";

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad address {text:?}: {reason}; give host:port or unix:///path")]
pub struct AddressError {
    text: String,
    reason: String,
}

/// Where a client connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host and a port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// `Some` when the scheme says it: `https` true, `http` false.
        tls: Option<bool>,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Target {
    /// The targets tried in turn when a client is given none.
    #[must_use]
    pub fn defaults() -> [Target; 2] {
        [
            Target::Unix(DEFAULT_SOCKET.into()),
            Target::Tcp {
                host: "127.0.0.1".into(),
                port: DEFAULT_PORT,
                tls: None,
            },
        ]
    }
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason: String| AddressError {
            text: text.to_owned(),
            reason,
        };
        if let Some(path) = unix_path(text) {
            return path.map(Target::Unix).map_err(error);
        }
        let (rest, tls) = match text.split_once("://") {
            None => (text, None),
            Some(("http", rest)) => (rest, Some(false)),
            Some(("https", rest)) => (rest, Some(true)),
            Some((scheme, _)) => return Err(error(format!("unknown scheme {scheme:?}"))),
        };
        let rest = if tls.is_some() {
            rest.strip_suffix('/').unwrap_or(rest)
        } else {
            rest
        };
        let (host, port) = split_host_port(rest).map_err(error)?;
        let port = match port {
            Some(0) => return Err(error("port 0 cannot be connected to".into())),
            Some(port) => port,
            None => DEFAULT_PORT,
        };
        let host = if host.is_empty() {
            "localhost".to_owned()
        } else {
            host
        };
        Ok(Target::Tcp { host, port, tls })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp { host, port, .. } => write_host_port(f, host, *port),
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A host and a port; an empty host stands for every address.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// The addresses a server listens on when it is given none.
    #[must_use]
    pub fn defaults() -> [ListenAddress; 2] {
        [
            ListenAddress::Tcp {
                host: "127.0.0.1".into(),
                port: DEFAULT_PORT,
            },
            ListenAddress::Unix(DEFAULT_SOCKET.into()),
        ]
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason: String| AddressError {
            text: text.to_owned(),
            reason,
        };
        if let Some(path) = unix_path(text) {
            return path.map(ListenAddress::Unix).map_err(error);
        }
        if text.contains("://") {
            return Err(error(
                "a server listens on host:port or on a Unix socket only".into(),
            ));
        }
        let (host, port) = split_host_port(text).map_err(error)?;
        let port = port.ok_or_else(|| error("the port is missing".into()))?;
        Ok(ListenAddress::Tcp { host, port })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port } => write_host_port(f, host, *port),
            ListenAddress::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

fn unix_path(text: &str) -> Option<Result<PathBuf, String>> {
    let path = text.strip_prefix("unix:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(if path.starts_with('/') && path.len() > 1 {
        Ok(PathBuf::from(path))
    } else {
        Err("the path of a Unix socket must be absolute".into())
    })
}

fn split_host_port(text: &str) -> Result<(String, Option<u16>), String> {
    // A bare IPv6 address is full of colons and has no port.
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok((ip.to_string(), None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or("the closing bracket is missing")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| format!("{host:?} is no IPv6 address"))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("a colon and a port must follow the bracket".into()),
            }
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() && port.is_none() {
        return Err("it is empty".into());
    }
    let is_ip = host.parse::<IpAddr>().is_ok();
    if !is_ip
        && !host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        return Err(format!("{host:?} is no host"));
    }
    let port = port
        .map(|port| {
            port.parse::<u16>()
                .map_err(|_| format!("{port:?} is no port"))
        })
        .transpose()?;
    Ok((host.to_owned(), port))
}

fn write_host_port(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') {
        write!(f, "[{host}]:{port}")
    } else {
        write!(f, "{host}:{port}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: Option<bool>) -> Target {
        Target::Tcp {
            host: host.into(),
            port,
            tls,
        }
    }

    #[test]
    fn targets() {
        for (text, want) in [
            ("node1:9000", tcp("node1", 9000, None)),
            (":8080", tcp("localhost", 8080, None)),
            ("node1", tcp("node1", 8080, None)),
            ("10.0.0.1:1", tcp("10.0.0.1", 1, None)),
            ("[::1]:8081", tcp("::1", 8081, None)),
            ("::1", tcp("::1", 8080, None)),
            ("http://node1:80/", tcp("node1", 80, Some(false))),
            ("https://node1:443", tcp("node1", 443, Some(true))),
            ("https://[fe80::1]", tcp("fe80::1", 8080, Some(true))),
            ("unix:///run/a.sock", Target::Unix("/run/a.sock".into())),
            ("unix:/run/a.sock", Target::Unix("/run/a.sock".into())),
        ] {
            assert_eq!(text.parse::<Target>().unwrap(), want, "{text}");
        }
        for text in [
            "",
            ":",
            "a:b",
            "a:99999",
            "a:0",
            "ftp://a:1",
            "unix://a",
            "unix:///",
            "[::1",
            "a b:1",
            "[a]:1",
            "a/b",
            "http://a:1/b",
            "1:2:3",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            (":8080", ":8080"),
            ("[::]:0", "[::]:0"),
            ("unix:///run/a.sock", "unix:///run/a.sock"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        for text in ["127.0.0.1", "http://a:1", "unix://a", "::1", ""] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_text_and_the_remedy() {
        let error = "ftp://a:1".parse::<Target>().unwrap_err().to_string();
        assert_eq!(
            error,
            "bad address \"ftp://a:1\": unknown scheme \"ftp\"; give host:port or unix:///path"
        );
    }
}
