//! The stock plugins, run for real in namespaces of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;
use std::time::Duration;

use circuit_core::cni::{CniVersion, ConfigList};
use circuit_core::{Error, ErrorKind};
use circuit_net::cni::{AttachmentArgs, CniRuntime, OperationLock, PluginPath};
use circuit_net::netlink;
use common::{Netns, STOCK_PLUGINS, Scripts, attach, list, list_with, on_private_host, shell};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

fn runtime() -> CniRuntime {
    CniRuntime::new(PluginPath::new([STOCK_PLUGINS]), LIMIT)
}

fn bridge(leases: &Path) -> Value {
    json!({"type": "bridge", "bridge": "ctr0", "isGateway": true, "ipMasq": true,
        "ipam": {"type": "host-local", "dataDir": leases, "routes": [{"dst": "0.0.0.0/0"}],
                 "ranges": [[{"subnet": "10.77.0.0/24"}]]}})
}

fn dual_bridge(leases: &Path) -> Value {
    let mut plugin = bridge(leases);
    plugin["ipam"]["ranges"] = json!([[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]]);
    plugin
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

fn full_list(version: &str, leases: &Path) -> ConfigList {
    let tuning = json!({"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"},
                        "capabilities": {"mac": true}});
    list(version, &[bridge(leases), portmap(), tuning])
}

fn with_ports(netns: &Path) -> AttachmentArgs {
    let ports = json!([{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]);
    let mut args = attach(netns);
    args.capability_args
        .insert("portMappings".to_owned(), ports);
    args.capability_args
        .insert("mac".to_owned(), "02:11:22:33:44:55".into());
    args
}

/// The addresses given out.
fn leases(dir: &Path) -> Vec<String> {
    let mut leases: Vec<String> = std::fs::read_dir(dir.join("net"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock" && !name.starts_with("last_reserved"))
        .collect();
    leases.sort();
    leases
}

fn nat_rules() -> String {
    shell("iptables -t nat -S; ip6tables -t nat -S")
}

/// Everything from ADD to the second DEL.
async fn life(version: &str) {
    let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
    let (runtime, mut args) = (runtime(), with_ports(&container.path()));
    // This version's portmap looks for IPv4 rules among those for IPv6 when it
    // is asked to CHECK.
    args.capability_args.shift_remove("portMappings");
    let list = full_list(version, dir.path());
    let lock = OperationLock::acquire(dir.path().join("op.lock"), LIMIT)
        .await
        .unwrap();
    let lock = Some(&lock);
    assert_eq!(runtime.probe(&list).await.unwrap(), list.cni_version);

    let (result, raw) = runtime.add(&list, &args, lock).await.unwrap();
    assert_eq!(raw["cniVersion"], version);
    let ips = result.ips_of("eth0", args.netns.as_ref().unwrap().to_str());
    assert_eq!(ips, ["10.77.0.2/24".parse().unwrap()], "{raw}");
    assert_eq!(result.mac_of("eth0"), Some("02:11:22:33:44:55"));
    assert_in_kernel(&container, &ips);
    assert_eq!(leases(dir.path()), ["10.77.0.2"]);
    assert!(nat_rules().contains("MASQUERADE"), "{}", nat_rules());

    runtime.check(&list, &args, &raw, lock).await.unwrap();
    container.ip("addr del 10.77.0.2/24 dev eth0");
    let checked = runtime.check(&list, &args, &raw, lock).await;
    assert_eq!(
        checked.is_err(),
        list.cni_version.has_check(),
        "{checked:?}"
    );
    // The bridge plugin finds its masquerade rules by the addresses it sees.
    container.ip("addr add 10.77.0.2/24 dev eth0");

    for _ in 0..2 {
        runtime.del(&list, &args, Some(&raw), lock).await.unwrap();
        assert!(leases(dir.path()).is_empty());
        assert!(
            !netlink::links(args.netns.as_deref())
                .unwrap()
                .iter()
                .any(|l| l.name == "eth0")
        );
        assert!(!nat_rules().contains("10.77.0.2"), "{}", nat_rules());
    }
}

fn assert_in_kernel(container: &Netns, ips: &[ipnet::IpNet]) {
    let path = container.path();
    let mut found = netlink::addresses_of(Some(&path), "eth0").unwrap();
    found.retain(|ip| !ip.to_string().starts_with("fe80"));
    found.sort();
    assert_eq!(found, ips);
    let routes = netlink::routes(Some(&path)).unwrap();
    let default = routes
        .iter()
        .find(|route| route.dst.to_string() == "0.0.0.0/0")
        .unwrap();
    assert_eq!(default.gateway.unwrap().to_string(), "10.77.0.1");
    assert_eq!(default.oif.as_deref(), Some("eth0"));
    let links = netlink::links(None).unwrap();
    let bridge = links.iter().find(|link| link.name == "ctr0").unwrap();
    assert_eq!((bridge.kind.as_deref(), bridge.up), (Some("bridge"), true));
    assert!(links.iter().any(|link| link.master == Some(bridge.index)));
}

#[test]
fn version_0_3_1_lives_and_dies() {
    on_private_host(|| life("0.3.1"));
}

#[test]
fn version_0_4_0_lives_and_dies() {
    on_private_host(|| life("0.4.0"));
}

#[test]
fn version_1_0_0_lives_and_dies() {
    on_private_host(|| life("1.0.0"));
}

#[test]
fn ports_are_published_and_withdrawn() {
    on_private_host(async || {
        let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
        let (runtime, args) = (runtime(), with_ports(&container.path()));
        let list = full_list("1.0.0", dir.path());
        let (_, raw) = runtime.add(&list, &args, None).await.unwrap();
        assert!(
            nat_rules().contains("--to-destination 10.77.0.2:80"),
            "{}",
            nat_rules()
        );
        runtime.del(&list, &args, Some(&raw), None).await.unwrap();
        assert!(!nat_rules().contains("--to-destination"), "{}", nat_rules());
    });
}

#[test]
fn an_address_of_each_family() {
    on_private_host(async || {
        let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
        let (runtime, args) = (runtime(), attach(&container.path()));
        let list = list("1.0.0", &[dual_bridge(dir.path())]);
        let (result, raw) = runtime.add(&list, &args, None).await.unwrap();
        assert_in_kernel(&container, &result.ips_of("eth0", None));
        assert_eq!(leases(dir.path()), ["10.77.0.2", "fd00:77::2"]);
        runtime.check(&list, &args, &raw, None).await.unwrap();
        runtime.del(&list, &args, Some(&raw), None).await.unwrap();
        assert!(leases(dir.path()).is_empty());
    });
}

#[test]
fn a_container_that_is_gone_is_detached() {
    on_private_host(async || {
        for path_is_known in [false, true] {
            let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
            let (runtime, mut args) = (runtime(), with_ports(&container.path()));
            let list = full_list("1.0.0", dir.path());
            let (_, raw) = runtime.add(&list, &args, None).await.unwrap();
            drop(container);
            if !path_is_known {
                args.netns = None;
            }
            for _ in 0..2 {
                runtime.del(&list, &args, Some(&raw), None).await.unwrap();
                assert!(leases(dir.path()).is_empty());
                assert!(!nat_rules().contains("--to-destination"), "{}", nat_rules());
            }
        }
    });
}

#[test]
fn a_second_plugin_that_fails_leaves_a_del_owed() {
    on_private_host(async || {
        let (container, dir, scripts) =
            (Netns::new(), tempfile::tempdir().unwrap(), Scripts::new());
        scripts.plugin(
            "refuse",
            r#"[ $CNI_COMMAND = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":3,"msg":"no","details":"not today"}'; exit 1"#,
        );
        let (runtime, args) = (scripts.runtime(LIMIT), attach(&container.path()));
        let firewall = json!({"type": "firewall", "backend": "iptables"});
        let plugins = [bridge(dir.path()), firewall, json!({"type": "refuse"})];
        let list = list("1.0.0", &plugins);
        let failed = runtime.add(&list, &args, None).await.unwrap_err();
        assert!(failed.cleanup_owed, "the bridge was made before");
        assert!(
            failed
                .to_string()
                .contains("refuse ADD: no: not today (code 3)"),
            "{failed}"
        );
        assert_eq!(leases(dir.path()).len(), 1);
        let allowed = || shell("iptables-save -t filter").contains("-s 10.77.0.2/32");
        assert!(allowed());
        // The stock firewall finds its rules by the addresses in the result alone.
        let so_far = failed.so_far.as_ref();
        runtime.del(&list, &args, so_far, None).await.unwrap();
        assert!(leases(dir.path()).is_empty());
        assert!(!allowed());
    });
}

#[test]
fn a_fixed_address_is_given_by_args_and_by_capability() {
    on_private_host(async || {
        let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
        let mut args = attach(&container.path());
        args.config_args
            .insert("ips".to_owned(), json!(["10.77.0.42"]));
        let by_args = list("1.0.0", &[bridge(dir.path())]);
        let (result, raw) = runtime().add(&by_args, &args, None).await.unwrap();
        let texts = |r: &circuit_core::cni::CniResult| -> Vec<String> {
            r.ips_of("eth0", None)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert!(
            texts(&result).contains(&"10.77.0.42/24".to_owned()),
            "{raw}"
        );
        runtime()
            .del(&by_args, &args, Some(&raw), None)
            .await
            .unwrap();

        let mut args = attach(&container.path());
        args.capability_args
            .insert("ips".to_owned(), json!(["10.77.0.43/24"]));
        let mut plugin = bridge(dir.path());
        plugin["capabilities"] = json!({"ips": true});
        let by_capability = list("1.0.0", &[plugin]);
        let (result, raw) = runtime().add(&by_capability, &args, None).await.unwrap();
        assert!(
            texts(&result).contains(&"10.77.0.43/24".to_owned()),
            "{raw}"
        );
        runtime()
            .del(&by_capability, &args, Some(&raw), None)
            .await
            .unwrap();
        assert!(leases(dir.path()).is_empty());
    });
}

#[test]
fn a_taken_address_is_an_error_with_the_plugins_words() {
    on_private_host(async || {
        let (one, two, dir) = (Netns::new(), Netns::new(), tempfile::tempdir().unwrap());
        let mut args = attach(&one.path());
        args.config_args
            .insert("ips".to_owned(), json!(["10.77.0.42"]));
        let list = list("1.0.0", &[bridge(dir.path())]);
        let (_, raw) = runtime().add(&list, &args, None).await.unwrap();
        let mut other = args.clone();
        other.container_id = "default-other".to_owned();
        other.netns = Some(two.path());
        let failed = runtime().add(&list, &other, None).await.unwrap_err();
        assert!(failed.cleanup_owed);
        assert!(failed.to_string().contains("10.77.0.42"), "{failed}");
        runtime().del(&list, &other, None, None).await.unwrap();
        assert!(
            leases(dir.path()).contains(&"10.77.0.42".to_owned()),
            "still the first one's"
        );
        runtime().del(&list, &args, Some(&raw), None).await.unwrap();
    });
}

#[test]
fn a_list_with_a_choice_is_spoken_in_the_newest_common_version() {
    on_private_host(async || {
        let (container, dir) = (Netns::new(), tempfile::tempdir().unwrap());
        let args = attach(&container.path());
        let choice = list_with(
            json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "1.1.0"],
            "name": "net", "plugins": [bridge(dir.path()), portmap()]}),
        );
        assert_eq!(choice.cni_version, CniVersion::V1_1_0);
        assert_eq!(runtime().probe(&choice).await.unwrap(), CniVersion::V1_0_0);
        let runtime = runtime();
        let (_, raw) = runtime.add(&choice, &args, None).await.unwrap();
        assert_eq!(raw["cniVersion"], "1.0.0");
        runtime.check(&choice, &args, &raw, None).await.unwrap();
        runtime.status(&choice).await.unwrap();
        runtime.gc(&choice, &[], None).await.unwrap();
        runtime.del(&choice, &args, Some(&raw), None).await.unwrap();
        assert!(leases(dir.path()).is_empty());
    });
}

#[test]
fn plugins_that_are_too_old_or_missing_are_found_before_the_first_add() {
    on_private_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let too_new = list("1.1.0", &[bridge(dir.path())]);
        let error = runtime().probe(&too_new).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.message().contains("plugin bridge speaks"), "{error}");
        assert!(error.message().contains("not 1.1.0"), "{error}");

        let missing = list("1.0.0", &[bridge(dir.path()), json!({"type": "nowhere"})]);
        let error = runtime().probe(&missing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(
            error.message().contains("nowhere is not in /usr/lib/cni"),
            "{error}"
        );
        let container = Netns::new();
        let failed = runtime()
            .add(&missing, &attach(&container.path()), None)
            .await
            .unwrap_err();
        assert!(
            !failed.cleanup_owed && leases(dir.path()).is_empty(),
            "nothing was run"
        );
        assert_eq!(Error::from(failed).kind(), ErrorKind::FailedPrecondition);

        let mut plugin = bridge(dir.path());
        plugin["ipam"]["type"] = "nobody".into();
        let error = runtime()
            .probe(&list("1.0.0", &[plugin]))
            .await
            .unwrap_err();
        assert!(error.message().contains("nobody"), "{error}");
    });
}

#[test]
fn every_stock_plugin_says_which_versions_it_speaks() {
    on_private_host(async || {
        let runtime = runtime();
        for plugin in [
            "bridge", "ptp", "macvlan", "portmap", "tuning", "firewall", "loopback",
        ] {
            let versions = runtime.versions(plugin).await.unwrap();
            assert!(
                versions.contains(&CniVersion::V1_0_0),
                "{plugin}: {versions:?}"
            );
        }
    });
}
