//! Where plugins find the keeper of address pools.

use std::path::Path;

use circuit_core::cni::{AnyCase as _, JsonObject};
use serde_json::Value;

/// Says where the keeper of address pools is, unless the configuration does.
pub(super) fn name_keeper(config: &mut JsonObject, keeper: &Path) {
    let ipam = config.find_mut("ipam").and_then(Value::as_object_mut);
    let circuit = |ipam: &JsonObject| ipam.find("type").and_then(Value::as_str) == Some("circuit");
    if let Some(ipam) = ipam.filter(|ipam| circuit(ipam) && ipam.find("socket").is_none()) {
        let keeper = keeper.to_string_lossy().into_owned();
        ipam.insert("socket".to_owned(), keeper.into());
    }
}
