//! Names of nodes, and the removal of what nodes of dead test processes left.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::sys::{
    signal::Signal,
    statfs::{Statfs, TMPFS_MAGIC, statfs},
    statvfs::FsFlags,
};

use crate::{
    cgroup,
    command::host,
    process::{signal, started},
};

const PREFIX: &str = "circuit-test";

/// Where programs and scripts may run, and room for all that nodes keep.
const SHARED_MEMORY: &str = "/dev/shm";
/// In bytes; a container engine gives its containers less, which is too little.
const ROOM: u64 = 4 << 30;

/// The folder of all nodes' folders: in memory where there is room for it, because
/// containerd waits for the disk at every step.
fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let wished = std::env::var_os("TMPDIR").is_some();
        let folder = match statfs(SHARED_MEMORY) {
            Ok(at) if !wished && will_do(at) => PathBuf::from(SHARED_MEMORY),
            _ => std::env::temp_dir(),
        };
        folder.join(PREFIX)
    })
}

#[allow(clippy::useless_conversion, reason = "C libraries differ")]
fn will_do(at: Statfs) -> bool {
    let free = u64::try_from(at.block_size()).unwrap_or(0) * at.blocks_available();
    let programs = !at.flags().contains(FsFlags::ST_NOEXEC);
    at.filesystem_type() == TMPFS_MAGIC && programs && free >= ROOM
}

/// A node's folder.
pub(crate) fn folder(name: &str) -> PathBuf {
    base().join(name)
}

/// A new name of a node or a namespace; it tells which process that belongs to. The
/// first one removes what dead processes left under such names.
pub fn new_name() -> String {
    static SWEEP: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    SWEEP.call_once(sweep);
    let pid = process::id();
    let start = started(pid).expect("this process has a start time");
    format!(
        "{PREFIX}-{pid}-{start}-{}",
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// True for the name of a node whose process is dead.
fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX).and_then(|n| n.strip_prefix('-')) else {
        return false;
    };
    let mut parts = rest.split('-');
    let (Some(Ok(pid)), Some(Ok(start))) = (
        parts.next().map(str::parse::<u32>),
        parts.next().map(str::parse::<u64>),
    ) else {
        return false;
    };
    started(pid) != Some(start)
}

fn sweep() {
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in namespaces.filter_map(|e| e.file_name().into_string().ok()) {
        if is_stale(&name) {
            remove_netns(&name);
        }
    }
    let folders = fs::read_dir(base()).into_iter().flatten().flatten();
    for name in folders.filter_map(|e| e.file_name().into_string().ok()) {
        if is_stale(&name) {
            cgroup::remove(&name);
            let _ = fs::remove_dir_all(folder(&name));
        }
    }
}

/// Removes a network namespace and ends what still runs in it.
pub(crate) fn remove_netns(name: &str) {
    for pid in host("ip", &["netns", "pids", name])
        .stdout
        .split_whitespace()
    {
        if let Ok(pid) = pid.parse() {
            signal(pid, Signal::SIGKILL);
        }
    }
    let _ = host("ip", &["netns", "del", name]);
}
