//! The Container Network Interface as data: configuration lists, what a plugin
//! is given on its standard input, and what it answers. Running plugins is the
//! business of `circuit-net`.

mod config;
mod data_path;
mod describe;
mod ipam;
mod pools;
mod report;
mod result;
mod spelling;
mod stdin;
mod version;

pub use config::{
    ConfigList, DNS_KEY, GW_PRIORITY_KEY, MAX_CONFIG_BYTES, PluginConfig, is_network_name,
};
pub use data_path::DataPath;
pub use describe::{Description, bridge_name};
pub use ipam::IpamConfig;
pub use pools::SubnetPool;
pub use report::{ErrorReport, code, supported_versions};
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
pub use spelling::AnyCase;
pub use stdin::{Invocation, ValidAttachment, plugin_config, plugin_stdin};
pub use version::CniVersion;

/// A JSON object with its keys in the order in which they were written.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// What kind of JSON value this is, for error texts.
fn json_kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
