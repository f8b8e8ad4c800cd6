//! The program with a clock that is wrong, for tests: `WRONG_CLOCK` is by how many
//! seconds. The time since the machine's start stays as it is, and so do all sleeps.

use std::sync::OnceLock;

use libc::{CLOCK_REALTIME, SYS_clock_gettime, c_int, c_long, clockid_t, syscall, timespec};

#[path = "../src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}

/// In place of the C library's, which a program that has one of its own leaves out.
///
/// # Safety
///
/// `at` is null, or may be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, at: *mut timespec) -> c_int {
    // SAFETY: the kernel answers a pointer that it cannot write to with an error.
    let code = unsafe { syscall(SYS_clock_gettime, c_long::from(clock), at) };
    // SAFETY: the caller's promise; the kernel has just written there.
    if let (0, CLOCK_REALTIME, Some(time)) = (code, clock, unsafe { at.as_mut() }) {
        time.tv_sec += wrong_by();
    }
    if code == 0 { 0 } else { -1 }
}

/// In seconds, positive for a clock that is fast.
fn wrong_by() -> i64 {
    static SECONDS: OnceLock<i64> = OnceLock::new();
    *SECONDS.get_or_init(|| {
        let said = std::env::var("WRONG_CLOCK").ok();
        said.and_then(|said| said.parse().ok()).unwrap_or_default()
    })
}
