//! How attachments come into the kernel. Today every plugin is run as the CNI
//! specification says.

mod arguments;
mod exec;

pub use exec::ExecDatapath;
