//! The nouns of Circuit, its errors and its pure decisions. Nothing here
//! touches the kernel, the disk or the network.
#![forbid(unsafe_code)]

pub mod error;
pub mod service;

pub use error::{Error, ErrorKind, Result};
