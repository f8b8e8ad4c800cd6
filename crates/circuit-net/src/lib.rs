//! The kernel and CNI: namespaces, netlink, plugin execution.
//!
//! The only crate with `unsafe` code, in [`cni`] (what a child does between
//! fork and exec) and [`netns`] (one ioctl).
#![deny(unsafe_code)]

pub mod cni;
pub mod host;
pub mod netlink;
pub mod netns;
