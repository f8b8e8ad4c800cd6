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

use super::{Answer, Call, Driver, Options, Unsupported};
use crate::netlink::traits::{Change, Traits, by_name};
use crate::netns::in_netns;
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
        if change != Change::default() {
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
            Some(_) => call.container()?,
            None => return backup::remove(&path),
        };
        match by_name(&mut socket, call.ifname).map_err(|e| refused(call, &e))? {
            None => backup::remove(&path),
            Some(link) => match socket.request(&backup.change().message(link.index)) {
                Ok(_) => backup::remove(&path),
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
        let found = by_name(&mut *call.container()?, call.ifname);
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
        if let Some(mac) = mac_of_args(call.args)? {
            wanted.mac = Some(mac);
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

    fn change(&self) -> Answer<Change> {
        Ok(Change {
            mac: self.mac.as_deref().map(parse_mac).transpose()?,
            mtu: self.mtu,
            tx_queue: self.tx_queue,
            promisc: self.promisc.then_some(true),
            allmulti: self.allmulti,
            up: None,
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

    fn check_link(&self, ifname: &str, link: &Traits) -> Answer<()> {
        let compare = |what: &str, wanted: Option<String>, found: String| match wanted {
            Some(wanted) if wanted != found => {
                Err(differs(&format!("{what} of {ifname}"), &wanted, &found))
            }
            _ => Ok(()),
        };
        let mac = self.mac.as_deref().map(parse_mac).transpose()?;
        compare("mac", mac.as_deref().map(format_mac), format_mac(&link.mac))?;
        let text = |flag: bool| flag.to_string();
        compare("promisc", Some(text(self.promisc)), text(link.promisc))?;
        let number = |number: u32| number.to_string();
        compare("mtu", self.mtu.map(number), number(link.mtu))?;
        compare("allmulti", self.allmulti.map(text), text(link.allmulti))?;
        compare("txQLen", self.tx_queue.map(number), number(link.tx_queue))
    }
}

/// Keeps what is about to be changed, and changes it.
fn tune(call: &Call<'_>, data_dir: &Path, change: &Change) -> Answer<()> {
    let mut socket = call.container()?;
    let found = by_name(&mut socket, call.ifname).map_err(|e| refused(call, &e))?;
    let link = found.ok_or_else(|| missing(call))?;
    let backup = Backup::of(&link, change);
    let path = backup::path(data_dir, call);
    backup.write(&path)?;
    if let Err(error) = socket.request(&change.message(link.index)) {
        // A part of it may have been done; if not even this is possible, DEL
        // tries again with what was kept.
        if socket.request(&backup.change().message(link.index)).is_ok() {
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

/// `MAC` of `CNI_ARGS`. As in the stock plugin, other arguments are refused
/// unless they say themselves that they may be passed over.
fn mac_of_args(args: &[(String, String)]) -> Answer<Option<String>> {
    let get = |name: &str| args.iter().find(|(key, _)| key == name);
    let ignore = get("IgnoreUnknown")
        .is_some_and(|(_, value)| matches!(value.to_lowercase().as_str(), "1" | "true"));
    let unknown = args
        .iter()
        .find(|(key, _)| key != "MAC" && key != "IgnoreUnknown");
    if let Some((key, _)) = unknown
        && !ignore
    {
        return Err(ErrorReport::new(
            code::OTHER,
            format!("CNI_ARGS: {key} is not known to tuning: add IgnoreUnknown=1"),
        ));
    }
    Ok(get("MAC")
        .map(|(_, mac)| mac.clone())
        .filter(|mac| !mac.is_empty()))
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

/// Reads a hardware address: pairs of digits between colons or hyphens, or
/// fours between dots, of 6, 8 or 20 bytes.
fn parse_mac(text: &str) -> Answer<Vec<u8>> {
    let read = || {
        let (separator, digits) = match text.chars().find(|c| !c.is_ascii_hexdigit())? {
            c @ (':' | '-') => (c, 2),
            '.' => ('.', 4),
            _ => return None,
        };
        let mut bytes = Vec::new();
        for group in text.split(separator) {
            let hex = group.len() == digits && group.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u16::from_str_radix(group, 16).ok().filter(|_| hex)?;
            let number = number.to_be_bytes();
            bytes.extend(&number[2 - digits / 2..]);
        }
        matches!(bytes.len(), 6 | 8 | 20).then_some(bytes)
    };
    read().ok_or_else(|| {
        ErrorReport::new(
            code::OTHER,
            format!("mac {text:?} is no hardware address, such as 02:00:00:00:00:01"),
        )
    })
}

fn format_mac(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
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

    #[test]
    fn hardware_addresses_are_read_as_go_reads_them() {
        for text in ["02:00:00:00:0A:01", "02-00-00-00-0a-01", "0200.0000.0a01"] {
            assert_eq!(parse_mac(text).unwrap(), [2, 0, 0, 0, 10, 1], "{text}");
        }
        for text in [
            "",
            "02",
            "02:00",
            "2:0:0:0:a:1",
            "02:00:00:00:0a:1g",
            "020000000a01",
        ] {
            assert!(parse_mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_arguments_need_leave() {
        let args = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let mac = args(&[("MAC", "m")]);
        assert_eq!(mac_of_args(&mac).unwrap().as_deref(), Some("m"));
        assert!(mac_of_args(&args(&[("MAC", "m"), ("K8S", "x")])).is_err());
        let leave = args(&[("IgnoreUnknown", "true"), ("K8S", "x")]);
        assert_eq!(mac_of_args(&leave).unwrap(), None);
    }

    proptest! {
        #[test]
        fn addresses_survive_text(bytes in proptest::collection::vec(any::<u8>(), 6)) {
            prop_assert_eq!(parse_mac(&format_mac(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_no_panic(text in ".{0,40}") {
            let _ = (parse_mac(&text), sysctl_file(&text, "eth0"));
        }
    }
}
