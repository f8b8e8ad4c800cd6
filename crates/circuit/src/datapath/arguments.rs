//! What the plugins of a network are told about one attachment: fixed
//! addresses, a hardware address, names, ports. An address goes in by the
//! capability the network declares, else by the conventional `args`.

use std::net::IpAddr;

use circuit_core::{
    Error, Result,
    attachment::LastAddresses,
    cni::{AnyCase as _, ConfigList, PluginConfig},
    datapath::Arguments,
    labels::{DesiredNetwork, PortMapping},
};
use ipnet::IpNet;
use serde_json::{Value, json};

/// IPAM plugins that read `args.cni.ips`.
const READ_ARGS_IPS: [&str; 3] = ["host-local", "static", "circuit"];
/// The plugin that reads `args.cni.mac`, and the one that reads `MAC` of `CNI_ARGS`.
const READS_ARGS_MAC: &str = "bridge";
const READS_ENV_MAC: &str = "macvlan";

/// Works out the arguments.
///
/// # Errors
/// `InvalidArgument` for a wish that the network cannot grant.
pub(super) fn arguments(
    config: &ConfigList,
    wanted: &DesiredNetwork,
    last: Option<&LastAddresses>,
    ports: &[PortMapping],
) -> Result<Arguments> {
    let mut arguments = Arguments::default();
    if !wanted.ips.is_empty() {
        let ips = fixed(config, &wanted.ips)?;
        place_ips(config, ips, &mut arguments)?;
    } else if let Some(ips) = last.and_then(|last| preferred(config, last)) {
        arguments.preferred_only = place_ips(config, ips, &mut arguments).is_ok();
    }
    if let Some(mac) = &wanted.mac {
        place_mac(config, mac, &mut arguments)?;
    } else if let Some(mac) = last.and_then(|last| last.mac.as_ref())
        && place_mac(config, mac, &mut arguments).is_ok()
    {
        arguments.preferred_only = true;
    }
    if !wanted.aliases.is_empty() && config.declares("aliases") {
        arguments
            .capability_args
            .insert("aliases".into(), json!(wanted.aliases));
    }
    if !ports.is_empty() && config.declares("portMappings") {
        let mappings: Vec<Value> = ports.iter().map(PortMapping::to_json).collect();
        arguments
            .capability_args
            .insert("portMappings".into(), Value::Array(mappings));
    }
    Ok(arguments)
}

fn fixed(config: &ConfigList, ips: &[String]) -> Result<Vec<String>> {
    let subnets = config.subnets();
    ips.iter()
        .map(|text| in_subnet(config, &subnets, text))
        .collect()
}

/// An address as its IPAM plugin wants it, checked against the subnets.
fn in_subnet(config: &ConfigList, subnets: &[IpNet], text: &str) -> Result<String> {
    let asked = text.parse::<IpNet>();
    let ip = match &asked {
        Ok(net) => net.addr(),
        Err(_) => text.parse::<IpAddr>().map_err(|_| {
            Error::invalid(format!("{text:?} is no address: write one like 10.88.0.7"))
        })?,
    };
    let home = subnets.iter().find(|subnet| subnet.contains(&ip));
    if home.is_none() && !subnets.is_empty() {
        let known: Vec<String> = subnets.iter().map(|s| s.trunc().to_string()).collect();
        return Err(Error::invalid(format!(
            "address {ip} is outside network {}: choose one in {}",
            config.name,
            known.join(" or ")
        )));
    }
    if config.ipam_kind() != Some("static") {
        return Ok(ip.to_string());
    }
    // It takes any prefix length that is asked for, and the host what follows from it.
    let prefix = match (home, asked) {
        (Some(home), _) => home.prefix_len(),
        (None, Ok(net)) => unbounded(config, net)?.prefix_len(),
        (None, Err(_)) => {
            return Err(Error::invalid(format!(
                "network {} needs address {ip} with a prefix length, like {ip}/24",
                config.name
            )));
        }
    };
    Ok(format!("{ip}/{prefix}"))
}

/// An address that no subnet of the configuration bounds, where it is the container's
/// alone: who asks must not decide which addresses, routes and rules the host gets.
fn unbounded(config: &ConfigList, asked: IpNet) -> Result<IpNet> {
    match config.plugins.iter().find(|it| sets_up_host(it)) {
        None => Ok(asked),
        Some(plugin) => Err(Error::invalid(format!(
            "network {} cannot give address {asked}: its plugin {} would set up the host by it, \
             and its configuration names no subnet; use ipam host-local with a subnet, or name \
             addresses for static",
            config.name, plugin.kind
        ))),
    }
}

/// Whether a plugin gives the host something that follows from a container's address.
fn sets_up_host(plugin: &PluginConfig) -> bool {
    let is = |key| plugin.raw.find(key).and_then(Value::as_bool) == Some(true);
    match plugin.kind.as_str() {
        "bridge" => ["isGateway", "isDefaultGateway", "ipMasq"]
            .into_iter()
            .any(is),
        "ptp" | "portmap" | "firewall" => true,
        _ => false,
    }
}

/// Former addresses, when the network can be asked for them.
fn preferred(config: &ConfigList, last: &LastAddresses) -> Option<Vec<String>> {
    let subnets = config.subnets();
    let askable = matches!(config.ipam_kind(), Some("host-local" | "circuit"));
    let known = last
        .ips
        .iter()
        .all(|ip| subnets.iter().any(|subnet| subnet.contains(ip)));
    (askable && known && !last.ips.is_empty())
        .then(|| last.ips.iter().map(IpAddr::to_string).collect())
}

fn place_ips(config: &ConfigList, ips: Vec<String>, arguments: &mut Arguments) -> Result<()> {
    if config.declares("ips") {
        arguments.capability_args.insert("ips".into(), json!(ips));
        return Ok(());
    }
    match config.ipam_kind() {
        Some(kind) if READ_ARGS_IPS.contains(&kind) => {
            arguments.config_args.insert("ips".into(), json!(ips));
            Ok(())
        }
        kind => Err(Error::invalid(format!(
            "network {} cannot give a fixed address: its ipam type is {}; use host-local or static, \
             or declare the capability ips",
            config.name,
            kind.unwrap_or("none")
        ))),
    }
}

fn place_mac(config: &ConfigList, mac: &str, arguments: &mut Arguments) -> Result<()> {
    if config.declares("mac") {
        arguments.capability_args.insert("mac".into(), json!(mac));
        return Ok(());
    }
    if [READS_ARGS_MAC, READS_ENV_MAC].contains(&config.first_kind()) {
        arguments.config_args.insert("mac".into(), json!(mac));
        return Ok(());
    }
    Err(Error::invalid(format!(
        "network {} cannot give a fixed hardware address: add a plugin with the capability mac, \
         such as tuning",
        config.name
    )))
}

/// `CNI_ARGS` for what goes into `args.cni`, where the first plugin reads it there.
pub(super) fn cni_args(
    config: &ConfigList,
    config_args: &serde_json::Map<String, Value>,
) -> Vec<(String, String)> {
    let mac = config_args.get("mac").and_then(Value::as_str);
    match mac.filter(|_| config.first_kind() == READS_ENV_MAC) {
        // All plugins of the list get them.
        Some(mac) => [("IgnoreUnknown", "1"), ("MAC", mac)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        None => Vec::new(),
    }
}

/// The addresses and the hardware address that were asked for and must be in
/// the result: plugins pass over arguments they do not know.
pub(super) fn granted(
    arguments: [&serde_json::Map<String, Value>; 2],
    ips: &[IpNet],
    mac: Option<&str>,
) -> Result<()> {
    for map in arguments {
        for asked in map
            .get("ips")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = asked.as_str().unwrap_or_default();
            let ip = text
                .split('/')
                .next()
                .unwrap_or_default()
                .parse::<IpAddr>()
                .ok();
            if let Some(ip) = ip
                && !ips.iter().any(|net| net.addr() == ip)
            {
                return Err(Error::precondition(format!(
                    "the network's plugins did not give the address {ip} that was asked for"
                )));
            }
        }
        if let Some(asked) = map.get("mac").and_then(Value::as_str)
            && mac.is_none_or(|mac| !mac.eq_ignore_ascii_case(asked))
        {
            return Err(Error::precondition(format!(
                "the network's plugins did not give the hardware address {asked} that was asked for"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ipam: &str, capabilities: &str) -> ConfigList {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"bridge","capabilities":{capabilities},"ipam":{ipam}}}]}}"#
        );
        ConfigList::parse(text.as_bytes()).unwrap()
    }

    fn wanted(ip: &str) -> DesiredNetwork {
        DesiredNetwork {
            ips: vec![ip.into()],
            ..DesiredNetwork::named("n")
        }
    }

    const LOCAL: &str = r#"{"type":"host-local","subnet":"10.9.0.0/24"}"#;

    #[test]
    fn a_fixed_address_takes_the_way_the_network_offers() {
        let by_args = arguments(&config(LOCAL, "{}"), &wanted("10.9.0.7"), None, &[]).unwrap();
        assert_eq!(by_args.config_args["ips"], json!(["10.9.0.7"]));
        assert!(by_args.capability_args.is_empty());
        let declared = config(LOCAL, r#"{"ips":true}"#);
        let by_capability = arguments(&declared, &wanted("10.9.0.7/24"), None, &[]).unwrap();
        assert_eq!(by_capability.capability_args["ips"], json!(["10.9.0.7"]));
        assert!(!by_capability.preferred_only);
    }

    #[test]
    fn an_address_outside_the_subnet_is_refused_by_name() {
        let error = arguments(&config(LOCAL, "{}"), &wanted("10.8.0.7"), None, &[]).unwrap_err();
        assert_eq!(
            error.message(),
            "address 10.8.0.7 is outside network n: choose one in 10.9.0.0/24"
        );
    }

    fn of_static(plugin: &str, addresses: &str, more: &str) -> ConfigList {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{{plugin},
                "ipam":{{"type":"static","addresses":[{addresses}]}}}}{more}]}}"#
        );
        ConfigList::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_address_of_static_is_in_the_subnets_that_the_configuration_names() {
        let named = r#"{"address":"10.9.0.2/24"},{"address":"fd00:9::2/64"}"#;
        for plugin in [
            r#""type":"bridge","isGateway":true"#,
            r#""type":"ptp""#,
            r#""type":"macvlan""#,
        ] {
            let config = of_static(plugin, named, "");
            let given = |ip| arguments(&config, &wanted(ip), None, &[]);
            for (asked, granted) in [
                ("10.9.0.7", "10.9.0.7/24"),
                ("10.9.0.7/1", "10.9.0.7/24"),
                ("fd00:9::7/3", "fd00:9::7/64"),
            ] {
                assert_eq!(given(asked).unwrap().config_args["ips"], json!([granted]));
            }
            for outside in ["128.0.0.5/1", "10.8.0.7", "10.9.1.7/16", "fd00::7/3"] {
                let error = given(outside).unwrap_err();
                assert!(error.message().contains("outside network n"), "{error}");
            }
        }
    }

    #[test]
    fn the_host_is_set_up_by_no_subnet_that_is_asked_for() {
        let given = |plugin, more| {
            let config = of_static(plugin, "", more);
            arguments(&config, &wanted("128.0.0.5/1"), None, &[])
        };
        for (plugin, more) in [
            (r#""type":"bridge","isGateway":true"#, ""),
            (r#""type":"bridge","ISDEFAULTGATEWAY":true"#, ""),
            (r#""type":"bridge","ipMasq":true"#, ""),
            (r#""type":"ptp""#, ""),
            (r#""type":"bridge""#, r#",{"type":"firewall"}"#),
            (r#""type":"macvlan""#, r#",{"type":"portmap"}"#),
        ] {
            let error = given(plugin, more).unwrap_err();
            let text = "network n cannot give address 128.0.0.5/1: its plugin ";
            assert!(error.message().starts_with(text), "{plugin}: {error}");
        }
        for plugin in [
            r#""type":"bridge","isGateway":false"#,
            r#""type":"macvlan""#,
        ] {
            let given = given(plugin, r#",{"type":"tuning"}"#).unwrap();
            assert_eq!(given.config_args["ips"], json!(["128.0.0.5/1"]));
        }
        let bare = arguments(
            &of_static(r#""type":"macvlan""#, "", ""),
            &wanted("10.9.0.7"),
            None,
            &[],
        );
        let text = "network n needs address 10.9.0.7 with a prefix length, like 10.9.0.7/24";
        assert_eq!(bare.unwrap_err().message(), text);
    }

    #[test]
    fn an_ipam_that_cannot_is_named() {
        let dhcp = config(r#"{"type":"dhcp"}"#, "{}");
        let error = arguments(&dhcp, &wanted("10.8.0.7"), None, &[]).unwrap_err();
        assert!(error.message().contains("ipam type is dhcp"), "{error}");
    }

    #[test]
    fn a_former_address_is_a_wish_only() {
        let last = LastAddresses {
            ips: vec!["10.9.0.5".parse().unwrap()],
            mac: None,
        };
        let again = arguments(
            &config(LOCAL, "{}"),
            &DesiredNetwork::named("n"),
            Some(&last),
            &[],
        )
        .unwrap();
        assert!(again.preferred_only);
        let elsewhere = LastAddresses {
            ips: vec!["10.7.0.5".parse().unwrap()],
            mac: None,
        };
        let none = arguments(
            &config(LOCAL, "{}"),
            &DesiredNetwork::named("n"),
            Some(&elsewhere),
            &[],
        );
        assert_eq!(none.unwrap(), Arguments::default());
        let mac = Some("02:00:00:00:00:05".to_owned());
        let same = LastAddresses {
            ips: vec!["10.9.0.5".parse().unwrap()],
            mac,
        };
        let same = arguments(
            &config(LOCAL, "{}"),
            &DesiredNetwork::named("n"),
            Some(&same),
            &[],
        )
        .unwrap();
        assert_eq!(same.config_args["mac"], json!("02:00:00:00:00:05"));
        assert!(same.preferred_only);
    }

    #[test]
    fn a_hardware_address_goes_where_it_is_read() {
        let mac = json!({"mac": "02:00:00:00:00:05"});
        let mac = mac.as_object().unwrap();
        let bridge = config(LOCAL, "{}");
        assert_eq!(cni_args(&bridge, mac), []);
        let text = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"macvlan"}]}"#;
        let macvlan = ConfigList::parse(text.as_bytes()).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let pairs = [pair("IgnoreUnknown", "1"), pair("MAC", "02:00:00:00:00:05")];
        assert_eq!(cni_args(&macvlan, mac), pairs);
        assert_eq!(cni_args(&macvlan, &serde_json::Map::new()), []);
    }

    #[test]
    fn what_was_asked_for_must_be_in_the_result() {
        let asked = json!({"ips": ["10.9.0.7/24"], "mac": "02:00:00:00:00:07"});
        let asked = asked.as_object().unwrap();
        let none = serde_json::Map::new();
        let ips = ["10.9.0.7/24".parse().unwrap()];
        assert!(granted([asked, &none], &ips, Some("02:00:00:00:00:07")).is_ok());
        assert!(granted([asked, &none], &ips, Some("02:00:00:00:00:08")).is_err());
        assert!(granted([&none, asked], &[], Some("02:00:00:00:00:07")).is_err());
    }
}
