//! The protocol, asked of native executables, and of the stock ones where they
//! have it: environment, standard input, versions, commands.

use serde_json::{Value, json};

use crate::runtime::{Ran, run};
use crate::sides::{Side, native_kinds};
use crate::world::{World, netns_path};

/// Types of which a daemon keeps the addresses, which does not run here.
const ASKS_ITS_DAEMON: [&str; 2] = ["dhcp", "circuit"];

/// Types that can be asked with a minimal configuration, and it.
fn minimal(kind: &str) -> Value {
    let mut config = json!({"cniVersion": "1.1.0", "name": "net", "type": kind});
    let ipam = json!({"type": "static", "addresses": [{"address": "10.88.0.2/24"}]});
    match kind {
        "host-local" => config["ipam"] = json!({"type": kind, "subnet": "10.88.0.0/24"}),
        "static" | "bridge" | "ptp" | "dummy" => config["ipam"] = ipam,
        "dhcp" => config["ipam"] = json!({"type": "dhcp"}),
        "circuit" => config["ipam"] = json!({"type": "circuit", "subnet": "10.9.0.0/24"}),
        "macvlan" | "ipvlan" => {
            config["master"] = "uplink".into();
            config["ipam"] = ipam;
        }
        "vlan" => {
            config["master"] = "uplink".into();
            config["vlanId"] = 5.into();
            config["ipam"] = ipam;
        }
        "host-device" => config["device"] = "hd0".into(),
        _ => {}
    }
    config
}

/// One executable, and how it is asked.
struct Plugin {
    kind: &'static str,
    side: Side,
}

impl Plugin {
    /// Runs it with the usual environment, in which `changes` replace
    /// variables, or leave them out.
    fn ask(&self, command: &str, changes: &[(&'static str, Option<&str>)], input: &str) -> Ran {
        let folder = self.side.folder();
        let netns = netns_path("one");
        let usual = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "container-one"),
            ("CNI_NETNS", netns.to_str().unwrap()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", folder.to_str().unwrap()),
        ];
        let change = |name: &str| changes.iter().find(|(changed, _)| *changed == name);
        let mut env: Vec<(&str, &str)> = usual
            .into_iter()
            .filter(|(name, _)| change(name).is_none())
            .collect();
        env.extend(
            changes
                .iter()
                .filter_map(|(name, value)| Some((*name, (*value)?))),
        );
        run(&folder.join(self.kind), &env, input)
    }

    fn ask_with(&self, command: &str, config: &Value) -> Ran {
        self.ask(command, &[], &config.to_string())
    }

    /// Fails unless the answer is an error object with one of these codes.
    fn refuses(&self, what: &str, ran: &Ran, codes: &[u64]) {
        let code = ran.code();
        let fine = !ran.is_ok()
            && code.is_some_and(|code| codes.contains(&code))
            && ran.json()["msg"]
                .as_str()
                .is_some_and(|msg| !msg.is_empty());
        assert!(fine, "{:?} {} of {what}: {ran:?}", self.side, self.kind);
    }
}

/// Asks every native type, and the stock plugin of that name where there is
/// one.
fn of_each(ask: impl Fn(&Plugin) + Send + Sync) {
    World::with(|_| {
        for kind in native_kinds() {
            for side in [Side::Ours, Side::New] {
                let plugin = Plugin { kind, side };
                if side.folder().join(kind).exists() {
                    ask(&plugin);
                }
            }
        }
    });
}

#[test]
fn version_is_told() {
    of_each(|plugin| {
        for input in ["", "{}", r#"{"cniVersion": "1.0.0"}"#] {
            let ran = plugin.ask("VERSION", &[], input);
            assert!(ran.is_ok(), "{}: {ran:?}", plugin.kind);
            let answer = ran.json();
            let told = answer["supportedVersions"].as_array().unwrap();
            for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
                // The stock firewall begins with 0.4.0.
                let stock_firewall = plugin.side == Side::New && plugin.kind == "firewall";
                if !(stock_firewall && version == "0.3.1") {
                    assert!(told.contains(&version.into()), "{}: {ran:?}", plugin.kind);
                }
            }
            assert!(answer["cniVersion"].is_string(), "{ran:?}");
        }
    });
}

#[test]
fn version_needs_nothing_but_the_command() {
    of_each(|plugin| {
        let without = |name| (name, None);
        let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].map(without);
        assert!(plugin.ask("VERSION", &names, "").is_ok(), "{}", plugin.kind);
    });
}

/// By hand, VERSION is asked with a terminal or a pipe that nobody ends.
#[test]
fn version_does_not_wait_for_a_question() {
    World::with(|_| {
        for kind in native_kinds() {
            let (unused, _open) = std::io::pipe().unwrap();
            let answer = std::process::Command::new(Side::Ours.folder().join(kind))
                .env("CNI_COMMAND", "VERSION")
                .stdin(unused)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&answer.stdout);
            assert!(
                answer.status.success() && text.contains("1.1.0"),
                "{kind}: {text}"
            );
        }
    });
}

/// Called for nothing, it tells its version, which programs compare, and waits for no
/// input.
#[test]
fn without_a_command_it_tells_what_it_is() {
    of_each(|plugin| {
        for value in [None, Some("")] {
            let ran = plugin.ask("", &[("CNI_COMMAND", value)], "");
            assert!(ran.is_ok() && ran.stdout.is_empty(), "{ran:?}");
            let lines: Vec<&str> = ran.stderr.lines().collect();
            let name = format!("CNI {} plugin ", plugin.kind);
            assert!(lines[0].starts_with(&name), "{ran:?}");
            let versions = lines[1].strip_prefix("CNI protocol versions supported: ");
            assert!(
                versions.unwrap().ends_with("0.4.0, 1.0.0, 1.1.0"),
                "{ran:?}"
            );
            if plugin.side == Side::Ours {
                let version = lines[0].strip_prefix(&name).unwrap();
                assert!(version.starts_with("v1.10.0+circuit."), "{ran:?}");
            }
        }
    });
}

#[test]
fn missing_variables_are_code_4() {
    of_each(|plugin| {
        let config = minimal(plugin.kind).to_string();
        for (command, needed) in [
            (
                "ADD",
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"][..],
            ),
            (
                "CHECK",
                &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"][..],
            ),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"][..]),
            ("GC", &["CNI_PATH"][..]),
            ("STATUS", &["CNI_PATH"][..]),
        ] {
            for name in needed {
                for value in [None, Some("")] {
                    let ran = plugin.ask(command, &[(name, value)], &config);
                    plugin.refuses(&format!("{command} without {name}"), &ran, &[4]);
                }
            }
        }
    });
}

#[test]
fn wrong_variables_are_code_4() {
    of_each(|plugin| {
        let config = minimal(plugin.kind).to_string();
        for (name, value) in [
            ("CNI_CONTAINERID", "../up"),
            ("CNI_CONTAINERID", "-a"),
            ("CNI_CONTAINERID", "a b"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "0123456789abcdef"),
            ("CNI_IFNAME", "a:b"),
        ] {
            for command in ["ADD", "CHECK", "DEL"] {
                let ran = plugin.ask(command, &[(name, Some(value))], &config);
                plugin.refuses(&format!("{command} with {name}={value}"), &ran, &[4]);
            }
        }
    });
}

#[test]
fn a_command_that_is_none_is_code_4() {
    of_each(|plugin| {
        let config = minimal(plugin.kind).to_string();
        for command in ["add", "ADDED", "oops"] {
            plugin.refuses(command, &plugin.ask(command, &[], &config), &[4]);
        }
    });
}

#[test]
fn a_person_who_calls_it_is_told_what_it_is() {
    of_each(|plugin| {
        let ran = plugin.ask("", &[("CNI_COMMAND", None)], "");
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(told.contains("CNI"), "{}: {ran:?}", plugin.kind);
    });
}

#[test]
fn what_is_no_json_is_code_6() {
    of_each(|plugin| {
        for command in ["ADD", "CHECK", "DEL", "STATUS", "GC"] {
            for input in [
                "",
                "oops",
                "[]",
                "{",
                r#"{"name": 7}"#,
                r#"{"name": "net", "cniVersion": 7}"#,
            ] {
                let ran = plugin.ask(command, &[], input);
                plugin.refuses(&format!("{command} of {input}"), &ran, &[6]);
            }
        }
    });
}

#[test]
fn a_network_without_a_proper_name_is_code_7() {
    of_each(|plugin| {
        for name in [Value::Null, "".into(), "-a".into(), "a/b".into()] {
            let mut config = minimal(plugin.kind);
            config["name"] = name.clone();
            for command in ["ADD", "CHECK", "DEL"] {
                let ran = plugin.ask_with(command, &config);
                plugin.refuses(&format!("{command} of name {name}"), &ran, &[7]);
            }
        }
    });
}

#[test]
fn versions_not_spoken_are_code_1() {
    of_each(|plugin| {
        for version in ["1.2.0", "2.0.0", "9.9.9"] {
            let mut config = minimal(plugin.kind);
            config["cniVersion"] = version.into();
            for command in ["ADD", "CHECK", "DEL", "STATUS", "GC"] {
                let ran = plugin.ask_with(command, &config);
                plugin.refuses(&format!("{command} of {version}"), &ran, &[1]);
            }
        }
    });
}

#[test]
fn commands_of_later_versions_are_code_1() {
    of_each(|plugin| {
        for (command, version) in [
            ("CHECK", "0.3.1"),
            ("STATUS", "0.4.0"),
            ("STATUS", "1.0.0"),
            ("GC", "0.4.0"),
            ("GC", "1.0.0"),
        ] {
            let mut config = minimal(plugin.kind);
            config["cniVersion"] = version.into();
            let ran = plugin.ask_with(command, &config);
            plugin.refuses(&format!("{command} of {version}"), &ran, &[1]);
        }
    });
}

#[test]
fn status_and_gc_answer_nothing() {
    of_each(|plugin| {
        // It is its daemon that can say.
        if ASKS_ITS_DAEMON.contains(&plugin.kind) {
            return;
        }
        for command in ["STATUS", "GC"] {
            let mut config = minimal(plugin.kind);
            config["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
            let ran = plugin.ask_with(command, &config);
            assert!(
                ran.is_ok() && ran.stdout.is_empty(),
                "{} {command}: {ran:?}",
                plugin.kind
            );
        }
    });
}

#[test]
fn del_of_nothing_succeeds() {
    of_each(|plugin| {
        // The stock ones ask their daemon, or want a namespace.
        let stock = plugin.side == Side::New;
        let wants_one = ["sbr", "host-device"].contains(&plugin.kind);
        if ASKS_ITS_DAEMON.contains(&plugin.kind) || (stock && wants_one) {
            return;
        }
        let config = minimal(plugin.kind).to_string();
        for netns in [Some("/run/netns/nowhere"), None] {
            let ran = plugin.ask("DEL", &[("CNI_NETNS", netns)], &config);
            assert!(ran.is_ok(), "{:?} {}: {ran:?}", plugin.side, plugin.kind);
            assert_eq!(ran.stdout, "", "{}", plugin.kind);
        }
    });
}

#[test]
fn add_to_no_namespace_fails() {
    of_each(|plugin| {
        // Address management does not look at it, nor do those who find no
        // prevResult.
        if !["bridge", "ptp", "macvlan", "loopback", "host-device"].contains(&plugin.kind) {
            return;
        }
        let config = minimal(plugin.kind).to_string();
        for netns in ["/run/netns/nowhere", "/etc/passwd", "/proc/self/ns/mnt"] {
            let ran = plugin.ask("ADD", &[("CNI_NETNS", Some(netns))], &config);
            plugin.refuses(&format!("ADD to {netns}"), &ran, &[3, 4, 5, 7, 999]);
        }
    });
}

#[test]
fn results_are_in_the_version_that_is_spoken() {
    of_each(|plugin| {
        if !["static", "host-local"].contains(&plugin.kind) {
            return;
        }
        for (version, has_family) in [
            ("0.3.1", true),
            ("0.4.0", true),
            ("1.0.0", false),
            ("1.1.0", false),
        ] {
            let mut config = minimal(plugin.kind);
            config["cniVersion"] = version.into();
            let result = plugin.ask_with("ADD", &config).json();
            assert_eq!(result["cniVersion"], version);
            assert_eq!(
                result["ips"][0]["version"].is_string(),
                has_family,
                "{result}"
            );
            plugin.ask_with("DEL", &config);
        }
    });
}

#[test]
fn a_prev_result_that_is_none_fails() {
    of_each(|plugin| {
        // Who begins a chain does not read it.
        if !["portmap", "firewall", "bandwidth", "tuning", "sbr"].contains(&plugin.kind) {
            return;
        }
        let mut config = minimal(plugin.kind);
        config["prevResult"] = json!({"cniVersion": "1.1.0", "ips": "oops"});
        let ran = plugin.ask_with("ADD", &config);
        plugin.refuses("ADD with such a prevResult", &ran, &[6, 7, 999]);
    });
}
