//! How many addresses a network has, and how many of them are in use.

use std::path::Path;

use circuit_core::cni::{CniResult, ConfigList, ErrorReport, JsonObject, code};
use circuit_core::datapath::{Held, Pool};
use serde_json::Value;

use super::host_local;
use crate::driver::{Answer, Call, Command, Delegate, Sockets};

/// The pools of a network whose addresses are given out of ranges, one for each
/// family. What cannot be read has none: whoever connects is told why.
pub fn pools(list: &ConfigList) -> Vec<Pool> {
    let pools = asking(list, &["circuit", "host-local"], read);
    pools.and_then(Result::ok).unwrap_or_default()
}

/// The leases of a network in files. Those who write there need not be waited for.
///
/// # Errors
/// Code 5 when they cannot be read.
pub(in crate::driver) fn leases(list: &ConfigList) -> Answer<Vec<Held>> {
    let read = |call: &Call<'_>, _: &str| host_local::leases(call);
    asking(list, &["host-local"], read).unwrap_or_else(|| Ok(Vec::new()))
}

/// What can be told of the first plugin whose addresses are managed in one of these
/// ways.
fn asking<T>(
    list: &ConfigList,
    kinds: &[&str],
    ask: impl FnOnce(&Call<'_>, &str) -> Answer<T>,
) -> Option<Answer<T>> {
    let (plugin, kind) = list.plugins.iter().find_map(|plugin| {
        let kind = plugin.ipam()?.kind()?;
        kinds.contains(&kind).then_some((plugin, kind))
    })?;
    let mut config = plugin.raw.clone();
    config.insert("name".to_owned(), Value::String(list.name.clone()));
    let sockets = Sockets::default();
    let call = Call {
        command: Command::Status,
        container_id: "",
        netns: None,
        ifname: "",
        args: &[],
        config: &config,
        version: list.cni_version,
        prev: None,
        delegate: &Nobody,
        sockets: &sockets,
    };
    Some(ask(&call, kind))
}

fn read(call: &Call<'_>, kind: &str) -> Answer<Vec<Pool>> {
    let sets = super::circuit::address_sets(call)?;
    let (name, used) = if kind == "circuit" {
        (super::circuit::pool(call)?, None)
    } else {
        let leases = host_local::config::directory(call)?;
        (call.network().to_owned(), Some(count(&leases)))
    };
    let mut pools = Vec::new();
    for ipv6 in [false, true] {
        let family = |set: &&circuit_core::ipam::AddressSet| {
            set.spans.iter().all(|span| span.first.is_ipv6() == ipv6)
        };
        let sizes: Vec<u64> = sets.iter().filter(family).map(|set| set.size()).collect();
        if sizes.is_empty() {
            continue;
        }
        pools.push(Pool {
            ipam: kind.to_owned(),
            name: name.clone(),
            ipv6,
            size: sizes.into_iter().fold(0, u64::saturating_add),
            used: used.map(|used| used[usize::from(ipv6)]),
        });
    }
    Ok(pools)
}

/// How many leases are in a folder, of IPv4 and of IPv6. Those who write there
/// need not be waited for.
fn count(leases: &Path) -> [u64; 2] {
    let mut counts = [0; 2];
    let files = std::fs::read_dir(leases).into_iter().flatten().flatten();
    for file in files {
        if let Some(ip) = file.file_name().to_str().and_then(host_local::address) {
            counts[usize::from(ip.is_ipv6())] += 1;
        }
    }
    counts
}

/// Nothing is run.
struct Nobody;

impl Delegate for Nobody {
    fn run(
        &self,
        kind: &str,
        _command: Command,
        _config: &JsonObject,
        _call: &Call<'_>,
    ) -> Answer<Option<CniResult>> {
        let text = format!("{kind} is not run to count addresses");
        Err(ErrorReport::new(code::OTHER, text))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(ipam: &Value) -> Vec<Pool> {
        let list = json!({"cniVersion": "1.0.0", "name": "ctr0", "plugins": [
            {"type": "bridge", "ipam": ipam}, {"type": "portmap"}]});
        pools(&ConfigList::parse(list.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn leases_are_counted_by_family() {
        let dir = tempfile::tempdir().unwrap();
        let leases = dir.path().join("ctr0");
        std::fs::create_dir(&leases).unwrap();
        for file in [
            "10.1.0.2",
            "10.1.0.3",
            "fd00::2",
            "lock",
            "last_reserved_ip.0",
        ] {
            std::fs::write(leases.join(file), "").unwrap();
        }
        let found = of(
            &json!({"type": "host-local", "dataDir": dir.path(), "ranges": [
            [{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.10",
              "rangeEnd": "10.2.0.19"}],
            [{"subnet": "fd00::/120"}]]}),
        );
        let short: Vec<_> = found.iter().map(|p| (p.ipv6, p.size, p.used)).collect();
        // Without the network, the broadcast address and the gateway.
        assert_eq!(short, [(false, 253 + 10, Some(2)), (true, 254, Some(1))]);
        assert!(
            found
                .iter()
                .all(|p| p.name == "ctr0" && p.ipam == "host-local")
        );
    }

    #[test]
    fn a_shared_pool_has_its_name_and_no_account() {
        let found = of(
            &json!({"type": "circuit", "pool": "fleet", "exclude": ["10.1.0.0/28"],
            "ranges": [[{"subnet": "10.1.0.0/24"}]]}),
        );
        assert_eq!(found.len(), 1);
        let pool = &found[0];
        assert_eq!(
            (pool.name.as_str(), pool.size, pool.used),
            ("fleet", 239, None)
        );
    }

    #[test]
    fn others_have_no_pools() {
        assert!(of(&json!({"type": "dhcp"})).is_empty());
        assert!(of(&json!({"type": "host-local", "ranges": [[{"subnet": "x"}]]})).is_empty());
    }

    #[test]
    fn a_network_without_leases_uses_none() {
        assert_eq!(count(Path::new("/nonexistent")), [0, 0]);
    }
}
