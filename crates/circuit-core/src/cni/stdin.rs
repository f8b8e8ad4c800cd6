//! The network configuration that one plugin gets on its standard input.

use serde_json::{Value, json};

use super::{
    AnyCase as _, CniResult, CniVersion, ConfigList, DNS_KEY, DataPath, ErrorReport,
    GW_PRIORITY_KEY, JsonObject, PluginConfig, code,
};

/// GC's key: what is in use. The second name is that of the specification's first
/// text, which some plugins and runtimes know alone.
const IN_USE: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// An attachment that GC must leave alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ValidAttachment {
    /// The container id, as plugins were told it.
    pub container_id: String,
    /// The interface name inside the container.
    pub ifname: String,
}

impl ValidAttachment {
    /// What GC's configuration says is in use. `null` is none, as runtimes write an
    /// empty list that way.
    ///
    /// # Errors
    /// Code 7 when it says nothing, 6 when that cannot be read: a runtime that forgot
    /// it does not mean that all may be removed.
    pub fn of(config: &JsonObject) -> Result<Vec<Self>, ErrorReport> {
        let said = IN_USE.iter().find_map(|key| Some((key, config.find(key)?)));
        match said {
            None => Err(ErrorReport::new(
                code::INVALID_CONFIG,
                format!("{} is missing: say which attachments are in use", IN_USE[0]),
            )),
            Some((_, Value::Null)) => Ok(Vec::new()),
            Some((_, Value::Array(entries)))
                if entries.iter().all(|it| Self::read(it).is_some()) =>
            {
                Ok(entries.iter().filter_map(Self::read).collect())
            }
            Some((key, other)) => Err(ErrorReport::new(
                code::DECODING_FAILURE,
                format!("{key} is {other}, not an array of objects with containerID and ifname"),
            )),
        }
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.find(key)?.as_str().map(str::to_owned);
        Some(Self {
            container_id: text("containerID")?,
            ifname: text("ifname")?,
        })
    }
}

/// What an invocation adds to the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Invocation<'a> {
    /// Values for capabilities, such as `portMappings`; a plugin gets only
    /// those that it declares.
    pub capability_args: Option<&'a JsonObject>,
    /// Entries of `args.cni`, such as `ips`.
    pub config_args: Option<&'a JsonObject>,
    /// The result so far (ADD), or the final one (CHECK, DEL).
    pub prev_result: Option<&'a Value>,
    /// GC: what is still in use.
    pub valid_attachments: Option<&'a [ValidAttachment]>,
}

/// Builds one plugin's network configuration as it is written to the plugin, or
/// `None` when the list has no plugin of that index.
pub fn plugin_stdin(list: &ConfigList, index: usize, call: &Invocation<'_>) -> Option<Vec<u8>> {
    let config = plugin_config(list, index, call)?;
    Some(Value::Object(config).to_string().into_bytes())
}

/// Builds one plugin's network configuration, or `None` when the list has no
/// plugin of that index. Keys that Circuit does not know pass untouched.
pub fn plugin_config(list: &ConfigList, index: usize, call: &Invocation<'_>) -> Option<JsonObject> {
    let plugin = list.plugins.get(index)?;
    let mut config = plugin.raw.clone();
    // Capabilities are the runtime's to read, and a list's keys are no plugin's.
    let theirs = ["capabilities", "cniVersions", "prevResult"];
    for key in theirs
        .into_iter()
        .chain([DataPath::KEY, GW_PRIORITY_KEY, DNS_KEY])
    {
        config.shift_remove(key);
    }
    config.insert("cniVersion".to_owned(), list.cni_version.as_str().into());
    config.insert("name".to_owned(), list.name.as_str().into());
    insert_runtime_config(&mut config, plugin, call.capability_args);
    insert_args(&mut config, call.config_args);
    if let Some(prev) = call.prev_result {
        config.insert("prevResult".to_owned(), at_version(prev, list.cni_version));
    }
    if let Some(valid) = call.valid_attachments {
        let valid: Vec<Value> = valid
            .iter()
            .map(|a| json!({"containerID": a.container_id, "ifname": a.ifname}))
            .collect();
        for key in IN_USE {
            config.insert(key.to_owned(), valid.clone().into());
        }
    }
    Some(config)
}

fn insert_runtime_config(
    config: &mut JsonObject,
    plugin: &PluginConfig,
    capability_args: Option<&JsonObject>,
) {
    let given: JsonObject = capability_args
        .into_iter()
        .flatten()
        .filter(|(name, _)| plugin.capabilities.contains(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        config.insert("runtimeConfig".to_owned(), given.into());
    }
}

fn insert_args(config: &mut JsonObject, config_args: Option<&JsonObject>) {
    let Some(given) = config_args.filter(|given| !given.is_empty()) else {
        return;
    };
    let mut args = object_at(config, "args");
    let mut cni = object_at(&args, "cni");
    cni.extend(given.clone());
    args.insert("cni".to_owned(), cni.into());
    config.insert("args".to_owned(), args.into());
}

/// A copy of the object under a key, empty when it is absent or something else.
fn object_at(parent: &JsonObject, key: &str) -> JsonObject {
    parent
        .find(key)
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default()
}

/// A result in the list's version. One that is in it already passes as it is,
/// with whatever else its plugin wrote into it.
fn at_version(prev: &Value, version: CniVersion) -> Value {
    if prev.get("cniVersion").and_then(Value::as_str) == Some(version.as_str()) {
        return prev.clone();
    }
    match CniResult::parse(prev) {
        Ok(result) => result.to_version(version),
        // The plugin is the better judge of what nobody here can read.
        Err(_) => prev.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> ConfigList {
        ConfigList::parse(
            br#"{"cniVersion":"0.4.0","cniVersions":["1.0.0"],"name":"n","plugins":[
              {"type":"bridge","x":{"y":[1]},"name":"other","args":{"cni":{"a":1},"z":2}},
              {"type":"portmap","capabilities":{"portMappings":true,"ips":false}}]}"#,
        )
        .unwrap()
    }

    fn stdin(list: &ConfigList, index: usize, call: &Invocation<'_>) -> Value {
        serde_json::from_slice(&plugin_stdin(list, index, call).unwrap()).unwrap()
    }

    #[test]
    fn name_and_version_are_the_lists_and_unknown_keys_stay() {
        let config = stdin(&list(), 0, &Invocation::default());
        assert_eq!(
            config,
            json!({"type": "bridge", "x": {"y": [1]}, "name": "n", "cniVersion": "1.0.0",
                   "args": {"cni": {"a": 1}, "z": 2}})
        );
        assert!(plugin_stdin(&list(), 2, &Invocation::default()).is_none());
    }

    #[test]
    fn a_plugin_gets_only_the_capabilities_it_declares() {
        let args = json!({"portMappings": [{"hostPort": 80}], "ips": ["10.0.0.2/8"], "mac": "x"});
        let call = Invocation {
            capability_args: args.as_object(),
            ..Invocation::default()
        };
        assert!(stdin(&list(), 0, &call).get("runtimeConfig").is_none());
        let config = stdin(&list(), 1, &call);
        assert_eq!(
            config["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 80}]})
        );
        assert!(config.get("capabilities").is_none());
    }

    #[test]
    fn config_args_join_those_of_the_configuration() {
        let args = json!({"ips": ["10.0.0.2"], "a": 3});
        let call = Invocation {
            config_args: args.as_object(),
            ..Invocation::default()
        };
        assert_eq!(
            stdin(&list(), 0, &call)["args"],
            json!({"cni": {"a": 3, "ips": ["10.0.0.2"]}, "z": 2})
        );
        assert_eq!(stdin(&list(), 1, &call)["args"]["cni"], args);
    }

    #[test]
    fn the_previous_result_comes_in_the_lists_version() {
        let prev =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/8"}]});
        let call = Invocation {
            prev_result: Some(&prev),
            ..Invocation::default()
        };
        let given = stdin(&list(), 1, &call)["prevResult"].clone();
        assert_eq!(given["cniVersion"], "1.0.0");
        assert_eq!(given["ips"], json!([{"address": "10.0.0.2/8"}]));
        let same = json!({"cniVersion": "1.0.0", "vendor": {"kept": true}});
        let call = Invocation {
            prev_result: Some(&same),
            ..Invocation::default()
        };
        assert_eq!(stdin(&list(), 1, &call)["prevResult"], same);
    }

    #[test]
    fn gc_names_what_is_in_use() {
        let valid = [ValidAttachment {
            container_id: "ns-web".to_owned(),
            ifname: "eth0".to_owned(),
        }];
        let call = Invocation {
            valid_attachments: Some(&valid),
            ..Invocation::default()
        };
        let config = stdin(&list(), 0, &call);
        for key in IN_USE {
            assert_eq!(
                config[key],
                json!([{"containerID": "ns-web", "ifname": "eth0"}])
            );
        }
        let read = ValidAttachment::of(config.as_object().unwrap());
        assert_eq!(read.unwrap(), valid);
    }

    #[test]
    fn what_is_in_use_must_be_said() {
        let read = |config: Value| ValidAttachment::of(config.as_object().unwrap());
        let one = json!([{"containerID": "ns-web", "ifname": "eth0"}]);
        assert_eq!(read(json!({"cni.dev/attachments": one})).unwrap().len(), 1);
        let both = json!({"cni.dev/valid-attachments": [], "cni.dev/attachments": one});
        assert_eq!(read(both).unwrap(), []);
        assert_eq!(
            read(json!({"cni.dev/valid-attachments": null})).unwrap(),
            []
        );
        let error = read(json!({"name": "x"})).unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
        for wrong in [
            json!("x"),
            json!({}),
            json!(["x"]),
            json!([{"containerID": "a"}]),
            json!([{"containerID": 7, "ifname": "eth0"}]),
        ] {
            let error = read(json!({"cni.dev/valid-attachments": wrong})).unwrap_err();
            assert_eq!(error.code, code::DECODING_FAILURE, "{wrong}");
        }
    }
}
