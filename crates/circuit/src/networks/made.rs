//! Networks that are described in a few words: where their subnets are free, and
//! what their bridges are called.

use circuit_core::cni::{AnyCase as _, ConfigList, Description, SubnetPool, bridge_name};
use circuit_core::service::NetworkListing;
use circuit_core::{Error, Result};
use circuit_net::netlink::Route;
use ipnet::IpNet;

use super::Facts;

/// Gives the description the subnets that it lacks, and returns its configuration.
///
/// # Errors
/// When no subnet is free, or the description does not fit together.
pub(super) fn complete(
    mut description: Description,
    pools: &[SubnetPool],
    listing: &NetworkListing,
    facts: &Facts,
) -> Result<Vec<u8>> {
    let (v4, v6) = description.lacks()?;
    let others: Vec<ConfigList> = listing
        .networks
        .iter()
        .filter(|other| other.name != description.name)
        .filter_map(|other| ConfigList::parse(&other.data).ok())
        .collect();
    let mut taken: Vec<IpNet> = others.iter().flat_map(ConfigList::subnets).collect();
    // What leads to the bridge of a network that is replaced goes with it.
    let before = listing
        .networks
        .iter()
        .find(|it| it.name == description.name);
    let before = before.and_then(|it| ConfigList::parse(&it.data).ok());
    let replaced = before.as_ref().and_then(left_bridge);
    let is_taken = |route: &&Route| {
        let own = replaced.is_some() && route.oif.as_deref() == replaced;
        route.dst.prefix_len() > 0 && !own
    };
    let routes = facts.routes.iter().filter(is_taken);
    taken.extend(routes.map(|route| route.dst));
    taken.extend(
        facts
            .resolvers
            .iter()
            .map(|resolver| IpNet::from(*resolver)),
    );
    for (wanted, ipv6) in [(v4, false), (v6, true)] {
        if wanted {
            description.subnets.push(free(pools, ipv6, &taken)?);
        }
    }
    let bridge = free_bridge(&description.name, description.vlan, &others);
    description.config(&bridge)
}

fn free(pools: &[SubnetPool], ipv6: bool, taken: &[IpNet]) -> Result<IpNet> {
    let pools = || pools.iter().filter(|pool| pool.is_ipv6() == ipv6);
    let found = pools().find_map(|pool| pool.free(taken));
    found.ok_or_else(|| {
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let all: Vec<String> = pools().map(|pool| format!("{pool}")).collect();
        let among = match all.is_empty() {
            true => "there is no pool of that family".to_owned(),
            false => format!(
                "networks, routes and resolvers take all of {}",
                all.join(" ")
            ),
        };
        Error::precondition(format!(
            "no {family} subnet is free, {among}: give --subnet, or the server another \
             --default-pools"
        ))
    })
}

/// A bridge that no other network has: their names may differ where the kernel's
/// are cut.
fn free_bridge(name: &str, vlan: u32, others: &[ConfigList]) -> String {
    let taken = |bridge: &str| others.iter().flat_map(bridges).any(|it| it == bridge);
    let first = bridge_name(name, vlan);
    if !taken(&first) {
        return first;
    }
    let further = (2..).map(|number| numbered(name, number, vlan));
    let free = further.take(others.len() + 1).find(|name| !taken(name));
    free.unwrap_or(first)
}

fn numbered(name: &str, number: usize, vlan: u32) -> String {
    bridge_name(&format!("{name}/{number}"), vlan)
}

/// The bridges that a network names.
pub(super) fn bridges(list: &ConfigList) -> impl Iterator<Item = &str> {
    let named = list.plugins.iter().map(|plugin| plugin.raw.find("bridge"));
    named.filter_map(|value| value?.as_str())
}

/// The bridge whose name was made from the network's, if it has one.
pub(super) fn own_bridge(list: &ConfigList) -> Option<&str> {
    let name = &list.name;
    let vlans = list.plugins.iter().map(|plugin| plugin.raw.find("vlan"));
    let vlans = vlans.filter_map(|vlan| u32::try_from(vlan?.as_u64()?).ok());
    // Names were made without regard to it before.
    let vlans: Vec<u32> = vlans.chain([0]).collect();
    let is_own = |bridge: &str| {
        vlans.iter().any(|vlan| {
            let mut further = (2..10).map(|number| numbered(name, number, *vlan));
            bridge == bridge_name(name, *vlan) || further.any(|it| it == bridge)
        })
    };
    bridges(list).find(|bridge| is_own(bridge))
}

/// The bridge that is no use to another network of the same name. One that is called as
/// the network may be the host's, and so outlives it, but not that it becomes another.
pub(super) fn left_bridge(list: &ConfigList) -> Option<&str> {
    let namesake = || bridges(list).find(|bridge| *bridge == list.name);
    own_bridge(list).or_else(namesake)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use circuit_core::service::StoredNetwork;

    use super::*;

    #[test]
    fn two_networks_have_two_bridges() {
        let config = |bridge: &str| {
            let text = format!(
                r#"{{"cniVersion":"1.0.0","name":"x","type":"bridge","bridge":"{bridge}"}}"#
            );
            ConfigList::parse(text.as_bytes()).unwrap()
        };
        assert_eq!(free_bridge("web", 0, &[]), "br-web");
        assert_eq!(free_bridge("web", 0, &[config("br-other")]), "br-web");
        for (vlan, length) in [(0, 15), (100, 11)] {
            let second = free_bridge("web", vlan, &[config("br-web")]);
            assert_ne!(second, "br-web");
            assert_eq!(second.len(), length);
        }
    }

    #[test]
    fn a_bridge_is_known_by_the_name_of_its_network() {
        for name in ["web", "a-name-that-is-too-long"] {
            for (vlan, other) in [(0, 0), (7, 7), (4094, 4094), (100, 0)] {
                let bridge = free_bridge(name, other, &[]);
                let text = format!(
                    r#"{{"cniVersion":"1.0.0","name":"{name}","type":"bridge",
                        "bridge":"{bridge}","vlan":{vlan}}}"#
                );
                let list = ConfigList::parse(text.as_bytes()).unwrap();
                assert_eq!(own_bridge(&list), Some(&*bridge), "{text}");
            }
        }
    }

    #[test]
    fn free_subnets_avoid_networks_routes_and_resolvers() {
        let stored = |name: &str, subnet: &str| StoredNetwork {
            name: name.to_owned(),
            data: format!(
                r#"{{"cniVersion":"1.0.0","name":"{name}","type":"bridge","bridge":"br-{name}",
                    "ipam":{{"type":"host-local","subnet":"{subnet}"}}}}"#
            )
            .into_bytes(),
        };
        let listing = NetworkListing {
            networks: vec![stored("a", "10.88.0.0/24"), stored("web", "10.88.2.0/24")],
            problems: Vec::new(),
        };
        let mut facts = Facts {
            routes: Vec::new(),
            resolvers: vec!["10.88.1.53".parse().unwrap()],
        };
        let pools: Vec<SubnetPool> = ["base=10.88.0.0/22,size=24", "base=fd00:88::/48,size=64"]
            .map(|pool| pool.parse().unwrap())
            .into();
        let made = |facts: &Facts, ipv6| {
            let description = Description {
                name: "web".to_owned(),
                ipv6,
                ..Description::default()
            };
            let config = complete(description, &pools, &listing, facts).unwrap();
            let subnets = ConfigList::parse(&config).unwrap().subnets();
            subnets.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        // Its own subnet is not in the way of one that is replaced.
        assert_eq!(made(&facts, false), ["10.88.2.0/24"]);
        assert_eq!(made(&facts, true), ["10.88.2.0/24", "fd00:88::/64"]);
        // Nor is its own bridge; another's is.
        for (bridge, chosen) in [("br-web", "10.88.2.0/24"), ("br-a", "10.88.3.0/24")] {
            facts.routes = vec![Route {
                dst: "10.88.2.0/24".parse().unwrap(),
                gateway: None,
                oif: Some(bridge.to_owned()),
                table: 254,
                protocol: 2,
                scope: 253,
                priority: 0,
                unicast: true,
            }];
            assert_eq!(made(&facts, false), [chosen], "{bridge}");
        }
        let full = &pools[1..];
        let description = Description {
            name: "web".to_owned(),
            ..Description::default()
        };
        let error = complete(description, full, &listing, &facts).unwrap_err();
        assert!(error.message().contains("--default-pools"), "{error}");
    }
}
