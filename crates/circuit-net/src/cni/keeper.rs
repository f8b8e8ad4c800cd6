//! Where plugins find the keeper of address pools.

use std::path::Path;

use circuit_core::cni::{AnyCase as _, JsonObject};
use circuit_core::ipam::wire::named_socket;
use serde_json::Value;

/// Says where the keeper of address pools is, unless the configuration does.
pub(super) fn name_keeper(config: &mut JsonObject, keeper: &Path) {
    let ipam = config.find_mut("ipam").and_then(Value::as_object_mut);
    let circuit = |ipam: &JsonObject| ipam.find("type").and_then(Value::as_str) == Some("circuit");
    if let Some(ipam) = ipam.filter(|ipam| circuit(ipam) && named_socket(ipam).is_none()) {
        let keeper = keeper.to_string_lossy().into_owned();
        // In whatever letters it is written.
        match ipam.find_mut("socket") {
            Some(socket) => *socket = keeper.into(),
            None => drop(ipam.insert("socket".to_owned(), keeper.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plugins_are_told_of_the_keeper_where_the_configuration_names_none() {
        let told = |ipam: Value| {
            let mut config = JsonObject::new();
            config.insert("ipam".to_owned(), ipam);
            name_keeper(&mut config, Path::new("/run/own.sock"));
            config
                .remove("ipam")
                .and_then(|ipam| ipam.find("socket").cloned())
        };
        for (socket, expected) in [
            (json!(null), json!("/run/own.sock")),
            (json!(""), json!("/run/own.sock")),
            (json!("/run/other.sock"), json!("/run/other.sock")),
            // This is refused by who reads it.
            (json!(5), json!(5)),
        ] {
            for key in ["socket", "Socket"] {
                let ipam = json!({"type": "circuit", key: socket});
                assert_eq!(told(ipam), Some(expected.clone()), "{key}: {socket}");
            }
        }
        let none = json!({"type": "circuit"});
        assert_eq!(told(none), Some(json!("/run/own.sock")));
        assert_eq!(told(json!({"type": "host-local"})), None);
    }
}
