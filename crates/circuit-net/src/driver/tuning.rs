//! `tuning`: sysctls of the container's namespace, and traits of its
//! interface: hardware address, MTU, queue length, promiscuous and
//! all-multicast mode.

mod allowlist;
mod backup;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use circuit_core::Error;
use circuit_core::cni::{CniResult, ErrorReport, JsonObject, code};
use serde_json::Value;

use super::{Answer, Call, Driver, Options, Unsupported, args};
use crate::netlink::{Link, LinkSpec, Mac};
use crate::netns::{in_netns, is_netns};
use backup::Backup;

const DATA_DIR: &str = "/run/cni/tuning";
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";
const SYSCTLS: &str = "/proc/sys/net/";

const KEYS: [&str; 7] = [
    "dataDir", "sysctl", "mac", "promisc", "mtu", "allmulti", "txQLen",
];

/// The driver.
#[derive(Debug)]
pub(super) struct Tuning;

impl Driver for Tuning {
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        Options::new(config).only(&KEYS)
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        let wanted = Wanted::read(call)?;
        allowlist::check(
            Path::new(ALLOWLIST),
            wanted.sysctls.iter().map(|(key, _)| key),
        )?;
        let mut result = call.needs_prev()?.clone();
        let change = wanted.change()?;
        wanted.write_sysctls(call)?;
        if wanted.changes_link() {
            tune(call, &wanted.data_dir, &change)?;
        }
        if let Some(mac) = wanted.mac {
            // The host's end counts too when it has the same name.
            for interface in &mut result.interfaces {
                if interface.name == call.ifname {
                    interface.mac = Some(mac.clone());
                }
            }
        }
        Ok(result)
    }

    /// An interface that goes with its namespace needs no restoring; one that
    /// goes back to the host does.
    fn del(&self, call: &Call<'_>) -> Answer<()> {
        let path = backup::path(&data_dir(call.config)?, call);
        let Some(backup) = Backup::read(&path) else {
            return backup::remove(&path);
        };
        let mut socket = match call.netns {
            Some(netns) if is_netns(netns) => call.container()?,
            _ => return backup::remove(&path),
        };
        match socket.link(call.ifname).map_err(|e| refused(call, &e))? {
            None => backup::remove(&path),
            Some(link) => match socket.set_link(link.index, &backup.change()) {
                Ok(()) => backup::remove(&path),
                Err(error) => {
                    // Detaching goes on without it, as the stock plugin's does.
                    let (id, ifname) = (call.container_id, call.ifname);
                    tracing::warn!(container = id, ifname, %error, "interface keeps its tuning");
                    Ok(())
                }
            },
        }
    }

    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let wanted = Wanted::read(call)?;
        call.needs_prev()?;
        wanted.check_sysctls(call)?;
        let found = call.container()?.link(call.ifname);
        let link = found
            .map_err(|e| refused(call, &e))?
            .ok_or_else(|| missing(call))?;
        wanted.check_link(call.ifname, &link)
    }
}

/// What the configuration asks for.
struct Wanted {
    sysctls: Vec<(String, String)>,
    mac: Option<String>,
    promisc: bool,
    mtu: Option<u32>,
    allmulti: Option<bool>,
    tx_queue: Option<u32>,
    data_dir: PathBuf,
}

impl Wanted {
    /// The configuration, under what `CNI_ARGS`, the runtime and `args` say.
    fn read(call: &Call<'_>) -> Answer<Self> {
        let options = Options::new(call.config);
        let mut wanted = Self {
            sysctls: Vec::new(),
            mac: options.text("mac")?.map(str::to_owned),
            promisc: options.flag("promisc")?,
            mtu: options.number("mtu")?,
            allmulti: options.opt_flag("allmulti")?,
            tx_queue: options.number("txQLen")?,
            data_dir: data_dir(call.config)?,
        };
        wanted.add_sysctls(options)?;
        args::only(call, "tuning", &["MAC"])?;
        if let Some(mac) = call.arg("MAC").filter(|mac| !mac.is_empty()) {
            wanted.mac = Some(mac.to_owned());
        }
        if let Some(runtime) = options.object("runtimeConfig")?
            && let Some(mac) = Options::at(runtime, "runtimeConfig").text("mac")?
        {
            wanted.mac = Some(mac.to_owned());
        }
        if let Some(args) = options.object("args")?
            && let Some(args) = Options::at(args, "args").object("cni")?
        {
            wanted.override_by(Options::at(args, "args.cni"))?;
        }
        wanted.mtu = wanted.mtu.filter(|mtu| *mtu != 0);
        Ok(wanted)
    }

    fn override_by(&mut self, args: Options<'_>) -> Answer<()> {
        self.add_sysctls(args)?;
        if args.get("mac").is_some() {
            // An empty one says that there is none.
            self.mac = args.text("mac")?.map(str::to_owned);
        }
        self.promisc = args.opt_flag("promisc")?.unwrap_or(self.promisc);
        self.mtu = args.number("mtu")?.or(self.mtu);
        self.allmulti = args.opt_flag("allmulti")?.or(self.allmulti);
        self.tx_queue = args.number("txQLen")?.or(self.tx_queue);
        Ok(())
    }

    fn add_sysctls(&mut self, options: Options<'_>) -> Answer<()> {
        for (key, value) in options.object("sysctl")?.into_iter().flatten() {
            let Value::String(value) = value else {
                return Err(ErrorReport::new(
                    code::DECODING_FAILURE,
                    format!("sysctl {key} is {value}, not a string: put it in quotes"),
                ));
            };
            self.sysctls.retain(|(known, _)| known != key);
            self.sysctls.push((key.clone(), value.clone()));
        }
        Ok(())
    }

    fn changes_link(&self) -> bool {
        let (mac, mtu) = (self.mac.is_some(), self.mtu.is_some());
        mac || mtu || self.promisc || self.allmulti.is_some() || self.tx_queue.is_some()
    }

    fn change(&self) -> Answer<LinkSpec<'static>> {
        Ok(LinkSpec {
            mac: self.mac.as_deref().map(parse_mac).transpose()?,
            mtu: self.mtu,
            tx_queue: self.tx_queue,
            promisc: self.promisc.then_some(true),
            allmulti: self.allmulti,
            ..LinkSpec::default()
        })
    }

    fn files(&self, ifname: &str) -> Answer<Vec<(PathBuf, &str)>> {
        let sysctls = self.sysctls.iter();
        sysctls
            .map(|(key, value)| Ok((sysctl_file(key, ifname)?, value.as_str())))
            .collect()
    }

    /// The files are those of the namespace that the writing thread is in.
    fn write_sysctls(&self, call: &Call<'_>) -> Answer<()> {
        let files = self.files(call.ifname)?;
        let netns = call.needs_netns()?;
        if files.is_empty() {
            return Ok(());
        }
        let write = |path: &Path, value: &str| {
            let mut file = fs::OpenOptions::new().write(true).open(path)?;
            file.write_all(value.as_bytes())
        };
        let written = in_netns(netns, || {
            let mut files = files.iter();
            files.try_for_each(|(path, value)| {
                write(path, value).map_err(|e| {
                    Error::internal(format!("cannot set {} to {value:?}: {e}", path.display()))
                })
            })
        });
        written.map_err(ErrorReport::from)
    }

    fn check_sysctls(&self, call: &Call<'_>) -> Answer<()> {
        let files = self.files(call.ifname)?;
        if files.is_empty() {
            return Ok(());
        }
        let read = || -> Vec<io::Result<String>> {
            let paths = files.iter().map(|(path, _)| path);
            paths.map(fs::read_to_string).collect()
        };
        let found = in_netns(call.needs_netns()?, || Ok(read()))?;
        for ((path, wanted), found) in files.iter().zip(found) {
            let name = path.display();
            let found = found.map_err(|e| {
                ErrorReport::new(code::IO_FAILURE, format!("cannot read {name}: {e}"))
            })?;
            // The kernel writes tabs between the numbers of a list.
            if !wanted.split_whitespace().eq(found.split_whitespace()) {
                return Err(differs(&format!("sysctl {name}"), wanted, found.trim_end()));
            }
        }
        Ok(())
    }

    fn check_link(&self, ifname: &str, link: &Link) -> Answer<()> {
        let compare = |what: &str, wanted: Option<String>, found: String| match wanted {
            Some(wanted) if wanted != found => {
                Err(differs(&format!("{what} of {ifname}"), &wanted, &found))
            }
            _ => Ok(()),
        };
        let mac = self.mac.as_deref().map(parse_mac).transpose()?;
        let found = link.mac.clone().unwrap_or_default();
        compare("mac", mac.map(|mac| mac.to_string()), found)?;
        let text = |flag: bool| flag.to_string();
        compare(
            "promisc",
            Some(text(self.promisc)),
            text(link.promiscuity != 0),
        )?;
        let number = |number: u32| number.to_string();
        compare(
            "mtu",
            self.mtu.map(number),
            number(link.mtu.unwrap_or_default()),
        )?;
        compare("allmulti", self.allmulti.map(text), text(link.allmulti))?;
        compare("txQLen", self.tx_queue.map(number), number(link.tx_queue))
    }
}

/// Keeps what is about to be changed, and changes it.
fn tune(call: &Call<'_>, data_dir: &Path, change: &LinkSpec<'_>) -> Answer<()> {
    let mut socket = call.container()?;
    let found = socket.link(call.ifname).map_err(|e| refused(call, &e))?;
    let link = found.ok_or_else(|| missing(call))?;
    let backup = Backup::of(&link, change);
    let path = backup::path(data_dir, call);
    backup.write(&path)?;
    if let Err(error) = socket.set_link(link.index, change) {
        // A part of it may have been done; if not even this is possible, DEL
        // tries again with what was kept.
        if socket.set_link(link.index, &backup.change()).is_ok() {
            backup::remove(&path)?;
        }
        return Err(refused(call, &error));
    }
    Ok(())
}

fn data_dir(config: &JsonObject) -> Answer<PathBuf> {
    let dir = Options::new(config).text("dataDir")?;
    Ok(dir.unwrap_or(DATA_DIR).into())
}

/// The file of a sysctl: dots are slashes, and the first `IFNAME` stands for
/// the interface, which is the only way to one with a dot in its name.
fn sysctl_file(key: &str, ifname: &str) -> Answer<PathBuf> {
    let path = key.replace('.', "/").replacen("IFNAME", ifname, 1);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["net", rest @ ..] if !rest.is_empty() && !parts.contains(&"..") => {
            Ok(Path::new(SYSCTLS).join(rest.join("/")))
        }
        _ => Err(ErrorReport::new(
            code::OTHER,
            format!("sysctl {key:?} is not one of net: others are not the container's own"),
        )),
    }
}

fn parse_mac(text: &str) -> Answer<Mac> {
    text.parse().map_err(|error: Error| {
        let text = format!("mac: {}", error.message());
        ErrorReport::new(code::OTHER, text)
    })
}

fn differs(what: &str, wanted: &str, found: &str) -> ErrorReport {
    ErrorReport::new(code::OTHER, format!("{what} is {found}, not {wanted}"))
}

fn refused(call: &Call<'_>, error: &dyn std::fmt::Display) -> ErrorReport {
    ErrorReport::new(
        code::OTHER,
        format!("cannot tune interface {}: {error}", call.ifname),
    )
}

fn missing(call: &Call<'_>) -> ErrorReport {
    refused(call, &"it does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sysctls_of_other_parts_are_refused() {
        let file = |key| sysctl_file(key, "eth0.5").map(|path| path.display().to_string());
        for (key, path) in [
            ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
            ("net/core/somaxconn", "/proc/sys/net/core/somaxconn"),
            (
                "net.ipv4.conf.IFNAME.rp_filter",
                "/proc/sys/net/ipv4/conf/eth0.5/rp_filter",
            ),
            (
                "net.ipv4.conf.eth0.5.rp_filter",
                "/proc/sys/net/ipv4/conf/eth0/5/rp_filter",
            ),
        ] {
            assert_eq!(file(key).unwrap(), path);
        }
        for key in ["kernel.hostname", "net", "network.x", "", "/etc/net"] {
            assert!(file(key).is_err(), "{key}");
        }
        assert!(sysctl_file("net/IFNAME/kernel", "..").is_err());
    }

    proptest! {
        #[test]
        fn any_key_is_of_net_or_refused(text in ".{0,40}") {
            if let Ok(path) = sysctl_file(&text, "eth0") {
                prop_assert!(path.starts_with(SYSCTLS));
                prop_assert!(path.components().all(|part| part.as_os_str() != ".."));
            }
        }
    }
}
