//! `dhcp`: addresses from a DHCP server, by a daemon that renews them: the
//! stock one, or [`LeaseKeeper`](crate::dhcp::LeaseKeeper).

use std::io;
use std::path::{Path, PathBuf};

use circuit_core::cni::{AnyCase as _, CniResult, ErrorReport, JsonObject, code};

use super::{Answer, Call, Driver, Options, Unsupported};
use crate::dhcp::DEFAULT_SOCKET;
use crate::dhcp::rpc::{self, ALLOCATE, Arguments, CHECK, GC, NO_METHOD, RELEASE};

const KEYS: [&str; 5] = ["type", "daemonSocketPath", "request", "provide", "priority"];

/// The driver.
#[derive(Debug)]
pub(super) struct Dhcp;

impl Driver for Dhcp {
    /// The configuration is that of the plugin that has this one give out
    /// addresses.
    fn supports(&self, config: &JsonObject) -> Result<(), Unsupported> {
        match config.find("ipam").and_then(|ipam| ipam.as_object()) {
            Some(ipam) => Options::at(ipam, "ipam").only(&KEYS),
            None => Ok(()),
        }
    }

    fn add(&self, call: &Call<'_>) -> Answer<CniResult> {
        ask(call, ALLOCATE)?.map_err(|text| refused(&text))
    }

    fn del(&self, call: &Call<'_>) -> Answer<()> {
        match ask(call, RELEASE)? {
            Ok(_) => Ok(()),
            Err(text) => Err(refused(&text)),
        }
    }

    /// A stock daemon can only be asked for a lease anew.
    fn check(&self, call: &Call<'_>) -> Answer<()> {
        let checked = match ask(call, CHECK)? {
            Err(text) if text.starts_with(NO_METHOD) => ask(call, ALLOCATE)?,
            checked => checked,
        };
        checked.map(drop).map_err(|text| refused(&text))
    }

    fn status(&self, call: &Call<'_>) -> Answer<()> {
        let socket = socket(call.config)?;
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => Ok(()),
            Err(error) => Err(ErrorReport::new(
                code::NOT_AVAILABLE,
                unreachable(&socket, &error),
            )),
        }
    }

    /// A stock daemon cannot be told.
    fn gc(&self, call: &Call<'_>) -> Answer<()> {
        match ask(call, GC)? {
            Err(text) if !text.starts_with(NO_METHOD) => Err(refused(&text)),
            _ => Ok(()),
        }
    }
}

/// Asks the daemon; the inner error is its own.
fn ask(call: &Call<'_>, method: &str) -> Answer<Result<CniResult, String>> {
    let socket = socket(call.config)?;
    let pairs: Vec<String> = call
        .args
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let arguments = Arguments {
        container_id: call.container_id.to_owned(),
        netns: call.netns.map(absolute).transpose()?.unwrap_or_default(),
        ifname: call.ifname.to_owned(),
        args: pairs.join(";"),
        path: String::new(),
        stdin: serde_json::to_vec(call.config).map_err(|e| refused(&e))?,
    };
    rpc::call(&socket, method, &arguments)
        .map_err(|error| ErrorReport::new(code::OTHER, unreachable(&socket, &error)))
}

/// The daemon may have another working directory.
fn absolute(netns: &Path) -> Answer<String> {
    let path = std::path::absolute(netns).map_err(|e| refused(&e))?;
    Ok(path.to_string_lossy().into_owned())
}

fn socket(config: &JsonObject) -> Answer<PathBuf> {
    let ipam = Options::new(config).object("ipam")?;
    let path = ipam
        .map(|ipam| Options::at(ipam, "ipam").text("daemonSocketPath"))
        .transpose()?
        .flatten();
    Ok(path.unwrap_or(DEFAULT_SOCKET).into())
}

fn unreachable(socket: &Path, error: &io::Error) -> String {
    let socket = socket.display();
    format!("cannot ask the dhcp daemon at {socket}: {error}: see that it runs")
}

fn refused(error: &dyn std::fmt::Display) -> ErrorReport {
    ErrorReport::new(code::OTHER, format!("dhcp daemon: {error}"))
}
