//! Rules of nftables.

pub mod masquerade;
