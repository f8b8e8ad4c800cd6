//! Circuit: container networking for plain containerd.
#![forbid(unsafe_code)]

pub mod cli;
pub mod logging;
pub mod store;
pub mod table;
pub mod text;
