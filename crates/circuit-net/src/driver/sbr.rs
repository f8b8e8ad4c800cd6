//! `sbr`: source-based routing. What comes from an address of the interface
//! is routed by a table of its own, so that answers leave by the interface
//! that the question came in by.

use std::fs::File;
use std::net::IpAddr;

use circuit_core::cni::{CniResult, ErrorReport, IpConfig, JsonObject, code};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::steps::{Step, Steps};
use super::{Answer, Call, Driver, Options, Unsupported};
use crate::netlink::rules::{self, LinkRoute, Rule};
use crate::netlink::{Beside, MAIN_TABLE, Message, Netlink, RouteSpec};
use crate::netns::is_netns;

/// The first table that is used, unless one is named.
const FIRST_TABLE: u32 = 100;

const RT_SCOPE_LINK: u8 = 253;
/// The metric of routes of IPv6 that name none.
const IP6_RT_PRIO_USER: u32 = 1024;

/// The driver.
#[derive(Debug)]
pub(super) struct Sbr;

impl Driver for Sbr {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&["table", "gateways", "addSourceHints"])
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let result = call.needs_prev()?.clone();
        let table = table(call.config)?;
        let ips = own_ips(call, &result)?;
        let _lock = lock(call)?;
        let mut socket = call.container()?;
        let mut steps = Steps::default();
        let done = match table {
            Some(table) => {
                let rules = ips.iter().map(|ip| rule_step(ip.address.addr(), table));
                steps.take(&mut socket, rules.collect())
            }
            None => move_routes(&mut steps, &mut socket, call, &ips),
        };
        if let Err(error) = done {
            steps.take_back(&mut socket);
            return Err(error);
        }
        Ok(result)
    }

    /// The routes go with the interface; the rules would stay.
    fn del(&self, call: &Call<'_>) -> Answer<()> {
        if !call.netns.is_some_and(is_netns) {
            return Ok(());
        }
        let table = table(call.config)?;
        let _lock = lock(call)?;
        let mut socket = call.container()?;
        let found = socket.link(call.ifname).map_err(|e| unread(&e))?;
        let Some(link) = found else {
            return Ok(());
        };
        let addresses = socket.addresses(link.index).map_err(|e| unread(&e))?;
        let own = |ip: IpAddr| addresses.iter().any(|it| it.address.addr() == ip);
        let rules = rules::rules(&mut socket).map_err(|e| unread(&e))?;
        let removals: Vec<Message> = rules
            .iter()
            .filter(|rule| table.is_none_or(|table| rule.table == table))
            .filter(|rule| rule.source.is_some_and(|source| own(source.addr())))
            .map(Rule::removal)
            .collect();
        let removed = socket.pipeline(&removals).map_err(|e| unread(&e))?;
        let mut errors = removed.into_iter().filter_map(Result::err);
        match errors.find(|error| error.errno() != Some(libc::ENOENT)) {
            None => Ok(()),
            Some(error) => Err(failed("remove a rule", &error)),
        }
    }

    /// The stock plugin checks nothing.
    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let table = table(call.config)?;
        let ips = own_ips(call, call.needs_prev()?)?;
        let rules = rules::rules(&mut *call.container()?).map_err(|e| unread(&e))?;
        for ip in ips {
            let ip = ip.address.addr();
            let mut rules = rules.iter().filter(|rule| rule.source == Some(ip.into()));
            if !rules.any(|rule| table.is_none_or(|table| rule.table == table)) {
                return Err(ErrorReport::new(
                    code::OTHER,
                    format!("no rule routes what comes from {ip}: attach the container again"),
                ));
            }
        }
        Ok(())
    }
}

fn table(config: &JsonObject) -> Answer<Option<u32>> {
    Options::new(config).number("table")
}

/// The addresses of the interface. One that names no interface counts too.
fn own_ips<'a>(call: &Call<'_>, result: &'a CniResult) -> Answer<Vec<&'a IpConfig>> {
    if result.ips.is_empty() {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("interface {} has no addresses in prevResult", call.ifname),
        ));
    }
    let own = |ip: &&IpConfig| {
        let interface = ip.interface.and_then(|index| result.interfaces.get(index));
        interface.is_none_or(|interface| interface.name == call.ifname)
    };
    Ok(result.ips.iter().filter(own).collect())
}

/// Keeps other runs in the same namespace out, stock ones too, since they
/// choose tables by looking which are free.
fn lock(call: &Call<'_>) -> Answer<Flock<File>> {
    let path = call.needs_netns()?;
    let failed = |error: &dyn std::fmt::Display| {
        let path = path.display();
        ErrorReport::new(code::IO_FAILURE, format!("cannot lock {path}: {error}"))
    };
    let mut file = File::open(path).map_err(|e| failed(&e))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EINTR)) => file = unlocked,
            Err((_, errno)) => return Err(failed(&errno)),
        }
    }
}

fn rule_step(source: IpAddr, table: u32) -> Step {
    Step {
        what: format!("add a rule for {source}"),
        make: rules::add_rule(source, table),
        undo: rules::del_rule(source, table),
    }
}

fn default_step(gateway: IpAddr, index: u32, table: u32) -> Step {
    let everywhere = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    let route = RouteSpec {
        table: Some(table),
        ..RouteSpec::new(everywhere, Some(gateway), index)
    };
    Step {
        what: format!("add a default route by {gateway}"),
        make: route.add(Beside::Refused),
        undo: route.remove(),
    }
}

/// Gives each address a table with the interface's routes that belong to it,
/// then takes those out of the main table, or leaves it the networks for packets that
/// have no source yet.
fn move_routes(
    steps: &mut Steps,
    socket: &mut Netlink,
    call: &Call<'_>,
    ips: &[&IpConfig],
) -> Answer<()> {
    let (options, ifname) = (Options::new(call.config), call.ifname);
    let gateways = Gateways::read(&options)?;
    let hints = options.flag("addSourceHints")?;
    let rules = rules::rules(socket).map_err(|e| unread(&e))?;
    let link = socket.link(ifname).map_err(|e| unread(&e))?;
    let link = link.ok_or_else(|| {
        ErrorReport::new(code::OTHER, format!("interface {ifname} does not exist"))
    })?;
    let routes = rules::link_routes(socket, link.index).map_err(|e| unread(&e))?;
    let mut table = free_table(&rules, FIRST_TABLE);
    let mut copies = Vec::new();
    for ip in ips {
        copies.push(rule_step(ip.address.addr(), table));
        copies.extend(
            gateways
                .of(ip)
                .map(|gateway| default_step(gateway, link.index, table)),
        );
        let own = routes.iter().filter(|route| belongs(route, ip));
        copies.extend(own.map(|route| Step {
            what: format!("copy a route to table {table}"),
            make: route.copy_to(table),
            undo: route.removal_from(table),
        }));
        table = free_table(&rules, table.saturating_add(1));
    }
    steps.take(socket, copies)?;
    let kept = |route: &LinkRoute| hints && route.is_to_the_link();
    if hints {
        steps.restore(routes.iter().map(|route| route.copy_to(MAIN_TABLE)));
        steps.take(
            socket,
            ips.iter().map(|ip| hint_step(ip, link.index)).collect(),
        )?;
    }
    let removals = routes
        .iter()
        .filter(|route| !kept(route))
        .map(|route| Step {
            what: "take a route out of the main table".to_owned(),
            make: route.removal_from(MAIN_TABLE),
            undo: route.copy_to(MAIN_TABLE),
        });
    steps.take(socket, removals.collect())
}

/// The gateways that the configuration names instead of those of the addresses: at most
/// one of each family.
struct Gateways(Vec<IpAddr>);

impl Gateways {
    fn read(options: &Options<'_>) -> Answer<Self> {
        let invalid = |text: String| ErrorReport::new(code::INVALID_CONFIG, text);
        let mut read: Vec<IpAddr> = Vec::new();
        for value in options.array("gateways")? {
            let gateway = value.as_str().and_then(|text| text.parse().ok());
            let gateway: IpAddr =
                gateway.ok_or_else(|| invalid(format!("gateways: {value} is no address")))?;
            // An IPv4 address may be written as one of IPv6.
            let gateway = gateway.to_canonical();
            if let Some(other) = read.iter().find(|it| it.is_ipv4() == gateway.is_ipv4()) {
                return Err(invalid(format!(
                    "gateways has {other} and {gateway}: name one of each family"
                )));
            }
            read.push(gateway);
        }
        Ok(Self(read))
    }

    fn of(&self, ip: &IpConfig) -> Option<IpAddr> {
        let is_ipv4 = ip.address.addr().is_ipv4();
        let named = self.0.iter().find(|gateway| gateway.is_ipv4() == is_ipv4);
        named.copied().or(ip.gateway)
    }
}

/// Has packets to an address' network get that address as their source.
fn hint_step(ip: &IpConfig, index: u32) -> Step {
    let route = RouteSpec {
        src: Some(ip.address.addr()),
        scope: RT_SCOPE_LINK,
        ..RouteSpec::new(ip.address.trunc(), None, index)
    };
    // Of IPv6, the kernel's own lies beside it, with another metric.
    let priority = if ip.address.addr().is_ipv6() {
        IP6_RT_PRIO_USER
    } else {
        0
    };
    let added = RouteSpec { priority, ..route };
    Step {
        what: format!("prefer {} to {}", ip.address.addr(), route.dst),
        make: route.add(Beside::Replaced),
        undo: added.remove(),
    }
}

/// Whether a route is for packets from this address: by its source, its
/// gateway, or because it has neither.
fn belongs(route: &LinkRoute, ip: &IpConfig) -> bool {
    let within = |it: Option<IpAddr>| it.is_some_and(|it| ip.address.contains(&it));
    within(route.source)
        || within(route.gateway)
        || (route.source.is_none() && route.gateway.is_none())
}

/// The first table from `table` on to which no rule leads.
fn free_table(rules: &[Rule], table: u32) -> u32 {
    let free = |table: &u32| *table != MAIN_TABLE && !rules.iter().any(|rule| rule.table == *table);
    (table..=u32::MAX).find(free).unwrap_or(u32::MAX)
}

fn unread(error: &dyn std::fmt::Display) -> ErrorReport {
    failed("read the rules and routes", error)
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> ErrorReport {
    ErrorReport::new(code::OTHER, format!("cannot {what}: {error}"))
}
