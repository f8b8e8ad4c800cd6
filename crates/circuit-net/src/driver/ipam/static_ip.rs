//! `static`: the addresses that the configuration or the runtime names.

use std::net::IpAddr;

use circuit_core::cni::{
    AnyCase as _, CniResult, Dns, ErrorReport, IpConfig, JsonObject, Route, code,
};
use ipnet::IpNet;

use super::{dns, invalid, object, only, routes, section, texts};
use crate::driver::{Answer, Call, Driver, Options, Unsupported, args};

const KEYS: [&str; 4] = ["type", "addresses", "routes", "dns"];

/// The driver of `static`.
#[derive(Debug)]
pub(crate) struct Static;

/// What the result is made of.
struct Settings {
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Driver for Static {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        only(config, &KEYS)?;
        let ipam = config.find("ipam");
        let entries = ipam.and_then(|ipam| ipam.find("addresses")?.as_array());
        entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.as_object())
            .try_for_each(|entry| {
                Options::at(entry, "ipam.addresses").only(&["address", "gateway"])
            })
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let settings = Settings::parse(call)?;
        Ok(CniResult {
            ips: settings.ips,
            routes: settings.routes,
            dns: settings.dns,
            ..CniResult::default()
        })
    }

    fn del(&self, _call: &Call<'_>) -> Answer<()> {
        Ok(())
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let settings = Settings::parse(call)?;
        let prev = call.needs_prev()?;
        for ip in settings.ips.iter().filter(|ip| ip.gateway.is_some()) {
            let same = |other: &&IpConfig| other.address.addr() == ip.address.addr();
            if let Some(other) = prev.ips.iter().find(same)
                && other.gateway != ip.gateway
            {
                return Err(ErrorReport::new(
                    code::OTHER,
                    format!(
                        "{} has another gateway than it is configured with: attach it again",
                        ip.address
                    ),
                ));
            }
        }
        Ok(())
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        section(call.config).map(drop)
    }
}

impl Settings {
    fn parse(call: &Call<'_>) -> Answer<Self> {
        let options = Options::at(section(call.config)?, "ipam");
        args::only(call, "static", &["IP", "GATEWAY"])?;
        let mut ips = configured(&options)?;
        ips.extend(from_args(call)?);
        // What the runtime names takes the place of all others.
        for (name, value) in [
            ("args.cni.ips", call.cni_arg("ips")),
            ("runtimeConfig.ips", call.runtime_config("ips")),
        ] {
            let named = texts(value, name)?;
            if !named.is_empty() {
                let named = named.into_iter().map(|text| without_gateway(name, text));
                ips = named.collect::<Answer<_>>()?;
            }
        }
        Ok(Self {
            ips,
            routes: routes(&options)?,
            dns: match options.object("dns")? {
                Some(object) => dns(&Options::at(object, "ipam.dns"))?,
                None => Dns::default(),
            },
        })
    }
}

/// The addresses of the configuration.
fn configured(options: &Options<'_>) -> Answer<Vec<IpConfig>> {
    let parse = |(n, value)| {
        let path = format!("ipam.addresses[{n}]");
        let entry = Options::at(object(value, &path)?, &path);
        let address = entry.text("address")?.unwrap_or_default();
        let gateway: Option<IpAddr> = entry.parsed("gateway", "an address")?;
        Ok(IpConfig {
            gateway,
            ..without_gateway(&format!("{path}.address"), address)?
        })
    };
    let entries = options.array("addresses")?;
    entries.iter().enumerate().map(parse).collect()
}

/// The addresses of `CNI_ARGS`, each with the gateway that is in its subnet.
fn from_args(call: &Call<'_>) -> Answer<Vec<IpConfig>> {
    let list = |key| {
        let texts = call.arg(key).filter(|text| !text.is_empty());
        texts
            .into_iter()
            .flat_map(|texts| texts.split(','))
            .map(str::trim)
    };
    let addresses = list("IP").map(|text| without_gateway("CNI_ARGS IP", text));
    let mut ips = addresses.collect::<Answer<Vec<_>>>()?;
    for text in list("GATEWAY") {
        let gateway: IpAddr = text
            .parse()
            .map_err(|_| invalid(format!("CNI_ARGS GATEWAY: {text:?} is not an address")))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(&gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

fn without_gateway(name: &str, text: &str) -> Answer<IpConfig> {
    let address: IpNet = text.parse().map_err(|_| {
        invalid(format!(
            "{name}: {text:?} is not an address with a prefix length, such as 10.88.0.2/16"
        ))
    })?;
    Ok(IpConfig {
        address,
        gateway: None,
        interface: None,
    })
}
