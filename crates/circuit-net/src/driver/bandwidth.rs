//! `bandwidth`: how fast a container may receive (a token bucket on the host's
//! end of its veth pair) and send (one on an intermediate device, through which
//! all that the host's end receives is sent).

use circuit_core::cni::{CniResult, ErrorReport, Interface, JsonObject, code};
use sha2::{Digest, Sha512};

use super::steps::{Step, Steps};
use super::{Answer, Call, Driver, Options, Unsupported};
use crate::netlink::tc::{self, TokenBucket};
use crate::netlink::{
    Link, LinkSpec, Message, Netlink, NetlinkError, delete_link_named, found, get_link,
};

/// How long packets may wait, at most, in microseconds.
const LATENCY: f64 = 25_000.0;
const MICROSECONDS: f64 = 1_000_000.0;

/// The kernel's ticks of 64 ns in a microsecond.
const TICKS: f64 = 1000.0 / 64.0;

const KEYS: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// The longest text that an interface takes.
const MAX_ALIAS: usize = 255;

/// The driver.
#[derive(Debug)]
pub(super) struct Bandwidth;

impl Driver for Bandwidth {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        let options = Options::new(config);
        // Those of versions before 1.6.
        options.not_done(&["shapedSubnets", "unshapedSubnets"])?;
        options.only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let limits = Limits::read(call)?;
        let mut result = call.needs_prev()?.clone();
        if limits.is_empty() {
            return Ok(result);
        }
        let mut host = call.host()?;
        let end = host_end(call, &mut host, &result)?;
        result
            .interfaces
            .extend(shape(call, &mut host, &end, &limits)?);
        Ok(result)
    }

    /// What is on the host's end goes with it.
    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let ifb = ifb_name(call.network(), call.container_id);
        remove(&mut *call.host()?, &ifb)
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let limits = Limits::read(call)?;
        let prev = call.needs_prev()?;
        let mut host = call.host()?;
        let end = host_end(call, &mut host, prev)?;
        if let Some(bucket) = limits.ingress {
            check_bucket(&mut host, &end, bucket)?;
        }
        if let Some(bucket) = limits.egress {
            let ifb = ifb_name(call.network(), call.container_id);
            let ifb = host
                .link(&ifb)
                .map_err(|e| refused(&ifb, &e))?
                .ok_or_else(|| refused(&ifb, &"it does not exist"))?;
            let redirected = tc::redirects(&mut host, end.index);
            if !redirected.is_ok_and(|to| to.contains(&ifb.index)) {
                let text = format!("what it receives does not go to {}", ifb.name);
                return Err(refused(&end.name, &text));
            }
            check_bucket(&mut host, &ifb, bucket)?;
        }
        Ok(())
    }

    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        let used: Vec<String> = call
            .valid()?
            .iter()
            .map(|attachment| ifb_name(call.network(), &attachment.container_id))
            .collect();
        let Some(alias) = alias(call.network()) else {
            return Ok(());
        };
        let mut host = call.host()?;
        let all = host.links_of_kind("ifb").map_err(|e| refused("ifb", &e))?;
        let orphans = all
            .iter()
            .filter(|link| link.alias.as_ref() == Some(&alias) && !used.contains(&link.name));
        orphans
            .map(|link| remove(&mut host, &link.name))
            .fold(Ok(()), Answer::and)
    }
}

/// The buckets that the configuration asks for.
#[derive(Debug, PartialEq, Eq)]
struct Limits {
    ingress: Option<TokenBucket>,
    egress: Option<TokenBucket>,
}

impl Limits {
    /// The plugin's own keys, if it has one of them, else the runtime's.
    fn read(call: &Call<'_>) -> Answer<Self> {
        let own = Options::new(call.config);
        if KEYS.iter().any(|key| own.get(key).is_some()) {
            return Self::of(own);
        }
        let bandwidth = own
            .object("runtimeConfig")?
            .map(|runtime| Options::at(runtime, "runtimeConfig").object("bandwidth"))
            .transpose()?
            .flatten();
        match bandwidth {
            Some(keys) => Self::of(Options::at(keys, "runtimeConfig.bandwidth")),
            None => Ok(Self {
                ingress: None,
                egress: None,
            }),
        }
    }

    fn of(options: Options<'_>) -> Answer<Self> {
        let bucket = |rate: &str, burst: &str| {
            let number = |key| -> Answer<u64> { Ok(options.number(key)?.unwrap_or(0)) };
            bucket(number(rate)?, number(burst)?).map_err(|e| e.context(format!("{rate}, {burst}")))
        };
        Ok(Self {
            ingress: bucket("ingressRate", "ingressBurst")?,
            egress: bucket("egressRate", "egressBurst")?,
        })
    }

    fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// The bucket for a rate in bits a second and a burst in bits.
fn bucket(rate: u64, burst: u64) -> Answer<Option<TokenBucket>> {
    let wrong = |text: &str| Err(ErrorReport::new(code::OTHER, text));
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (_, 0) => return wrong("a rate needs a burst too"),
        (0, _) => return wrong("a burst needs a rate too"),
        (1..8, _) => return wrong("the rate is less than 8 bits a second"),
        _ => {}
    }
    let (rate, burst) = (rate / 8, burst / 8);
    let burst = match u32::try_from(burst) {
        Ok(burst) if burst < u32::MAX => burst,
        _ => return wrong("the burst is more than 4 GB"),
    };
    let time = whole(f64::from(burst) * MICROSECONDS / rate as f64);
    Ok(Some(TokenBucket {
        rate,
        limit: whole(rate as f64 * LATENCY / MICROSECONDS).wrapping_add(burst),
        buffer: whole(f64::from(time) * TICKS),
    }))
}

/// The whole part. What does not fit wraps around, as it does in the stock
/// plugin: the buckets are to be the same.
fn whole(number: f64) -> u32 {
    number as i64 as u32
}

/// The name of the device through which a container's attachment sends.
fn ifb_name(network: &str, container_id: &str) -> String {
    let hash = Sha512::digest(format!("{network}{container_id}"));
    let digits: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("bwp{digits}")
}

/// The text that marks the devices of a network, for GC: their names do not
/// tell whose they are.
fn alias(network: &str) -> Option<String> {
    let text = format!("cni bandwidth {network}");
    (text.len() <= MAX_ALIAS).then_some(text)
}

/// The host's end of the container's veth pair, which must be one of the
/// result's interfaces.
fn host_end(call: &Call<'_>, host: &mut Netlink, result: &CniResult) -> Answer<Link> {
    let ifname = call.ifname;
    let inside = call
        .container()?
        .link(ifname)
        .map_err(|e| refused(ifname, &e))?
        .ok_or_else(|| refused(ifname, &"it does not exist"))?;
    let peer = inside.parent.filter(|_| inside.is("veth"));
    let peer = peer.ok_or_else(|| refused(ifname, &"it is no end of a veth pair"))?;
    let end = host.link_at(peer).map_err(|e| refused(ifname, &e))?;
    let known = |name: &str| {
        let mut interfaces = result.interfaces.iter();
        interfaces.any(|interface| interface.sandbox.is_none() && interface.name == name)
    };
    end.filter(|end| known(&end.name)).ok_or_else(|| {
        refused(
            ifname,
            &"its other end is not among the interfaces of prevResult on the host",
        )
    })
}

/// Makes what the limits ask for. The answer is the device, if there is one.
fn shape(
    call: &Call<'_>,
    host: &mut Netlink,
    end: &Link,
    limits: &Limits,
) -> Answer<Option<Interface>> {
    let mut steps = Steps::default();
    let made = make(&mut steps, call, host, end, limits);
    if made.is_err() {
        steps.take_back(host);
    }
    made
}

fn make(
    steps: &mut Steps,
    call: &Call<'_>,
    host: &mut Netlink,
    end: &Link,
    limits: &Limits,
) -> Answer<Option<Interface>> {
    let step = |name: &str, make, undo| Step {
        what: format!("limit the bandwidth of interface {name}"),
        make,
        undo,
    };
    let ifb = ifb_name(call.network(), call.container_id);
    let mut first = Vec::new();
    if let Some(bucket) = limits.ingress {
        let add = tc::add_token_bucket(end.index, bucket);
        first.push(step(&end.name, add, tc::del_root(end.index)));
    }
    let no_ingress = tc::del_ingress(end.index);
    if limits.egress.is_some() {
        let add = add_ifb(&ifb, end.mtu);
        first.push(step(&ifb, add, delete_link_named(&ifb)));
        let ingress = tc::add_ingress(end.index);
        first.push(step(&end.name, ingress, no_ingress.clone()));
    }
    // From here on, the ingress discipline is known to be this one.
    steps.take(host, first)?;
    let Some(bucket) = limits.egress else {
        return Ok(None);
    };
    let ifb = marked(call, host, &ifb)?;
    let redirect = tc::add_redirect(end.index, ifb.index);
    let shaped = tc::add_token_bucket(ifb.index, bucket);
    let second = vec![
        step(&end.name, redirect, no_ingress),
        step(&ifb.name, shaped, tc::del_root(ifb.index)),
    ];
    steps.take(host, second)?;
    Ok(Some(Interface {
        mac: ifb.mac,
        name: ifb.name,
        ..Interface::default()
    }))
}

/// Marks the new device, and looks it up.
fn marked(call: &Call<'_>, host: &mut Netlink, name: &str) -> Answer<Link> {
    let mut messages = vec![get_link(name)];
    // The mark is for GC only: without it, all else is well.
    let alias = alias(call.network());
    messages.extend(alias.as_deref().map(|alias| {
        let marked = LinkSpec {
            alias: Some(alias),
            ..LinkSpec::named(name)
        };
        // Without an index, the name is that of the interface to change.
        marked.change(0)
    }));
    let answers = host.pipeline(&messages).map_err(|e| refused(name, &e))?;
    let answer = answers.into_iter().next();
    found(answer.unwrap_or(Err(NetlinkError::Lost)))
        .map_err(|e| refused(name, &e))?
        .ok_or_else(|| refused(name, &"it went at once"))
}

fn check_bucket(host: &mut Netlink, link: &Link, wanted: TokenBucket) -> Answer<()> {
    let found = tc::qdiscs(host, link.index).map_err(|e| refused(&link.name, &e))?;
    match found.iter().find_map(|qdisc| qdisc.bucket) {
        Some(bucket) if bucket == wanted => Ok(()),
        Some(bucket) => {
            let text = format!("its bucket is {bucket:?}, not {wanted:?}");
            Err(refused(&link.name, &text))
        }
        None => Err(refused(&link.name, &"it has no token bucket")),
    }
}

fn remove(host: &mut Netlink, name: &str) -> Answer<()> {
    match host.request(&delete_link_named(name)) {
        Ok(_) | Err(NetlinkError::Kernel(libc::ENODEV, _)) => Ok(()),
        Err(error) => Err(refused(name, &error)),
    }
}

/// A device that is nothing but a queue, whose own is left empty as the stock
/// plugin does.
fn add_ifb(name: &str, mtu: Option<u32>) -> Message {
    let spec = LinkSpec {
        mtu,
        up: Some(true),
        tx_queue: Some(0),
        ..LinkSpec::named(name)
    };
    spec.create("ifb", |message| message)
}

fn refused(name: &str, error: &dyn std::fmt::Display) -> ErrorReport {
    ErrorReport::new(
        code::OTHER,
        format!("cannot limit the bandwidth of interface {name}: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_stock_plugin() {
        // `printf netweb | sha512sum`
        assert_eq!(ifb_name("net", "web"), "bwp437252eec243");
        assert_eq!(ifb_name("net", "web"), ifb_name("ne", "tweb"));
    }

    #[test]
    fn rates_and_bursts_come_in_pairs() {
        let limit = bucket(8_000_000, 80_000).unwrap().unwrap();
        assert_eq!(
            (limit.rate, limit.limit, limit.buffer),
            (1_000_000, 35_000, 156_250)
        );
        assert_eq!(bucket(0, 0).unwrap(), None);
        for (rate, burst) in [(1, 0), (0, 1), (7, 8000), (8, u64::MAX), (8, 8 << 32)] {
            assert!(bucket(rate, burst).is_err(), "{rate} {burst}");
        }
    }
}
