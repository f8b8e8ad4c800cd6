//! Names of nodes, and the removal of what nodes of dead test processes left.

use std::{
    fs,
    path::PathBuf,
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::sys::signal::Signal;

use crate::{
    cgroup,
    command::host,
    process::{signal, started},
};

const PREFIX: &str = "circuit-test";

/// The folder of all nodes' folders.
fn base() -> PathBuf {
    std::env::temp_dir().join(PREFIX)
}

/// A node's folder.
pub(crate) fn folder(name: &str) -> PathBuf {
    base().join(name)
}

/// A new name; it tells which process the node belongs to.
pub(crate) fn new_name() -> String {
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
