//! What an attachment may be called.

use circuit_core::Error;

use super::{AttachmentArgs, CniError};

/// The specification's rules for container ids and interface names.
pub(super) fn check_args(args: &AttachmentArgs) -> Result<(), CniError> {
    let refuse = |text: String| Err(CniError::NotRun(Error::invalid(text)));
    if !circuit_core::cni::is_network_name(&args.container_id) {
        return refuse(format!(
            "{:?} cannot be a cni container id: \
             begin with a letter or digit, then letters, digits, '_', '.' and '-'",
            args.container_id
        ));
    }
    let name = args.ifname.as_str();
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return refuse(format!(
            "{name:?} cannot be an interface name: \
             use 1 to 15 characters without '/', ':' and spaces"
        ));
    }
    Ok(())
}
