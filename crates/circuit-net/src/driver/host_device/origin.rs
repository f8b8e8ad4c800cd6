//! What was moved into a container, noted on the host: all that the interface itself tells
//! is the container's to change, and another one may have its name by the time of DEL.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use circuit_core::cni::{ErrorReport, code};
use serde::{Deserialize, Serialize};

use super::find::Named;
use crate::driver::verify::look_up;
use crate::driver::{Answer, Call};
use crate::netlink::Link;
use crate::netns;

const DIR: &str = "/run/cni/host-device";

/// Kinds that only the driver of a real device makes. Most real devices have none.
const REAL: [&str; 3] = ["can", "ipoib", "wwan"];

/// A device of the host that is in a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    name: String,
    kind: Option<String>,
    /// The container's namespace: a note of an earlier one tells nothing.
    dev: u64,
    inode: u64,
}

fn path(call: &Call<'_>) -> PathBuf {
    Path::new(DIR).join(format!("{}_{}.json", call.container_id, call.ifname))
}

/// Notes the device that is going to be the attachment's.
pub(super) fn note(call: &Call<'_>, device: &Link) -> Answer<()> {
    let netns = netns::identity(call.needs_netns()?)?;
    let note = Note {
        name: device.name.clone(),
        kind: device.kind.clone(),
        dev: netns.dev,
        inode: netns.inode,
    };
    let path = path(call);
    let write = || {
        fs::create_dir_all(DIR)?;
        let temporary = path.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec(&note)?)?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|e| failed("write", &path, &e))
}

/// Forgets the attachment's device; that there is none is no error.
pub(super) fn forget(call: &Call<'_>) -> Answer<()> {
    let path = path(call);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, &e)),
        _ => Ok(()),
    }
}

/// The note of an attachment. The stock plugin makes none.
fn noted(call: &Call<'_>) -> Option<Note> {
    let note: Note = serde_json::from_slice(&fs::read(path(call)).ok()?).ok()?;
    let netns = netns::identity(call.netns?).ok()?;
    ((note.dev, note.inode) == (netns.dev, netns.inode)).then_some(note)
}

/// The name by which the container's interface goes to the host.
///
/// # Errors
/// When it is not what was moved in, as far as that is known: programs of the host take
/// up what has a certain name.
pub(super) fn name_on_host<'a>(call: &Call<'_>, link: &'a Link) -> Answer<&'a str> {
    let Some(alias) = link.alias.as_deref().filter(|alias| !alias.is_empty()) else {
        return Err(stays(call, "does not tell its name on the host"));
    };
    match noted(call) {
        Some(note) => {
            if note.kind != link.kind {
                return Err(not_the_device(call, link));
            }
            has_alias(call, alias, &note.name)?;
        }
        None => fits_configuration(call, link, alias)?,
    }
    Ok(alias)
}

/// What the configuration tells of a device that nobody noted.
fn fits_configuration(call: &Call<'_>, link: &Link, alias: &str) -> Answer<()> {
    // One that ADD would refuse tells nothing.
    let named = Named::read(call).unwrap_or_default();
    let is_real = link.kind.as_deref().is_none_or(|it| REAL.contains(&it));
    if named.is_real() && !is_real {
        return Err(not_the_device(call, link));
    }
    let Some(device) = named.device().filter(|device| *device != alias) else {
        return Ok(());
    };
    // It may be a further name, which goes along; to an interface of its own the
    // container may give any.
    let further = look_up(&mut *call.container()?, device)?;
    if is_real && further.is_some_and(|it| it.index == link.index) {
        return Ok(());
    }
    has_alias(call, alias, device)
}

fn has_alias(call: &Call<'_>, alias: &str, name: &str) -> Answer<()> {
    if alias == name {
        return Ok(());
    }
    let why = format!("has the alias {alias:?}, and device {name} was moved in");
    Err(stays(call, &why))
}

fn not_the_device(call: &Call<'_>, link: &Link) -> ErrorReport {
    let kind = link.kind.as_deref().unwrap_or("real device");
    let why = format!("is a {kind}, which the device that was moved in is not");
    stays(call, &why)
}

fn stays(call: &Call<'_>, why: &str) -> ErrorReport {
    let text = format!(
        "interface {} {why}, so it was not moved: move the host's device back by hand",
        call.ifname
    );
    ErrorReport::new(code::OTHER, text)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ErrorReport {
    let path = path.display();
    ErrorReport::new(code::IO_FAILURE, format!("cannot {what} {path}: {error}"))
}
