//! The address management of a plugin: what its `ipam` names.

use circuit_core::cni::{CniResult, Dns, ErrorReport, code};
use serde_json::{Value, json};

use super::delegate::driver_for;
use super::{Answer, Call, Command, Options};

/// The plugin that manages the addresses.
#[derive(Clone, Copy)]
pub(super) struct Managed<'a> {
    kind: &'a str,
    call: &'a Call<'a>,
}

impl<'a> Managed<'a> {
    /// The one that the configuration names, if it does.
    pub(super) fn of(call: &'a Call<'a>) -> Answer<Option<Self>> {
        let Some(ipam) = Options::new(call.config).object("ipam")? else {
            return Ok(None);
        };
        let kind = Options::at(ipam, "ipam").text("type")?;
        Ok(kind.map(|kind| Self { kind, call }))
    }

    /// The one that the configuration has to name.
    pub(super) fn needed(call: &'a Call<'a>) -> Answer<Self> {
        Self::of(call)?.ok_or_else(|| {
            ErrorReport::new(
                code::INVALID_CONFIG,
                format!("{} needs ipam: name a type in it", call.kind()),
            )
        })
    }

    /// Whether leases are given back in messages from the container's
    /// interface, so that it must still be there. The stock bridge removes it
    /// first, and servers keep such leases until they expire.
    pub(super) fn gives_back_by_the_interface(&self) -> bool {
        self.kind == "dhcp"
    }

    /// Leases addresses: at least one.
    pub(super) fn add(&self) -> Answer<CniResult> {
        let result = self.lease()?;
        if result.ips.is_empty() {
            // It has leased nothing, or what it has is not known.
            self.release_again();
            return Err(ErrorReport::new(
                code::OTHER,
                format!("{} leased no address", self.kind),
            ));
        }
        Ok(result)
    }

    /// Leases addresses, be it none.
    pub(super) fn lease(&self) -> Answer<CniResult> {
        let leased = self.run(Command::Add);
        // An executable that failed may have leased something, as it has when its result
        // cannot be read. A driver takes back what it did, and refuses whoever has a lease.
        if leased.is_err() && driver_for(self.kind, self.call.config).is_none() {
            self.release_again();
        }
        Ok(leased?.unwrap_or_default())
    }

    /// Releases what was leased; no error when nothing is.
    pub(super) fn del(&self) -> Answer<()> {
        self.run(Command::Del).map(drop)
    }

    /// Releases what was leased for an ADD that fails for another reason.
    pub(super) fn release_again(&self) {
        if let Err(error) = self.del() {
            tracing::warn!(
                network = self.call.network(),
                container = self.call.container_id,
                error = error.text(),
                "the addresses of a failed attachment could not be released"
            );
        }
    }

    /// Says whether the leases are there.
    pub(super) fn check(&self) -> Answer<()> {
        self.run(Command::Check).map(drop)
    }

    /// Says whether addresses can be leased.
    pub(super) fn status(&self) -> Answer<()> {
        self.run(Command::Status).map(drop)
    }

    /// Releases what belongs to no attachment that is in use.
    pub(super) fn gc(&self) -> Answer<()> {
        self.run(Command::Gc).map(drop)
    }

    fn run(&self, command: Command) -> Answer<Option<CniResult>> {
        let Self { kind, call } = self;
        call.delegate.run(kind, command, call.config, call)
    }
}

/// The name resolution that the configuration asks for, if it does; that of
/// the address management counts otherwise.
pub(super) fn dns_of(call: &Call<'_>) -> Answer<Option<Dns>> {
    let Some(dns) = Options::new(call.config).object("dns")? else {
        return Ok(None);
    };
    let options = Options::at(dns, "dns");
    let lists = ["nameservers", "search", "options"];
    if options.text("domain")?.is_none() && lists.iter().all(|key| options.get(key).is_none()) {
        return Ok(None);
    }
    let only_dns = json!({"dns": Value::Object(dns.clone())});
    let result = CniResult::parse_or(&only_dns, call.version)
        .map_err(|e| ErrorReport::new(code::DECODING_FAILURE, e.message()))?;
    Ok(Some(result.dns))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use circuit_core::cni::{CniVersion, JsonObject};

    use super::*;
    use crate::driver::{Delegate, Sockets};

    /// Address management that leases nothing, and what it was asked for.
    #[derive(Default)]
    struct Fails(RefCell<Vec<Command>>);

    impl Delegate for Fails {
        fn run(
            &self,
            _kind: &str,
            command: Command,
            _config: &JsonObject,
            _call: &Call<'_>,
        ) -> Answer<Option<CniResult>> {
            self.0.borrow_mut().push(command);
            match command {
                Command::Add => Err(ErrorReport::new(code::DECODING_FAILURE, "no result")),
                _ => Ok(None),
            }
        }
    }

    #[test]
    fn an_executable_that_fails_is_told_to_release() {
        let asked = |kind: &str| {
            let config = json!({"name": "net", "type": "bridge", "ipam": {"type": kind}});
            let delegate = Fails::default();
            let call = Call {
                command: Command::Add,
                container_id: "web",
                netns: None,
                ifname: "eth0",
                args: &[],
                config: config.as_object().unwrap(),
                version: CniVersion::LATEST,
                prev: None,
                delegate: &delegate,
                sockets: &Sockets::default(),
            };
            let error = Managed::needed(&call).unwrap().add().unwrap_err();
            assert_eq!(error.code, code::DECODING_FAILURE);
            delegate.0.into_inner()
        };
        assert_eq!(asked("theirs"), [Command::Add, Command::Del]);
        // Who has a lease already keeps it.
        assert_eq!(asked("host-local"), [Command::Add]);
    }
}
