//! How names of hosts are looked up.

/// Has the C library look names of hosts up in `/etc/hosts` and by DNS, and by
/// nothing else, where it is a part of this program. The other ways that
/// `/etc/nsswitch.conf` may ask for are libraries of the machine's own C
/// library, whose version may be another. To be called before any thread is
/// started.
pub fn only_files_and_dns() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    configure();
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
#[allow(unsafe_code)]
fn configure() {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        /// Of `nss.h`: the services of one database, for the whole process.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    // SAFETY: both are strings that end in a zero and live for ever; nobody
    // else looks anything up yet. A refusal leaves everything as it was.
    let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}
