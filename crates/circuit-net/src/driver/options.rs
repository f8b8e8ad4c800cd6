//! Reading a plugin's configuration, with errors that name the key.

use std::fmt;

use circuit_core::cni::{AnyCase as _, ErrorReport, JsonObject, code};
use serde_json::Value;

use super::Answer;

/// A key of a configuration that a driver does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// The key, with its path: `ipam.subnet`.
    pub key: String,
    /// True when the stock plugin documents it, so that passing over it would
    /// change what the network is.
    pub documented: bool,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} is not known here", self.key)
    }
}

/// Keys that every plugin may have: the specification's own, and what a
/// runtime puts in.
const COMMON: [&str; 12] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "dns",
    "ipam",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
];

/// A configuration, or an object in it, with the path that leads there.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    object: &'a JsonObject,
    path: &'a str,
}

impl<'a> Options<'a> {
    /// The options of a plugin.
    pub fn new(object: &'a JsonObject) -> Self {
        Self { object, path: "" }
    }

    /// The options of an object inside, whose keys are named after `path`.
    pub fn at(object: &'a JsonObject, path: &'a str) -> Self {
        Self { object, path }
    }

    /// Refuses the first key that is, in whatever letters, neither in `known` nor
    /// common to all plugins.
    ///
    /// # Errors
    /// The key.
    pub fn only(&self, known: &[&str]) -> Result<(), Unsupported> {
        let is_in = |keys: &[&str], key: &str| keys.iter().any(|it| it.eq_ignore_ascii_case(key));
        let common = |key: &str| self.path.is_empty() && is_in(&COMMON, key);
        let mut keys = self.object.keys();
        match keys.find(|key| !is_in(known, key) && !common(key)) {
            None => Ok(()),
            Some(key) => Err(Unsupported {
                key: self.name(key),
                documented: false,
            }),
        }
    }

    /// Refuses the first of these keys: other versions of the stock plugin have
    /// them, so that an executable may do what they say.
    ///
    /// # Errors
    /// The key.
    pub fn not_done(&self, keys: &[&str]) -> Result<(), Unsupported> {
        match keys.iter().find(|key| self.get(key).is_some()) {
            None => Ok(()),
            Some(key) => Err(Unsupported {
                key: self.name(key),
                documented: true,
            }),
        }
    }

    /// The value of a key; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.find(key).filter(|value| !value.is_null())
    }

    /// A boolean, `false` when absent.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn flag(&self, key: &str) -> Answer<bool> {
        Ok(self.opt_flag(key)?.unwrap_or(false))
    }

    /// A boolean, if it is there.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn opt_flag(&self, key: &str) -> Answer<Option<bool>> {
        self.get(key)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| self.wrong(key, "true or false"))
            })
            .transpose()
    }

    /// A text; an empty one counts as absent.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn text(&self, key: &str) -> Answer<Option<&'a str>> {
        let text = self
            .get(key)
            .map(|value| value.as_str().ok_or_else(|| self.wrong(key, "a string")))
            .transpose()?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A whole number that fits, if it is there.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn number<T: TryFrom<i64>>(&self, key: &str) -> Answer<Option<T>> {
        self.get(key)
            .map(|value| {
                value
                    .as_i64()
                    .and_then(|number| T::try_from(number).ok())
                    .ok_or_else(|| self.wrong(key, "a whole number that fits"))
            })
            .transpose()
    }

    /// Something that is written as a text, such as an address.
    ///
    /// # Errors
    /// Code 6 when it is not a text, 7 when it cannot be read; `what` is what
    /// it should be.
    pub fn parsed<T: std::str::FromStr>(&self, key: &str, what: &str) -> Answer<Option<T>> {
        self.text(key)?
            .map(|text| {
                text.parse().map_err(|_| {
                    let name = self.name(key);
                    ErrorReport::new(
                        code::INVALID_CONFIG,
                        format!("{name} {text:?} is not {what}"),
                    )
                })
            })
            .transpose()
    }

    /// An object; an empty one counts as absent.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn object(&self, key: &str) -> Answer<Option<&'a JsonObject>> {
        let object = self
            .get(key)
            .map(|value| {
                value
                    .as_object()
                    .ok_or_else(|| self.wrong(key, "an object"))
            })
            .transpose()?;
        Ok(object.filter(|object| !object.is_empty()))
    }

    /// An array, empty when absent.
    ///
    /// # Errors
    /// Code 6 when it is something else.
    pub fn array(&self, key: &str) -> Answer<&'a [Value]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(_) => Err(self.wrong(key, "an array")),
        }
    }

    fn wrong(&self, key: &str, what: &str) -> ErrorReport {
        let name = self.name(key);
        let value = self.object.find(key).unwrap_or(&Value::Null);
        ErrorReport::new(
            code::DECODING_FAILURE,
            format!("{name} is {value}, not {what}"),
        )
    }

    fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}
