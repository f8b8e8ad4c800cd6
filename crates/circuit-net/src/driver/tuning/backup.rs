//! What an interface was like before it was tuned, kept in the stock plugin's
//! files, so that either can undo what the other did.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use circuit_core::cni::{ErrorReport, code};
use serde::{Deserialize, Serialize};

use super::super::{Answer, Call};
use crate::netlink::{Link, LinkSpec};

/// What is to be restored.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Backup {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    tx_queue: Option<u32>,
}

/// The file of an attachment.
pub(super) fn path(data_dir: &Path, call: &Call<'_>) -> PathBuf {
    data_dir.join(format!("{}_{}.json", call.container_id, call.ifname))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Answer<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &e)),
        _ => Ok(()),
    }
}

impl Backup {
    /// What `change` is going to change.
    pub(super) fn of(link: &Link, change: &LinkSpec<'_>) -> Self {
        Self {
            mac: change.mac.and_then(|_| link.mac.clone()),
            promisc: change.promisc.map(|_| link.promiscuity != 0),
            mtu: change.mtu.and(link.mtu),
            allmulti: change.allmulti.map(|_| link.allmulti),
            tx_queue: change.tx_queue.map(|_| link.tx_queue),
        }
    }

    /// What undoes it.
    pub(super) fn change(&self) -> LinkSpec<'static> {
        LinkSpec {
            mac: self.mac.as_deref().and_then(|mac| mac.parse().ok()),
            mtu: self.mtu.filter(|mtu| *mtu != 0),
            tx_queue: self.tx_queue,
            promisc: self.promisc,
            allmulti: self.allmulti,
            ..LinkSpec::default()
        }
    }

    /// Reads a file; `None` when it is not there, or cannot be understood.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes a file, all at once.
    pub(super) fn write(&self, path: &Path) -> Answer<()> {
        let write = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let text = serde_json::to_vec_pretty(self)?;
            let temporary = path.with_extension("json.new");
            fs::write(&temporary, text)?;
            fs::rename(&temporary, path)
        };
        write().map_err(|e| failed("write", path, &e))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ErrorReport {
    ErrorReport::new(
        code::IO_FAILURE,
        format!("cannot {what} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Mac;

    #[test]
    fn the_stock_plugins_file_is_read() {
        let text = r#"{"mac": "c2:b0:57:49:47:f1", "promisc": false, "mtu": 1454, "txQLen": 0}"#;
        let backup: Backup = serde_json::from_str(text).unwrap();
        let change = backup.change();
        assert_eq!(change.mac, Some(Mac([0xc2, 0xb0, 0x57, 0x49, 0x47, 0xf1])));
        assert_eq!(
            (change.promisc, change.mtu, change.tx_queue),
            (Some(false), Some(1454), Some(0))
        );
        assert_eq!(serde_json::to_string(&Backup::default()).unwrap(), "{}");
    }

    #[test]
    fn only_what_is_changed_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/c_eth0.json");
        let link = Link {
            mtu: Some(1500),
            promiscuity: 1,
            ..Link::default()
        };
        let change = LinkSpec {
            mtu: Some(1400),
            ..LinkSpec::default()
        };
        Backup::of(&link, &change).write(&path).unwrap();
        let read = Backup::read(&path).unwrap();
        assert_eq!(
            read,
            Backup {
                mtu: Some(1500),
                ..Backup::default()
            }
        );
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(Backup::read(&path), None);
    }
}
