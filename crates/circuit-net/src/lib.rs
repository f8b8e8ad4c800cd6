//! The kernel and CNI: namespaces, netlink, announcements, plugin execution.
//!
//! The only crate with `unsafe` code, in [`cni`] (what a child does between
//! fork and exec), in [`memory`] (the allocator), and in [`names`], [`netns`],
//! [`netlink`], [`resolv_conf`], [`dhcp`] and [`udp`] (single calls that no crate
//! offers).
#![deny(unsafe_code)]

pub mod announce;
pub mod cni;
pub mod dhcp;
pub mod driver;
pub mod ends;
pub mod forwarding;
pub mod host;
pub mod listening;
pub mod memory;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod probe;
pub mod process;
pub mod resolv_conf;
pub mod udp;
