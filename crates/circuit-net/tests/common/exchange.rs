//! Names that are exchanged while something else looks at them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use circuit_testing::Stops;
use nix::NixPath as _;

/// Keeps exchanging two names while `body` runs.
pub(crate) fn exchanging(one: &Path, other: &Path, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A name may be missing for a moment.
                exchange(one, other);
            }
        });
        let _stops = Stops(&stop);
        body();
    });
}

/// Not by the C library: musl's has no such function yet.
fn exchange(one: &Path, other: &Path) {
    one.with_nix_path(|one| {
        other.with_nix_path(|other| {
            // SAFETY: both are strings that end in a zero and outlive the call.
            unsafe {
                libc::syscall(
                    libc::SYS_renameat2,
                    libc::AT_FDCWD,
                    one.as_ptr(),
                    libc::AT_FDCWD,
                    other.as_ptr(),
                    libc::RENAME_EXCHANGE,
                )
            }
        })
    })
    .unwrap()
    .unwrap();
}
