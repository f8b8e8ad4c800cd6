//! What the host must be able and willing to do.

use std::fs;

use circuit_core::cni::{AnyCase as _, ConfigList};
use circuit_core::doctor::Finding;
use circuit_core::{Error, Result};
use circuit_net::forwarding;
use circuit_net::listening::{self, Listening};
use circuit_net::netlink::Netlink;
use circuit_net::probe::{self, Feature};

/// Whether new interfaces have no IPv6; it is not there where the kernel has none.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";

pub(super) async fn on_host<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("examining the host hit a defect: {error}")))?
}

/// What listens on the host.
pub(super) async fn listening() -> Result<Vec<Listening>> {
    on_host(listening::listening).await
}

/// Whether the kernel has what networks need.
pub(super) async fn kernel(lists: &[ConfigList]) -> Vec<Finding> {
    let needed = probe::FEATURES.into_iter();
    let needed: Vec<_> = needed
        .filter(|feature| needing(feature, lists).is_some())
        .collect();
    match on_host(move || probe::kernel(needed)).await {
        Ok(features) => missing(&features, lists),
        Err(error) => vec![Finding::problem(
            "kernel",
            error.to_string(),
            "run the daemon as root",
        )],
    }
}

/// A network that needs this of the kernel.
fn needing<'a>(feature: &str, lists: &'a [ConfigList]) -> Option<&'a ConfigList> {
    lists.iter().find(|list| match feature {
        "nftables" => list.plugins.iter().any(|plugin| {
            let masquerades = plugin
                .raw
                .find("ipMasq")
                .and_then(serde_json::Value::as_bool);
            masquerades == Some(true) || plugin.kind == "portmap"
        }),
        "veth" => list.uses("bridge") || list.uses("ptp"),
        kind => list.uses(kind),
    })
}

fn missing(features: &[Feature], lists: &[ConfigList]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Feature { name, missing } in features {
        if let Some(why) = missing
            && let Some(list) = needing(name, lists)
        {
            findings.push(Finding::problem(
                "kernel",
                format!("no {name}, which network {} needs: {why}", list.name),
                format!("load the module ({}), or use another kernel", module(name)),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::fine("kernel", "it has all that the networks need"));
    }
    findings
}

fn module(feature: &str) -> String {
    match feature {
        "vlan" => "modprobe 8021q".to_owned(),
        "nftables" => "modprobe nf_tables nft_chain_nat nft_masq".to_owned(),
        kind => format!("modprobe {kind}"),
    }
}

/// The families in which networks lead out through this host.
fn routed(lists: &[ConfigList]) -> [bool; 2] {
    [false, true].map(|ipv6| lists.iter().any(|list| list.leads_out(ipv6)))
}

/// Whether the host forwards what containers send.
pub(super) async fn forwarding(lists: &[ConfigList], fix: bool) -> Vec<Finding> {
    let needed = routed(lists);
    if needed == [false; 2] {
        return vec![Finding::note(
            "forwarding",
            "no network leads out through this host",
        )];
    }
    let asked = on_host(move || forwarding_now(needed, fix)).await;
    asked.unwrap_or_else(|error| {
        let remedy = "see that /proc/sys can be read";
        vec![Finding::problem("forwarding", error.to_string(), remedy)]
    })
}

fn forwarding_now(needed: [bool; 2], fix: bool) -> Result<Vec<Finding>> {
    let mut socket = Netlink::open(None)?;
    let mut findings = Vec::new();
    for ipv6 in [false, true] {
        if !needed[usize::from(ipv6)] {
            continue;
        }
        if ipv6 && is_switched_off() {
            findings.push(Finding::warning(
                "forwarding",
                "IPv6 is switched off on this host: networks with subnets of it get no containers",
                "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0, \
                 or leave those subnets out",
            ));
            continue;
        }
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let on = socket.forwards(ipv6);
        let on =
            on.map_err(|error| Error::internal(format!("cannot ask for forwarding: {error}")))?;
        if on {
            findings.push(Finding::fine(
                "forwarding",
                format!("{family} is forwarded"),
            ));
            continue;
        }
        // Drivers switch it on with the first container; somebody may switch it off.
        let off = Finding::warning(
            "forwarding",
            format!("{family} is not forwarded: containers reach nothing beyond this host"),
            format!(
                "it comes with the next connect, or by echo 1 > {}",
                forwarding::switch(ipv6)
            ),
        )
        .fixable();
        let fixed = fix && forwarding::enable(ipv6).is_ok();
        findings.push(if fixed { off.fixed() } else { off });
    }
    Ok(findings)
}

/// Whether a new interface has no IPv6.
fn is_switched_off() -> bool {
    fs::read_to_string(NO_IPV6).map_or(true, |text| text.trim() == "1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::doctor::Level;

    use super::*;

    fn list(plugins: &str) -> ConfigList {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"web","plugins":[{plugins}]}}"#);
        ConfigList::parse(text.as_bytes()).unwrap()
    }

    const BRIDGE: &str = r#"{"type":"bridge","ipMasq":true,
        "ipam":{"type":"host-local","subnet":"10.88.0.0/24"}}"#;

    #[test]
    fn what_is_missing_is_bad_when_it_is_needed() {
        let features = ["macvlan", "vlan"].map(|name| Feature {
            name,
            missing: Some("not supported".to_owned()),
        });
        let found = missing(&features, &[list(BRIDGE)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].level, Level::Fine);
        let macvlan = list(r#"{"type":"macvlan","master":"eth0"}"#);
        let found = missing(&features, &[macvlan]);
        assert_eq!(found[0].level, Level::Problem);
        assert!(found[0].remedy.contains("modprobe macvlan"), "{found:?}");
    }

    #[test]
    fn what_a_network_needs_is_known() {
        let needed = |plugins: &str| {
            let lists = [list(plugins)];
            let all = probe::FEATURES.into_iter();
            all.filter(|feature| needing(feature, &lists).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(needed(BRIDGE), ["veth", "bridge", "nftables"]);
        assert_eq!(needed(r#"{"type":"macvlan","master":"eth0"}"#), ["macvlan"]);
    }

    #[test]
    fn networks_lead_out_in_their_families() {
        assert_eq!(routed(&[list(BRIDGE)]), [true, false]);
        let inner = r#"{"type":"bridge","ipam":{"type":"host-local","subnet":"fd00::/64"}}"#;
        assert_eq!(routed(&[list(inner)]), [false, false]);
    }
}
