//! Whether others' firewalls let containers' packets pass.

use circuit_core::cni::ConfigList;
use circuit_core::doctor::Finding;
use circuit_core::{Error, Result};
use circuit_net::driver::has_legacy;
use circuit_net::nft::{ChainInfo, Family, HookPoint, Nft};

use super::host::on_host;

/// Asks for every chain that packets of IP come through.
pub(super) async fn firewall(lists: &[ConfigList]) -> Vec<Finding> {
    let chains = on_host(|| {
        let mut nft = Nft::open(None).map_err(failed)?;
        let mut chains = Vec::new();
        for family in [Family::Inet, Family::Ip, Family::Ip6] {
            chains.extend(nft.chains(family).map_err(failed)?);
        }
        Ok((chains, has_legacy()))
    });
    let chains: Result<(Vec<ChainInfo>, bool)> = chains.await;
    match chains {
        Ok((chains, legacy)) => {
            let mut findings = dropping(&chains, lists);
            findings.extend(beside(legacy, lists));
            findings
        }
        Err(error) => vec![Finding::problem(
            "firewall",
            error.to_string(),
            "load nftables (modprobe nf_tables)",
        )],
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::precondition(format!("cannot read the firewall: {error}"))
}

/// Chains that drop what they do not know, and networks that they do not know.
fn dropping(chains: &[ChainInfo], lists: &[ConfigList]) -> Vec<Finding> {
    let (within, beyond): (Vec<&ChainInfo>, Vec<&ChainInfo>) =
        chains.iter().filter(drops).partition(has_rules_of_plugins);
    if within.is_empty() && beyond.is_empty() {
        let nothing = "nothing drops forwarded packets by default";
        return vec![Finding::fine("firewall", nothing)];
    }
    let mut findings = Vec::new();
    if !within.is_empty() {
        findings.push(by_plugins(&within, lists));
    }
    if !beyond.is_empty() {
        let what = what(&beyond);
        findings.push(Finding::warning(
            "firewall",
            format!("{what}, whatever a firewall plugin says"),
            "see that rules there accept what comes from the bridges of networks (iifname BRIDGE \
             accept), and the answers (ct state established,related accept)",
        ));
    }
    findings
}

/// The older iptables drops beside nftables, which does not show its rules: whether
/// each network has a plugin that has it accept.
fn beside(legacy: bool, lists: &[ConfigList]) -> Option<Finding> {
    let unknown = without_plugin(lists);
    if !legacy || unknown.is_empty() {
        return None;
    }
    Some(Finding::warning(
        "firewall",
        format!(
            "iptables-legacy has a table filter, which may drop forwarded packets, such as those \
             of {}: iptables-legacy -S FORWARD shows it",
            unknown.join(", ")
        ),
        "add {\"type\":\"firewall\"} to the plugins of these networks, or move the host to \
         iptables-nft",
    ))
}

/// The networks behind the host of which no plugin tells its firewall.
fn without_plugin(lists: &[ConfigList]) -> Vec<&str> {
    let behind = |list: &&ConfigList| list.uses("bridge") || list.uses("ptp");
    let unknown = lists.iter().filter(behind);
    let unknown = unknown.filter(|list| !list.uses("firewall"));
    unknown.map(|list| list.name.as_str()).collect()
}

fn drops(chain: &&ChainInfo) -> bool {
    // firewalld has a rule for it, the last one.
    let firewalld = chain.table == "firewalld";
    let hook = chain.hook.as_ref();
    let hook = hook.filter(|hook| hook.point == HookPoint::Forward as u32);
    hook.is_some_and(|hook| hook.drops || (firewalld && hook.kind == "filter"))
}

/// Whether the plugin `firewall` puts its rules there, or has them put: an accept in
/// one table counts for nothing in another.
fn has_rules_of_plugins(chain: &&ChainInfo) -> bool {
    let iptables = chain.family != Family::Inet && chain.table == "filter";
    iptables || chain.table == "firewalld"
}

/// What chains do, by their names as `nft` has them.
fn what(chains: &[&ChainInfo]) -> String {
    let family = |chain: &ChainInfo| match chain.family {
        Family::Inet => "inet",
        Family::Ip => "ip",
        Family::Ip6 => "ip6",
    };
    let names = chains
        .iter()
        .map(|chain| format!("{} {} {}", family(chain), chain.table, chain.name));
    let names = names.collect::<Vec<_>>().join(" and ");
    match chains.len() {
        1 => format!("chain {names} drops forwarded packets that no rule accepts"),
        _ => format!("chains {names} drop forwarded packets that no rule accepts"),
    }
}

/// Where plugins have a say: whether each network has one that says it.
fn by_plugins(chains: &[&ChainInfo], lists: &[ConfigList]) -> Finding {
    let unknown = without_plugin(lists);
    let what = what(chains);
    if !unknown.is_empty() {
        return Finding::warning(
            "firewall",
            format!("{what}, such as those of {}", unknown.join(", ")),
            "add {\"type\":\"firewall\"} to the plugins of these networks",
        );
    }
    let known = format!("{what}; every network has a firewall plugin to be accepted");
    // firewalld is told that they are to be let in.
    let lets_in = chains.iter().any(|chain| chain.table == "firewalld");
    if lets_in || !lists.iter().any(|list| list.uses("portmap")) {
        return Finding::fine("firewall", known);
    }
    let published = "but other machines reach published ports by a rule only, such as \
                     iptables -N CNI-ADMIN; iptables -A CNI-ADMIN -m conntrack --ctstate DNAT -j ACCEPT";
    Finding::note("firewall", format!("{known}, {published}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::doctor::Level;
    use circuit_net::nft::HookInfo;

    use super::*;

    const BRIDGE: &str = r#"{"type":"bridge","ipMasq":true,
        "ipam":{"type":"host-local","subnet":"10.88.0.0/24"}}"#;

    fn list(plugins: &str) -> ConfigList {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"web","plugins":[{plugins}]}}"#);
        ConfigList::parse(text.as_bytes()).unwrap()
    }

    fn chain(family: Family, table: &str, drops: bool) -> ChainInfo {
        ChainInfo {
            family,
            table: table.to_owned(),
            name: "FORWARD".to_owned(),
            hook: Some(HookInfo {
                kind: "filter".to_owned(),
                point: HookPoint::Forward as u32,
                priority: 0,
                drops,
            }),
        }
    }

    fn levels(chains: &[ChainInfo], plugins: &str) -> Vec<Level> {
        let found = dropping(chains, &[list(plugins)]);
        found.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn firewalls_that_drop_are_told_of() {
        let known = format!(r#"{BRIDGE},{{"type":"firewall"}}"#);
        let iptables = |drops| chain(Family::Ip, "filter", drops);
        let firewalld = chain(Family::Inet, "firewalld", false);
        assert_eq!(levels(&[iptables(false)], BRIDGE), [Level::Fine]);
        for drops in [iptables(true), firewalld.clone()] {
            let drops = [drops];
            assert_eq!(levels(&drops, BRIDGE), [Level::Warning]);
            assert_eq!(levels(&drops, &known), [Level::Fine]);
        }
        let published = format!(r#"{known},{{"type":"portmap"}}"#);
        assert_eq!(levels(&[iptables(true)], &published), [Level::Note]);
        assert_eq!(levels(&[firewalld], &published), [Level::Fine]);
    }

    #[test]
    fn the_older_iptables_is_told_of_where_no_plugin_tells_it() {
        let known = format!(r#"{BRIDGE},{{"type":"firewall"}}"#);
        assert_eq!(beside(false, &[list(BRIDGE)]), None);
        assert_eq!(beside(true, &[list(&known)]), None);
        assert_eq!(beside(true, &[list(r#"{"type":"macvlan"}"#)]), None);
        let found = beside(true, &[list(&known), list(BRIDGE)]).unwrap();
        assert_eq!(found.level, Level::Warning);
        assert!(found.message.contains("such as those of web"), "{found:?}");
    }

    #[test]
    fn what_no_plugin_can_open_is_said_to_be_so() {
        let known = format!(r#"{BRIDGE},{{"type":"firewall"}}"#);
        let house = chain(Family::Inet, "filter", true);
        let both = [chain(Family::Ip, "filter", true), house.clone()];
        assert_eq!(
            levels(std::slice::from_ref(&house), &known),
            [Level::Warning]
        );
        assert_eq!(levels(&both, &known), [Level::Fine, Level::Warning]);
        assert_eq!(levels(&both, BRIDGE), [Level::Warning, Level::Warning]);
        let found = dropping(&[house], &[]);
        assert!(found[0].message.contains("chain inet filter FORWARD drops"));
    }
}
