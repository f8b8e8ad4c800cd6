//! How attachments come into the kernel: by the plugins of CNI, those that
//! Circuit has drivers of in this process.

mod accounts;
mod arguments;
mod cni;
mod disturbances;
mod loopback;
mod remains;
mod standing;

pub use accounts::Giver;
pub use cni::CniDatapath;
pub use standing::Lender;
