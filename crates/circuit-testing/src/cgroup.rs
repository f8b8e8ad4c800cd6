//! The cgroups of a node's containers: `/circuit-test/<node>/<container>`, so
//! that two nodes can run containers of the same name.

use std::{fs, path::Path, thread, time::Duration};

const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "circuit-test";

/// The cgroup of a container, as `ctr run --cgroup` takes it.
pub(crate) fn path(node: &str, container: &str) -> String {
    format!("/{PARENT}/{node}/{container}")
}

/// Removes what a node's containers left. Their processes are dead by now, but
/// the kernel may take a moment to let go.
pub(crate) fn remove(node: &str) {
    for dir in hierarchies(node) {
        for _ in 0..40 {
            remove_tree(Path::new(&dir));
            if !Path::new(&dir).exists() {
                break;
            }
            thread::sleep(Duration::from_millis(25));
        }
    }
}

/// The node's folder in the unified hierarchy and in each one of version 1.
fn hierarchies(node: &str) -> Vec<String> {
    let mut all = vec![format!("{ROOT}/{PARENT}/{node}")];
    if let Ok(entries) = fs::read_dir(ROOT) {
        all.extend(
            entries
                .flatten()
                .map(|e| format!("{}/{PARENT}/{node}", e.path().to_string_lossy())),
        );
    }
    all.retain(|dir| Path::new(dir).is_dir());
    all
}

/// A cgroup's files cannot be removed and need not be: only the folders.
fn remove_tree(dir: &Path) {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path());
            }
        }
    }
    let _ = fs::remove_dir(dir);
}
