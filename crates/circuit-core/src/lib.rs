//! The nouns of Circuit, its errors and its pure decisions. Nothing here
//! touches the kernel, the disk or the network.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod cni;
pub mod datapath;
pub mod doctor;
pub mod error;
pub mod event;
pub mod fleet;
pub mod ipam;
pub mod labels;
pub mod overview;
pub mod plan;
pub mod request;
pub mod resolver;
pub mod restart;
pub mod runtime;
pub mod service;
pub mod zone;

pub use error::{Error, ErrorKind, Result};
