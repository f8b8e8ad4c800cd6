//! Where networks are stored.

mod local;
mod shared;

use std::fs::File;
use std::path::{Path, PathBuf};

use circuit_core::service::{NetworkListing, StoredNetwork};
use circuit_core::{Error, Result};

pub use local::LocalStore;
pub use shared::{Change, SharedStore};

/// The longest name of a network, in bytes: it becomes a file's name, and a
/// part of names that plugins make of it.
pub const MAX_NAME: usize = 200;

/// Keeps networks. Its operations may wait for a disk.
pub trait Store: Send + Sync {
    /// One network, whatever it holds.
    ///
    /// # Errors
    /// `NotFound` with the name that was likely meant, or when the store fails.
    fn get(&self, name: &str) -> Result<StoredNetwork>;

    /// Every network that can be used, sorted by name, and what is wrong with
    /// the others.
    ///
    /// # Errors
    /// When the store fails.
    fn list(&self) -> Result<NetworkListing>;

    /// Begins a change that is decided by what other networks there are.
    ///
    /// # Errors
    /// When another process of this host does not end its turn.
    fn turn(&self) -> Result<Turn>;

    /// Keeps a network so that after a crash there is all of it or nothing, and
    /// after the return it is there for good. False, and nothing is kept, when other
    /// nodes have changed networks since the turn began: what they are now is there
    /// to be looked at.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one of that name and `replace` is not set,
    /// or when the store fails.
    fn write(&self, name: &str, data: &[u8], replace: bool, turn: &Turn) -> Result<bool>;

    /// Removes a network for good.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn remove(&self, name: &str) -> Result<()>;

    /// Whether something has that name, usable or not.
    fn has(&self, name: &str) -> bool;
}

/// A turn to change networks: while it lasts nobody else of this host has one, and
/// changes of other nodes are noticed. The default is for changes that depend on no
/// other network.
#[derive(Debug, Default)]
pub struct Turn {
    /// The folder, locked.
    _folder: Option<File>,
    /// How many changes it takes into account.
    count: Option<u64>,
}

/// The folder that a datastore's URL names.
///
/// # Errors
/// When the URL is not `local:///DIRECTORY`.
pub fn directory(url: &str) -> Result<PathBuf> {
    let path = url
        .strip_prefix("local://")
        .filter(|path| path.starts_with('/'));
    match path.map(Path::new) {
        Some(path) if path.components().any(|part| part.as_os_str() == "..") => Err(
            Error::invalid(format!("datastore {url:?} holds ..; give its plain path")),
        ),
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::invalid(format!(
            "datastore {url:?} is of no known kind; give local:///DIRECTORY with an absolute path, or the \
             URL of a Redis"
        ))),
    }
}

/// Where networks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datastore {
    /// In a folder of this node.
    Local(PathBuf),
    /// In a Redis that a fleet shares.
    Shared(Box<crate::redis::Url>),
}

impl Datastore {
    /// Reads a datastore's URL: `local:///DIRECTORY` or one of Redis.
    ///
    /// # Errors
    /// When it is neither; the text does not hold the URL of a Redis, as that
    /// may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let of_redis = |kind: &str| {
            let name = kind.split('+').next().unwrap_or_default();
            ["redis", "rediss", "valkey", "unix"].contains(&name)
        };
        if of_redis(scheme) {
            return crate::redis::Url::parse(url)
                .map(|url| Self::Shared(Box::new(url)))
                .map_err(|e| Error::invalid(format!("datastore: {e}")));
        }
        directory(url).map(Self::Local)
    }
}

/// Checks a network's name: what CNI allows, and no more than a file's name
/// can hold.
///
/// # Errors
/// When it is none, with what a name looks like.
pub fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let good = bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} cannot name a network; begin with a letter or a digit, go on with letters, \
         digits, '_', '.' and '-', and use at most {MAX_NAME} of them"
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls() {
        assert_eq!(
            directory("local:///var/lib/x").unwrap(),
            PathBuf::from("/var/lib/x")
        );
        for url in [
            "",
            "/var/lib",
            "local://rel",
            "local:rel",
            "etcd://a",
            "local:///a/../b",
        ] {
            assert!(directory(url).is_err(), "{url}");
        }
    }

    #[test]
    fn datastores() {
        let parsed = Datastore::parse("local:///var/lib/x").unwrap();
        assert_eq!(parsed, Datastore::Local("/var/lib/x".into()));
        for url in [
            "redis://h:1/2",
            "rediss://u:p@h",
            "unix:///s",
            "redis+sentinel://h/m",
        ] {
            let parsed = Datastore::parse(url).unwrap();
            assert!(matches!(parsed, Datastore::Shared(_)), "{url}");
        }
        let wrong = Datastore::parse("redis://:secret@h/x").unwrap_err();
        assert!(!wrong.to_string().contains("secret"), "{wrong}");
        assert!(Datastore::parse("etcd://h").is_err());
    }

    #[test]
    fn names() {
        for name in ["a", "ctr0", "a.b_c-D", "0", &"x".repeat(200)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "_a",
            "a/b",
            "../a",
            "a b",
            "é",
            "a\n",
            "a\0",
            &"x".repeat(201),
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder(name in any::<String>()) {
            if check_name(&name).is_ok() {
                let path = Path::new("/store").join(format!("{name}.json"));
                prop_assert_eq!(path.parent(), Some(Path::new("/store")));
                let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                prop_assert!(file.len() <= 255 && !file.starts_with('.'));
                prop_assert_eq!(file.strip_suffix(".json"), Some(name.as_str()));
            }
        }

        #[test]
        fn every_name_of_the_rule_is_one(name in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}") {
            prop_assert!(check_name(&name).is_ok());
        }

        #[test]
        fn no_other_character_is_in_a_name(
            head in "[a-z0-9]{1,5}", bad in "[^a-zA-Z0-9_.-]", tail in "[a-z0-9]{0,5}"
        ) {
            let name = format!("{head}{bad}{tail}");
            prop_assert!(check_name(&name).is_err());
        }
    }
}
