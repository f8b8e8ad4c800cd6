//! Address management: plugins that other plugins ask for addresses, by the
//! `ipam` part of their configuration.

mod circuit;
mod host_local;
mod pools;
mod static_ip;

use std::net::IpAddr;

use circuit_core::cni::{AnyCase as _, Dns, ErrorReport, JsonObject, Route, code, is_network_name};
use ipnet::IpNet;
use serde_json::Value;

use super::{Answer, Call, Options, Unsupported};

pub(super) use circuit::Circuit;
pub(super) use host_local::HostLocal;
pub(super) use pools::leases;
pub use pools::pools;
pub(super) use static_ip::Static;

/// The `ipam` part of a plugin's configuration.
fn section(config: &JsonObject) -> Answer<&JsonObject> {
    match config.find("ipam") {
        Some(Value::Object(ipam)) => Ok(ipam),
        None | Some(Value::Null) => Err(invalid("ipam is missing: say how addresses are given")),
        Some(other) => Err(ErrorReport::new(
            code::DECODING_FAILURE,
            format!("ipam is {other}, not an object"),
        )),
    }
}

/// Refuses what is not among `known` in the `ipam` part. The other keys are
/// the calling plugin's.
fn only(config: &JsonObject, known: &[&str]) -> Result<(), Unsupported> {
    match config.find("ipam") {
        Some(Value::Object(ipam)) => Options::at(ipam, "ipam").only(known),
        // An error when it is used.
        _ => Ok(()),
    }
}

/// The network's name, which is part of paths.
fn network<'a>(call: &Call<'a>) -> Answer<&'a str> {
    let name = call.network();
    if is_network_name(name) {
        return Ok(name);
    }
    Err(invalid(format!("name {name:?} is no network's name")))
}

/// The routes under `routes`. Their details are read whatever version is
/// spoken: a calling plugin sets them.
fn routes(options: &Options<'_>) -> Answer<Vec<Route>> {
    let route = |(n, value)| {
        let path = format!("ipam.routes[{n}]");
        route(&Options::at(object(value, &path)?, &path))
    };
    options
        .array("routes")?
        .iter()
        .enumerate()
        .map(route)
        .collect()
}

fn route(options: &Options<'_>) -> Answer<Route> {
    let dst: Option<IpNet> = options.parsed("dst", "a destination with a prefix length")?;
    let dst = dst.ok_or_else(|| invalid("a route of ipam.routes has no dst"))?;
    // Zero is what "not said" looks like for these three.
    let said = |key| Ok::<_, ErrorReport>(options.number(key)?.filter(|n: &u32| *n != 0));
    Ok(Route {
        dst,
        gw: options.parsed("gw", "an address")?,
        mtu: said("mtu")?,
        advmss: said("advmss")?,
        priority: said("priority")?,
        table: options.number("table")?,
        scope: options.number("scope")?,
    })
}

/// Name resolution as it is written in a configuration.
fn dns(options: &Options<'_>) -> Answer<Dns> {
    let texts = |key| {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(ErrorReport::new(
                code::DECODING_FAILURE,
                format!("dns: {key} has {other}, not a string"),
            )),
        };
        options
            .array(key)?
            .iter()
            .map(text)
            .collect::<Answer<Vec<_>>>()
    };
    Ok(Dns {
        nameservers: texts("nameservers")?,
        domain: options.text("domain")?.map(str::to_owned),
        search: texts("search")?,
        options: texts("options")?,
    })
}

/// The texts in an array that is handed over, such as requested addresses.
fn texts<'a>(value: Option<&'a Value>, name: &str) -> Answer<Vec<&'a str>> {
    let wrong = |value: &Value| {
        ErrorReport::new(
            code::DECODING_FAILURE,
            format!("{name} has {value}, not a string"),
        )
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values
            .iter()
            .map(|value| value.as_str().ok_or_else(|| wrong(value)))
            .collect(),
        Some(other) => Err(wrong(other)),
    }
}

fn object<'a>(value: &'a Value, path: &str) -> Answer<&'a JsonObject> {
    value.as_object().ok_or_else(|| {
        ErrorReport::new(
            code::DECODING_FAILURE,
            format!("{path} is {value}, not an object"),
        )
    })
}

/// IPv4 written as IPv6 is IPv4.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn invalid(text: impl Into<String>) -> ErrorReport {
    ErrorReport::new(code::INVALID_CONFIG, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn routes_keep_their_details() {
        let ipam = json!({"routes": [
            {"dst": "0.0.0.0/0"},
            {"dst": "10.0.0.0/8", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360,
             "priority": 0, "table": 0, "scope": 253},
        ]});
        let ipam = ipam.as_object().unwrap();
        let routes = routes(&Options::at(ipam, "ipam")).unwrap();
        assert_eq!(routes[0], Route::new("0.0.0.0/0".parse().unwrap(), None));
        let detailed = &routes[1];
        assert_eq!((detailed.mtu, detailed.advmss), (Some(1400), Some(1360)));
        assert_eq!((detailed.priority, detailed.table), (None, Some(0)));
        assert_eq!(detailed.scope, Some(253));
        for wrong in [
            json!({"routes": [{}]}),
            json!({"routes": [3]}),
            json!({"routes": [{"dst": "10.0.0.0"}]}),
            json!({"routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}),
        ] {
            let wrong = wrong.as_object().unwrap().clone();
            let routes = super::routes(&Options::at(&wrong, "ipam"));
            assert!(routes.is_err(), "{wrong:?}");
        }
    }
}
