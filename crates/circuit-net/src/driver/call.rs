//! What a driver is told.

use std::cell::{OnceCell, RefCell, RefMut};
use std::fs::File;
use std::path::Path;

use circuit_core::cni::{
    AnyCase as _, CniResult, CniVersion, ErrorReport, JsonObject, ValidAttachment, code,
};
use serde_json::Value;

use super::{Answer, Delegate};
use crate::netlink::Netlink;
use crate::netns::Place;

pub use crate::cni::Command;

/// One operation of one plugin on one attachment.
pub struct Call<'a> {
    /// The operation.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC and VERSION.
    pub container_id: &'a str,
    /// `CNI_NETNS`; `None` on DEL when the namespace is gone.
    pub netns: Option<&'a Path>,
    /// `CNI_IFNAME`; empty for STATUS, GC and VERSION.
    pub ifname: &'a str,
    /// `CNI_ARGS`, as pairs.
    pub args: &'a [(String, String)],
    /// The plugin's configuration with what the runtime put into it: `name`,
    /// `cniVersion`, `runtimeConfig`, `args`, `prevResult`.
    pub config: &'a JsonObject,
    /// The version that is spoken.
    pub version: CniVersion,
    /// `prevResult`, read.
    pub prev: Option<&'a CniResult>,
    /// How other plugins are run: address management first of all.
    pub delegate: &'a dyn Delegate,
    /// The netlink sockets of this operation.
    pub sockets: &'a Sockets,
}

/// Netlink sockets of the host and of the container, opened when they are
/// first used and shared by all drivers of a chain. A socket stays in the
/// namespace it was made in; the thread that uses it does not go there.
#[derive(Default)]
pub struct Sockets {
    host: OnceCell<RefCell<Netlink>>,
    container: OnceCell<RefCell<Netlink>>,
}

impl<'a> Call<'a> {
    /// The network's name.
    pub fn network(&self) -> &'a str {
        self.config
            .find("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The plugin's `type`.
    pub fn kind(&self) -> &'a str {
        self.config
            .find("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The value of a key of `runtimeConfig`.
    pub fn runtime_config(&self, key: &str) -> Option<&'a Value> {
        self.config.find("runtimeConfig")?.find(key)
    }

    /// The value of a key of `args.cni`.
    pub fn cni_arg(&self, key: &str) -> Option<&'a Value> {
        self.config.find("args")?.find("cni")?.find(key)
    }

    /// The value of a key of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&'a str> {
        self.args
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// GC: the attachments that are in use.
    ///
    /// # Errors
    /// When the configuration does not say, or not readably.
    pub fn valid(&self) -> Answer<Vec<ValidAttachment>> {
        ValidAttachment::of(self.config)
    }

    /// The container's namespace.
    ///
    /// # Errors
    /// Code 4 when there is none.
    pub fn needs_netns(&self) -> Answer<&'a Path> {
        self.netns
            .ok_or_else(|| ErrorReport::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is missing"))
    }

    /// The previous plugin's result.
    ///
    /// # Errors
    /// Code 7 when there is none: the plugin must be called in a chain.
    pub fn needs_prev(&self) -> Answer<&'a CniResult> {
        self.prev.ok_or_else(|| {
            ErrorReport::new(
                code::INVALID_CONFIG,
                format!(
                    "{} needs a prevResult: put it behind another plugin",
                    self.kind()
                ),
            )
        })
    }

    /// The netlink socket of the host, which is the namespace of this thread.
    ///
    /// # Errors
    /// Code 5 when it cannot be opened.
    pub fn host(&self) -> Answer<RefMut<'a, Netlink>> {
        open(&self.sockets.host, None)
    }

    /// The netlink socket of the container's namespace.
    ///
    /// # Errors
    /// Code 4 when there is no namespace, 5 when it cannot be opened.
    pub fn container(&self) -> Answer<RefMut<'a, Netlink>> {
        open(&self.sockets.container, Some(self.needs_netns()?))
    }

    /// Does something in the container's namespace, which is open already, and
    /// opens its netlink socket on the way.
    ///
    /// # Errors
    /// As [`container`](Self::container).
    pub(super) fn enter(&self, netns: &File, work: impl FnOnce() + Send) -> Answer<()> {
        let place = Place::open(netns, self.needs_netns()?);
        let socket = Netlink::open_in(place, work)?;
        // One that the chain has already is as good.
        self.sockets.container.get_or_init(|| RefCell::new(socket));
        Ok(())
    }
}

fn open<'a>(
    cell: &'a OnceCell<RefCell<Netlink>>,
    netns: Option<&Path>,
) -> Answer<RefMut<'a, Netlink>> {
    let cell = match cell.get() {
        Some(cell) => cell,
        None => {
            let socket = Netlink::open(netns).map_err(ErrorReport::from)?;
            cell.get_or_init(|| RefCell::new(socket))
        }
    };
    cell.try_borrow_mut()
        .map_err(|_| ErrorReport::new(code::IO_FAILURE, "the netlink socket is in use already"))
}
