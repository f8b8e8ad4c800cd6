//! Published ports of containers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::slice;

use super::names::Wanted;
use super::{Data, Match, Zone, label};

impl<'a> Zone<'a> {
    /// The ports of these containers, or those of one number, and the addresses of the
    /// names to which they lead. Thousands may have one alias, so each is named once.
    pub(super) fn services(
        &self,
        matches: &[Match<'a>],
        node: Option<&str>,
        wanted: Option<Wanted>,
    ) -> (Vec<Data>, Vec<(String, IpAddr)>) {
        let named = matches.iter().map(|it| (self.target(*it, node), *it));
        let named: Vec<(String, Match<'a>)> = named.collect();
        let (mut services, mut seen) = (Vec::new(), HashSet::new());
        let mut targets = HashSet::new();
        for (target, (_, attached)) in &named {
            for port in &attached.ports {
                let this = (port.container, port.protocol);
                if wanted.is_none_or(|wanted| wanted == this)
                    && seen.insert((port.container, target.as_str()))
                {
                    targets.insert(target.as_str());
                    services.push(Data::Service {
                        port: port.container,
                        target: target.clone(),
                    });
                }
            }
        }
        let mut addresses = Vec::new();
        for (target, (record, attached)) in &named {
            if !targets.contains(target.as_str()) {
                continue;
            }
            let led_to = match node {
                None => slice::from_ref(*attached),
                // Its name on the node is that on all networks.
                Some(_) => &record.attached,
            };
            let seen = led_to.iter().filter(|it| self.scope.has(&it.network));
            let ips = seen.flat_map(|it| &it.ips);
            addresses.extend(ips.map(|ip| (target.clone(), *ip)));
        }
        addresses.sort();
        addresses.dedup();
        (services, addresses)
    }

    /// The name of a container to which its ports lead: on that node, when it was asked
    /// for by its node, as other nodes may have containers of the name too.
    fn target(&self, (record, attached): Match<'a>, node: Option<&str>) -> String {
        match node {
            Some(node) => format!("{}.{node}.node.{}", label(&record.container), self.domain),
            None => self.name_of(record, attached),
        }
    }
}
