//! What a URL says of where Redis is and how to talk to it.

use std::fmt;
use std::path::PathBuf;

/// The host of a URL that names none, as the original Circuit has it.
const HOST: &str = "localhost";
/// Redis' port.
const PORT: u16 = 6379;
/// The sentinels' port.
const SENTINEL_PORT: u16 = 26379;

const FORMS: &str = "redis://HOST[:PORT][/DB], rediss://…, unix:///PATH, \
                     redis+sentinel://HOST[,HOST…]/MASTER[/DB] or redis+cluster://HOST[,HOST…]";

/// What is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single(String, u16),
    /// One server, by a socket.
    Unix(PathBuf),
    /// Sentinels, which know who the master of this name is.
    Sentinel {
        /// Hosts and ports of sentinels.
        hosts: Vec<(String, u16)>,
        /// The name that the sentinels know the master by.
        master: String,
    },
    /// Some nodes of a Redis Cluster.
    Cluster(Vec<(String, u16)>),
}

/// A name and a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// The user; Redis' default one when absent.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("password", &password)
            .finish()
    }
}

/// Where Redis is. What it prints, as `Display` and as `Debug`, has no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// What is at the other end.
    pub kind: Kind,
    /// Who to be there.
    pub login: Login,
    /// Who to be at the sentinels.
    pub sentinel_login: Login,
    /// The number of the database.
    pub database: i64,
    /// Whether to talk TLS.
    pub tls: bool,
    /// PEM file with the authorities that the server's certificate must come
    /// from; the system's when absent.
    pub ca: Option<PathBuf>,
    /// PEM file with the certificate to show.
    pub cert: Option<PathBuf>,
    /// PEM file with that certificate's key.
    pub key: Option<PathBuf>,
}

impl Url {
    /// Reads a URL.
    ///
    /// Query parameters: `ca`, `cert` and `key` name PEM files; `db`, `user` and
    /// `password` are for `unix`; `sentinel-user` and `sentinel-password` are
    /// for sentinels that ask for them.
    ///
    /// # Errors
    /// With a text that tells what is wrong, without the URL itself, which may
    /// hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("it has no scheme: give {FORMS}"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (tls, bare) = match scheme {
            "rediss" => (true, "redis"),
            _ => match scheme.strip_prefix("rediss+") {
                Some(kind) => (true, kind),
                None => (false, scheme.strip_prefix("redis+").unwrap_or(scheme)),
            },
        };
        let mut url = match bare {
            "redis" | "valkey" => Self::single(rest)?,
            "unix" if !tls => Self::unix(rest)?,
            "sentinel" => Self::sentinel(rest)?,
            "cluster" => Self::cluster(rest)?,
            _ => return Err(format!("the scheme {scheme:?} is unknown: give {FORMS}")),
        };
        url.tls = tls;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            url.parameter(pair)?;
        }
        url.check()?;
        Ok(url)
    }

    fn of(kind: Kind, login: Login, database: i64) -> Self {
        Self {
            kind,
            login,
            database,
            sentinel_login: Login::default(),
            tls: false,
            ca: None,
            cert: None,
            key: None,
        }
    }

    fn single(rest: &str) -> Result<Self, String> {
        let (login, hosts, path) = parts(rest, Some(HOST), PORT)?;
        let [(host, port)] = <[_; 1]>::try_from(hosts).map_err(|_| {
            "it names several hosts: that is for redis+sentinel:// and redis+cluster://".to_owned()
        })?;
        Ok(Self::of(Kind::Single(host, port), login, number(path)?))
    }

    fn unix(rest: &str) -> Result<Self, String> {
        if !rest.starts_with('/') {
            return Err("the path of a unix socket starts with three slashes: unix:///PATH".into());
        }
        let kind = Kind::Unix(PathBuf::from(decoded(rest)?));
        Ok(Self::of(kind, Login::default(), 0))
    }

    fn sentinel(rest: &str) -> Result<Self, String> {
        let (login, hosts, path) = parts(rest, None, SENTINEL_PORT)?;
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        if master.is_empty() {
            return Err(
                "the name of the master is missing: redis+sentinel://HOST[,HOST…]/MASTER".into(),
            );
        }
        let master = decoded(master)?;
        let kind = Kind::Sentinel { hosts, master };
        Ok(Self::of(kind, login, number(database)?))
    }

    fn cluster(rest: &str) -> Result<Self, String> {
        let (login, hosts, path) = parts(rest, None, PORT)?;
        Ok(Self::of(Kind::Cluster(hosts), login, number(path)?))
    }

    fn parameter(&mut self, pair: &str) -> Result<(), String> {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)?;
        match key {
            "ca" => self.ca = Some(value.into()),
            "cert" => self.cert = Some(value.into()),
            "key" => self.key = Some(value.into()),
            "db" => self.database = number(&value)?,
            "user" => self.login.user = Some(value),
            "password" => self.login.password = Some(value),
            "sentinel-user" => self.sentinel_login.user = Some(value),
            "sentinel-password" => self.sentinel_login.password = Some(value),
            _ => {
                return Err(format!(
                    "the parameter {key:?} is unknown: those are ca, cert, key, db, user, \
                     password, sentinel-user and sentinel-password"
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if !self.tls && (self.ca.is_some() || self.cert.is_some() || self.key.is_some()) {
            return Err("certificates are for rediss://, which talks TLS".into());
        }
        if self.cert.is_some() != self.key.is_some() {
            return Err("cert and key go together: give both or none".into());
        }
        if self.login.user.is_some() && self.login.password.is_none() {
            return Err("it has a user and no password: give USER:PASSWORD@".into());
        }
        if matches!(self.kind, Kind::Cluster(_)) && self.database != 0 {
            return Err("a redis cluster has one database: leave the number out".into());
        }
        Ok(())
    }
}

type Parts<'a> = (Login, Vec<(String, u16)>, &'a str);

/// Who, where, and the path; where it names no host, this one is meant.
fn parts<'a>(rest: &'a str, host: Option<&str>, port: u16) -> Result<Parts<'a>, String> {
    // A password may hold an @ or a slash that somebody forgot to encode.
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (credentials(login)?, rest),
        None => (Login::default(), rest),
    };
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts = hosts
        .split(',')
        .map(|text| endpoint(text, host, port))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((login, hosts, path))
}

fn credentials(text: &str) -> Result<Login, String> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let some = |text: &str| -> Result<Option<String>, String> {
        Ok(Some(decoded(text)?).filter(|text| !text.is_empty()))
    };
    Ok(Login {
        user: some(user)?,
        password: some(password)?,
    })
}

fn endpoint(text: &str, or: Option<&str>, default: u16) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or("the bracket of an IPv6 address is not closed")?;
        (host, rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let host = Some(host).filter(|host| !host.is_empty()).or(or);
    let host = host.ok_or_else(|| format!("the host is missing: give {FORMS}"))?;
    let port = match port {
        None => default,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            // It may be a part of a password.
            _ => {
                return Err(
                    "the port is no number from 1 to 65535; characters such as @, / and : in a \
                     password must be written as %40, %2F and %3A"
                        .into(),
                );
            }
        },
    };
    Ok((host.to_owned(), port))
}

/// The number of a database; 0 when there is none.
fn number(text: &str) -> Result<i64, String> {
    let text = text.trim_end_matches('/');
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<u32>() {
        Ok(number) => Ok(number.into()),
        Err(_) => Err("the database is no number: the path of the url is its number".into()),
    }
}

/// Text with its percent signs resolved.
fn decoded(text: &str) -> Result<String, String> {
    const WRONG: &str = "a percent sign is not followed by two hexadecimal digits: write it as %25";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or(WRONG)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tls { "s" } else { "" };
        match &self.kind {
            Kind::Single(host, port) => write!(f, "redis{s}://{}", shown(host, *port))?,
            Kind::Unix(path) => write!(f, "unix://{}", path.display())?,
            Kind::Sentinel { hosts, master } => {
                write!(f, "redis{s}+sentinel://{}/{master}", list(hosts))?;
            }
            Kind::Cluster(hosts) => write!(f, "redis{s}+cluster://{}", list(hosts))?,
        }
        match self.database {
            0 => Ok(()),
            n => write!(f, "/{n}"),
        }
    }
}

fn list(hosts: &[(String, u16)]) -> String {
    let all: Vec<_> = hosts
        .iter()
        .map(|(host, port)| shown(host, *port))
        .collect();
    all.join(",")
}

fn shown(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn single(host: &str, port: u16) -> Kind {
        Kind::Single(host.into(), port)
    }

    #[test]
    fn one_server() {
        let url = Url::parse("redis://db.example:7000/3").unwrap();
        assert_eq!(url.kind, single("db.example", 7000));
        assert_eq!((url.database, url.tls), (3, false));
        assert_eq!(url.to_string(), "redis://db.example:7000/3");
        assert_eq!(Url::parse("redis://a").unwrap().kind, single("a", 6379));
        assert_eq!(Url::parse("redis://a/\n").unwrap().kind, single("a", 6379));
        let six = Url::parse("rediss://[2001:db8::1]:7/").unwrap();
        assert_eq!(six.kind, single("2001:db8::1", 7));
        assert!(six.tls);
        assert_eq!(six.to_string(), "rediss://[2001:db8::1]:7");
    }

    #[test]
    fn no_host_is_this_one() {
        for (text, port, database) in [
            ("redis://", 6379, 0),
            ("redis://:7000", 7000, 0),
            ("redis:///3", 6379, 3),
            ("rediss://ann:secret@:7000/3", 7000, 3),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.kind, single("localhost", port), "{text}");
            assert_eq!(url.database, database, "{text}");
        }
    }

    #[test]
    fn who_to_be() {
        let url = Url::parse("redis://ann:p%40ss%2Fw@a").unwrap();
        assert_eq!(url.login.user.as_deref(), Some("ann"));
        assert_eq!(url.login.password.as_deref(), Some("p@ss/w"));
        let url = Url::parse("redis://:secret@a:1").unwrap();
        assert_eq!(url.login.user, None);
        assert_eq!(url.login.password.as_deref(), Some("secret"));
        assert!(!format!("{url} {url:?}").contains("secret"));
        let unencoded = Url::parse("redis://:se/cr@et@a:1").unwrap();
        assert_eq!(unencoded.login.password.as_deref(), Some("se/cr@et"));
    }

    #[test]
    fn the_other_kinds() {
        let url = Url::parse("unix:///run/r%20s.sock?db=2&user=ann&password=x").unwrap();
        assert_eq!(url.kind, Kind::Unix("/run/r s.sock".into()));
        assert_eq!((url.database, url.login.user.as_deref()), (2, Some("ann")));
        let url = Url::parse("redis+sentinel://:x@a,b:9/mine/4?sentinel-password=y").unwrap();
        let hosts = vec![("a".to_owned(), 26379), ("b".to_owned(), 9)];
        let master = "mine".to_owned();
        assert_eq!(url.kind, Kind::Sentinel { hosts, master });
        assert_eq!(url.database, 4);
        assert_eq!(url.sentinel_login.password.as_deref(), Some("y"));
        let url = Url::parse("rediss+cluster://a:1,b:2?ca=/ca&cert=/c&key=/k").unwrap();
        assert!(url.tls && url.ca.is_some() && url.cert.is_some() && url.key.is_some());
        assert_eq!(url.to_string(), "rediss+cluster://a:1,b:2");
    }

    #[test]
    fn what_is_wrong_is_told_without_the_password() {
        for (text, part) in [
            ("localhost:6379", "no scheme"),
            ("http://secret@a", "the scheme \"http\" is unknown"),
            ("rediss+unix:///a", "is unknown"),
            ("redis://a,", "several hosts"),
            ("redis+cluster://:6379", "host is missing"),
            ("redis+sentinel://ann:secret@/mine", "host is missing"),
            ("redis://ann@a", "a user and no password"),
            ("redis://a:0", "no number from 1"),
            ("redis://ann:secret/a", "no number from 1"),
            ("redis://[::1", "not closed"),
            ("redis://a/secret", "database is no number"),
            ("redis://a/-1", "database is no number"),
            ("redis://a,b", "several hosts"),
            ("redis://:a%zz@a", "percent sign"),
            ("redis://:a%@a", "percent sign"),
            ("redis://:%ff@a", "UTF-8"),
            ("redis://a?x=secret", "parameter \"x\""),
            ("redis://a?ca=/a", "rediss://"),
            ("rediss://a?cert=/a", "go together"),
            ("unix://a", "three slashes"),
            ("redis+sentinel://a", "name of the master"),
            ("redis+cluster://a/1", "one database"),
        ] {
            let error = Url::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_fail(text in ".*", tail in "[a-z:/@?%,\\[\\]0-9é]*") {
            let _ = Url::parse(&text);
            let _ = Url::parse(&format!("redis://{tail}"));
            let _ = Url::parse(&format!("redis+sentinel://{tail}"));
        }
    }
}
