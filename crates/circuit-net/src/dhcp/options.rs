//! What a configuration has a client say to servers, and what their answers
//! say to a container.

use std::net::{IpAddr, Ipv4Addr};

use circuit_core::cni::{CniResult, Dns, ErrorReport, IpConfig, JsonObject, Route, code};
use ipnet::{IpNet, Ipv4Net};

use super::packet::{Options, address, get, option};
use crate::driver::{Answer, Options as Keys};

/// The options that have names, as in dhcp-options(5).
const NAMES: [(&str, u8); 6] = [
    ("dhcp-client-identifier", option::CLIENT_ID),
    ("subnet-mask", option::MASK),
    ("routers", option::ROUTERS),
    ("host-name", option::HOST_NAME),
    ("user-class", option::USER_CLASS),
    ("vendor-class-identifier", option::VENDOR_CLASS),
];

/// What is asked for unless a configuration says otherwise.
const DEFAULT_REQUEST: [u8; 2] = [option::ROUTERS, option::MASK];

const SCOPE_LINK: u32 = 253;

/// The options that a client sends, by the keys `provide` and `request` of an
/// `ipam` object.
pub(super) fn sent(ipam: &JsonObject, args: &[(String, String)]) -> Answer<Options> {
    let keys = Keys::at(ipam, "ipam");
    let mut options = Options::new();
    for entry in keys.array("provide")? {
        let keys = entry_keys(entry, "ipam.provide")?;
        let keys = Keys::at(keys, "ipam.provide");
        let code = code_of(keys.text("option")?.unwrap_or_default())?;
        let mut provide = |value: &str| -> Answer<()> {
            if value.len() > 255 {
                return Err(wrong(format!(
                    "the value of option {code} is longer than 255 bytes"
                )));
            }
            options.retain(|(known, _)| *known != code);
            options.push((code, value.as_bytes().to_vec()));
            Ok(())
        };
        if let Some(value) = keys.text("value")? {
            provide(value)?;
        }
        let from = keys.text("fromArg")?.unwrap_or_default();
        if let Some((_, value)) = args.iter().find(|(name, _)| name == from) {
            provide(value)?;
        }
    }
    let list = request_list(keys)?;
    if !list.is_empty() {
        options.retain(|(known, _)| *known != option::REQUEST_LIST);
        options.push((option::REQUEST_LIST, list));
    }
    Ok(options)
}

fn request_list(keys: Keys<'_>) -> Answer<Vec<u8>> {
    let (mut list, mut defaults) = (Vec::new(), true);
    let mut add = |code| {
        if !list.contains(&code) {
            list.push(code);
        }
    };
    for entry in keys.array("request")? {
        let keys = Keys::at(entry_keys(entry, "ipam.request")?, "ipam.request");
        defaults &= !keys.flag("skipDefault")?;
        if let Some(name) = keys.text("option")? {
            add(code_of(name)?);
        }
    }
    if defaults {
        DEFAULT_REQUEST.into_iter().for_each(add);
    }
    Ok(list)
}

fn entry_keys<'a>(entry: &'a serde_json::Value, path: &str) -> Answer<&'a JsonObject> {
    entry.as_object().ok_or_else(|| {
        ErrorReport::new(
            code::DECODING_FAILURE,
            format!("{path} has {entry}, which is not an object"),
        )
    })
}

fn code_of(name: &str) -> Answer<u8> {
    let named = NAMES.iter().find(|(known, _)| *known == name);
    named
        .map(|(_, code)| *code)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| wrong(format!("dhcp option {name:?} is not known: use its number")))
}

fn wrong(text: String) -> ErrorReport {
    ErrorReport::new(code::OTHER, text)
}

/// The result for an address and the options that came with it.
pub(super) fn result(
    yours: Ipv4Addr,
    options: &Options,
    priority: Option<u32>,
) -> Answer<CniResult> {
    let mask = get(options, option::MASK).and_then(address);
    let mask = mask.ok_or_else(|| wrong("the server's answer has no subnet mask".to_owned()))?;
    let net = Ipv4Net::with_netmask(yours, mask)
        .map_err(|_| wrong(format!("the server's subnet mask {mask} is none")))?;
    let gateway = get(options, option::ROUTERS).and_then(address);
    let mut routes = routes(options, gateway);
    for route in &mut routes {
        route.priority = priority.filter(|priority| *priority != 0);
    }
    Ok(CniResult {
        ips: vec![IpConfig {
            address: net.into(),
            gateway: gateway.map(IpAddr::V4),
            interface: None,
        }],
        routes,
        dns: dns(options),
        ..CniResult::default()
    })
}

/// By RFC 3442, classless routes stand for all others.
fn routes(options: &Options, gateway: Option<Ipv4Addr>) -> Vec<Route> {
    let classless = [
        option::CLASSLESS_ROUTES,
        option::CLASSLESS_ROUTES_OF_MICROSOFT,
    ];
    let classless = classless.into_iter().find_map(|code| {
        let routes = classless_routes(get(options, code)?);
        (!routes.is_empty()).then_some(routes)
    });
    if let Some(routes) = classless {
        return routes;
    }
    let pairs = get(options, option::STATIC_ROUTES).unwrap_or_default();
    let (pairs, _) = pairs.as_chunks::<8>();
    let mut routes: Vec<Route> = pairs
        .iter()
        .filter_map(|[a, b, c, d, gateway @ ..]| {
            let dst = classful(Ipv4Addr::new(*a, *b, *c, *d))?;
            Some(Route::new(dst, Some(Ipv4Addr::from(*gateway).into())))
        })
        .collect();
    let default = |gateway: Ipv4Addr| Route::new(default_route(), Some(gateway.into()));
    routes.extend(gateway.map(default));
    routes
}

fn default_route() -> IpNet {
    IpNet::V4(Ipv4Net::default())
}

/// The network of an address by its class; those of no class have none.
fn classful(address: Ipv4Addr) -> Option<IpNet> {
    let prefix = match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        192..224 => 24,
        _ => return None,
    };
    Ipv4Net::new(address, prefix).ok().map(IpNet::V4)
}

/// Routes as in RFC 3442: of each destination only the significant bytes. All
/// count, or none.
fn classless_routes(mut bytes: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    while let [prefix, rest @ ..] = bytes {
        let significant = usize::from(prefix.div_ceil(8));
        let Some((dst, rest)) = rest.split_at_checked(significant.min(5)) else {
            return Vec::new();
        };
        let mut octets = [0; 4];
        let (Some(place), Some(gateway)) = (octets.get_mut(..dst.len()), address(rest)) else {
            return Vec::new();
        };
        place.copy_from_slice(dst);
        let Ok(dst) = Ipv4Net::new(octets.into(), *prefix) else {
            return Vec::new();
        };
        let mut route = Route::new(dst.into(), Some(gateway.into()));
        // Without a router, the destination is on the link.
        route.scope = gateway.is_unspecified().then_some(SCOPE_LINK);
        routes.push(route);
        bytes = rest.get(4..).unwrap_or_default();
    }
    routes
}

/// Name resolution, which servers tell those who ask for it.
fn dns(options: &Options) -> Dns {
    let servers = get(options, option::DNS).unwrap_or_default();
    let (servers, _) = servers.as_chunks::<4>();
    let domain = get(options, option::DOMAIN).map(|text| {
        let text = String::from_utf8_lossy(text);
        text.trim_end_matches('\0').to_owned()
    });
    Dns {
        nameservers: servers
            .iter()
            .map(|server| Ipv4Addr::from(*server).to_string())
            .collect(),
        domain: domain.filter(|domain| !domain.is_empty()),
        ..Dns::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn sent_by(ipam: &Value, args: &[(&str, &str)]) -> Answer<Options> {
        let args: Vec<(String, String)> = args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        sent(ipam.as_object().unwrap(), &args)
    }

    #[test]
    fn options_are_named_numbered_and_taken_from_arguments() {
        let ipam = json!({"provide": [
                {"option": "host-name", "value": "fixed", "fromArg": "K8S_POD_NAME"},
                {"option": "user-class", "value": "cni"},
                {"option": "60", "fromArg": "MISSING"}],
            "request": [{"option": "121"}, {"option": "routers"}, {"option": "119"}]});
        let options = sent_by(&ipam, &[("K8S_POD_NAME", "web-1")]).unwrap();
        let expected: Options = vec![
            (77, b"cni".to_vec()),
            (12, b"web-1".to_vec()),
            (55, vec![121, 3, 119, 1]),
        ];
        let sorted = |mut options: Options| {
            options.sort();
            options
        };
        assert_eq!(sorted(options), sorted(expected));
        assert_eq!(sent_by(&json!({}), &[]).unwrap(), [(55, vec![3, 1])]);
        let none = json!({"request": [{"skipDefault": true}]});
        assert_eq!(sent_by(&none, &[]).unwrap(), []);
        for ipam in [
            json!({"provide": [{"option": "nonsense", "value": "x"}]}),
            json!({"provide": [{"option": "256", "value": "x"}]}),
            json!({"provide": [{"option": "12", "value": "x".repeat(256)}]}),
            json!({"provide": ["12"]}),
            json!({"request": [{"option": "nonsense"}]}),
        ] {
            assert!(sent_by(&ipam, &[]).is_err(), "{ipam}");
        }
    }

    fn result_of(options: &[(u8, &[u8])]) -> Answer<Value> {
        let options: Options = options
            .iter()
            .map(|(code, value)| (*code, value.to_vec()))
            .collect();
        let result = result([10, 1, 0, 9].into(), &options, Some(7))?;
        Ok(result.to_version(circuit_core::cni::CniVersion::LATEST))
    }

    #[test]
    fn results_are_those_of_the_stock_plugin() {
        let mask: (u8, &[u8]) = (option::MASK, &[255, 255, 0, 0]);
        let routers: (u8, &[u8]) = (option::ROUTERS, &[10, 1, 0, 1, 10, 1, 0, 2]);
        assert!(result_of(&[routers]).is_err());
        assert!(result_of(&[(option::MASK, &[255, 0, 255, 0])]).is_err());
        let plain = result_of(&[mask, routers]).unwrap();
        assert_eq!(
            plain["ips"],
            json!([{"address": "10.1.0.9/16", "gateway": "10.1.0.1"}])
        );
        let default = json!({"dst": "0.0.0.0/0", "gw": "10.1.0.1", "priority": 7});
        assert_eq!(plain["routes"], json!([default]));
        let old = (option::STATIC_ROUTES, &[172, 16, 0, 0, 10, 1, 0, 3, 9][..]);
        let routes = result_of(&[mask, routers, old]).unwrap()["routes"].clone();
        let classful = json!({"dst": "172.16.0.0/16", "gw": "10.1.0.3", "priority": 7});
        assert_eq!(routes, json!([classful, default]));
        let new = (
            option::CLASSLESS_ROUTES,
            &[12, 172, 16, 10, 1, 0, 3, 0, 0, 0, 0, 0][..],
        );
        let both = result_of(&[mask, routers, old, new]).unwrap();
        assert_eq!(
            both["routes"],
            json!([{"dst": "172.16.0.0/12", "gw": "10.1.0.3", "priority": 7},
                {"dst": "0.0.0.0/0", "gw": "0.0.0.0", "priority": 7, "scope": 253}])
        );
        assert_eq!(both["ips"][0]["gateway"], "10.1.0.1");
        let cut = (option::CLASSLESS_ROUTES, &[12, 172, 16, 10, 1, 0][..]);
        assert_eq!(
            result_of(&[mask, routers, cut]).unwrap()["routes"],
            json!([default])
        );
        let names: [(u8, &[u8]); 2] = [(option::DNS, &[9, 9, 9, 9]), (option::DOMAIN, b"lan\0")];
        let dns = result_of(&[mask, names[0], names[1]]).unwrap()["dns"].clone();
        assert_eq!(dns, json!({"nameservers": ["9.9.9.9"], "domain": "lan"}));
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 7),
        ) {
            let codes = [1, 3, 6, 15, 33, 121, 249];
            let options: Options = codes.into_iter().zip(values).collect();
            let _ = result([10, 1, 0, 9].into(), &options, None);
        }
    }
}
