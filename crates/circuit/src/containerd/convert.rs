//! containerd's messages as nouns of ours.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use circuit_api::v1::NetworkConfig;
use circuit_core::{
    labels::NETWORK_LABEL,
    runtime::{Container, ExtensionEntry, Task, TaskStatus},
};
use containerd_client::{
    services::v1::Container as ContainerRecord,
    types::v1::{Process, Status},
};
use prost::Message as _;
use prost_types::Timestamp;
use serde::Deserialize;

pub(super) fn container(record: ContainerRecord) -> Container {
    let extension = record.extensions.get(NETWORK_LABEL).and_then(|any| {
        // An extension that cannot be read is one that says nothing.
        let config = NetworkConfig::decode(any.value.as_slice()).ok()?;
        Some(
            config
                .networks
                .into_iter()
                .map(|(network, c)| {
                    (
                        network,
                        ExtensionEntry {
                            interface: c.interface,
                            ip: c.ip,
                        },
                    )
                })
                .collect(),
        )
    });
    Container {
        id: record.id,
        labels: record.labels,
        extension,
        created_at: record.created_at.and_then(time),
        changed_at: record.updated_at.and_then(time),
        resolv_conf: record
            .spec
            .and_then(|spec| mounted_resolv_conf(&spec.value)),
    }
}

/// The mounts of an OCI runtime specification.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    mounts: Vec<Mount>,
}

#[derive(Deserialize)]
struct Mount {
    destination: PathBuf,
    #[serde(default)]
    source: PathBuf,
}

/// What a specification mounts at `/etc/resolv.conf`: the last mount counts.
fn mounted_resolv_conf(spec: &[u8]) -> Option<PathBuf> {
    // Most have none, and a specification is long.
    let spec = std::str::from_utf8(spec).ok()?;
    let spec: Spec = match spec.contains("/resolv.conf") {
        true => serde_json::from_str(spec).ok()?,
        false => return None,
    };
    let mut mounts = spec.mounts.into_iter().rev();
    let mount = mounts.find(|mount| mount.destination == Path::new("/etc/resolv.conf"))?;
    mount.source.is_absolute().then_some(mount.source)
}

/// A task. Of one whose shim does not answer in time, containerd tells no error but
/// an unknown state, and no pid.
pub(super) fn task(process: Process) -> Task {
    let status = match Status::try_from(process.status).unwrap_or_default() {
        Status::Created => TaskStatus::Created,
        Status::Running | Status::Paused | Status::Pausing => TaskStatus::Running,
        Status::Stopped => TaskStatus::Stopped,
        Status::Unknown => TaskStatus::Unknown,
    };
    // The listing fills `id`, a single look-up fills it too; `container_id`
    // is empty in some versions.
    let container = if process.container_id.is_empty() {
        process.id
    } else {
        process.container_id
    };
    Task {
        container,
        pid: process.pid,
        status,
        exit_status: process.exit_status,
        exited_at: process.exited_at.and_then(time),
    }
}

/// A time; `None` for containerd's zero time and for what no clock can show.
pub(super) fn time(stamp: Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(stamp.seconds)
        .ok()
        .filter(|seconds| *seconds > 0)?;
    let nanos = u32::try_from(stamp.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}
