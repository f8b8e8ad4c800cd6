//! Keys of plugins' configurations in any letters.

use serde_json::Value;

use super::JsonObject;

/// Finds keys as the stock plugins do: they read JSON as Go's library does, to which
/// `MTU` is `mtu`. Runtimes rely on it: those made with containerd's `go-cni`, CRI among
/// them, hand over `HostPort` where `hostPort` is documented.
pub trait AnyCase {
    /// The value of a key. Where it is there in several spellings, this one counts.
    fn find(&self, key: &str) -> Option<&Value>;

    /// The same, to be changed.
    fn find_mut(&mut self, key: &str) -> Option<&mut Value>;
}

impl AnyCase for JsonObject {
    fn find(&self, key: &str) -> Option<&Value> {
        let other = || self.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        self.get(key).or_else(|| Some(other()?.1))
    }

    fn find_mut(&mut self, key: &str) -> Option<&mut Value> {
        if self.contains_key(key) {
            return self.get_mut(key);
        }
        let mut all = self.iter_mut();
        Some(all.find(|(name, _)| name.eq_ignore_ascii_case(key))?.1)
    }
}

/// What is no object has no keys.
impl AnyCase for Value {
    fn find(&self, key: &str) -> Option<&Value> {
        self.as_object()?.find(key)
    }

    fn find_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.find_mut(key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_found_in_any_letters() {
        let mapping = json!({"HostPort": 8080, "containerport": 80, "PROTOCOL": "tcp"});
        assert_eq!(mapping.find("hostPort"), Some(&json!(8080)));
        assert_eq!(mapping.find("containerPort"), Some(&json!(80)));
        assert_eq!(mapping.find("protocol"), Some(&json!("tcp")));
        assert_eq!(mapping.find("hostIP"), None);
        assert_eq!(json!(["hostPort"]).find("hostPort"), None);
    }

    #[test]
    fn of_several_spellings_the_wanted_one_counts() {
        let written = json!({"MTU": 1400, "mtu": 1500, "Mtu": 1600});
        assert_eq!(written.find("mtu"), Some(&json!(1500)));
        assert_eq!(written.find("Mtu"), Some(&json!(1600)));
    }
}
