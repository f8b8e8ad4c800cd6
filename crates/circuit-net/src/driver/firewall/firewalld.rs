//! The backend `firewalld`: the container's addresses are made sources of a
//! zone, over D-Bus.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use circuit_core::{Error, Result as CoreResult};

use crate::driver::dbus::{Bus, DbusError, Method};

const SERVICE: &str = "org.fedoraproject.FirewallD1";

/// A connection to firewalld.
pub(super) struct Firewalld {
    bus: Bus,
}

/// Whether firewalld runs, as long as a [`FirewalldWatch`] hears of it.
static HEARD: Mutex<Option<bool>> = Mutex::new(None);

fn hear(runs: Option<bool>) {
    *HEARD.lock().unwrap_or_else(PoisonError::into_inner) = runs;
}

/// Whether firewalld runs. Where there is a bus, which is on most hosts, asking takes
/// a tenth of the time of a connect.
pub(super) fn is_running() -> bool {
    let heard = *HEARD.lock().unwrap_or_else(PoisonError::into_inner);
    heard.unwrap_or_else(ask)
}

fn ask() -> bool {
    Bus::connect().is_ok_and(|mut bus| bus.has(SERVICE).unwrap_or(false))
}

impl Firewalld {
    pub(super) fn connect() -> Result<Self, DbusError> {
        Ok(Self {
            bus: Bus::connect()?,
        })
    }

    pub(super) fn add(&mut self, zone: &str, address: IpAddr) -> Result<(), DbusError> {
        match self.call("addSource", zone, address) {
            Err(DbusError::Refused(text)) if text.contains("ZONE_ALREADY_SET") => Ok(()),
            other => other.map(drop),
        }
    }

    /// As [`add`](Self::add), without an entry in firewalld's log when it is told of
    /// what it knows.
    pub(super) fn ensure(&mut self, zone: &str, address: IpAddr) -> Result<(), DbusError> {
        match self.has(zone, address)? {
            true => Ok(()),
            false => self.add(zone, address),
        }
    }

    /// What is not there need not be removed.
    pub(super) fn remove(&mut self, zone: &str, address: IpAddr) -> Result<(), DbusError> {
        match self.call("removeSource", zone, address) {
            Err(DbusError::Refused(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn has(&mut self, zone: &str, address: IpAddr) -> Result<bool, DbusError> {
        let body = self.call("querySource", zone, address)?;
        Ok(body.iter().any(|byte| *byte != 0))
    }

    fn call(&mut self, name: &str, zone: &str, address: IpAddr) -> Result<Vec<u8>, DbusError> {
        let method = Method {
            service: SERVICE,
            path: "/org/fedoraproject/FirewallD1",
            interface: "org.fedoraproject.FirewallD1.zone",
            name,
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        self.bus
            .call(&method, &[zone, &format!("{address}/{bits}")])
    }
}

/// The signals that firewalld gives when it has forgotten what it was told while
/// it ran, and that the bus gives when it starts or ends. Anybody may give a signal:
/// those of others are not listened to.
const FORGETTING: [&str; 2] = [
    "type='signal',sender='org.fedoraproject.FirewallD1',\
     interface='org.fedoraproject.FirewallD1',member='Reloaded'",
    "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',\
     arg0='org.fedoraproject.FirewallD1'",
];

/// Hears of the reloads of firewalld, its starts and ends. Each of them loses the
/// sources of zones that were added while it ran: they are to be
/// [mended](crate::driver::Driver::mend). One in a process is enough; while it is
/// there, drivers need not ask whether firewalld runs.
pub struct FirewalldWatch {
    bus: Bus,
    runs: bool,
}

impl FirewalldWatch {
    /// Listens on the system bus.
    ///
    /// # Errors
    /// When there is no bus, or it refuses.
    pub fn open() -> CoreResult<Self> {
        let listening = || {
            let mut bus = Bus::connect()?;
            for rule in FORGETTING {
                bus.listen(rule)?;
            }
            let mut watch = Self { bus, runs: false };
            watch.look()?;
            Ok(watch)
        };
        listening().map_err(unheard)
    }

    /// Whether firewalld runs, as far as was heard.
    pub fn runs(&self) -> bool {
        self.runs
    }

    fn look(&mut self) -> Result<(), DbusError> {
        self.runs = self.bus.has(SERVICE)?;
        hear(Some(self.runs));
        Ok(())
    }

    /// Waits, at most for `timeout`; returns whether firewalld was reloaded, has
    /// started or has ended meanwhile.
    ///
    /// # Errors
    /// When the bus is gone.
    pub fn wait(&mut self, timeout: Duration) -> CoreResult<bool> {
        // The bus also tells everybody the names that they have themselves.
        let heard = self.bus.signal(timeout).map_err(unheard)?;
        match heard.as_ref().map(|signal| signal.member.as_str()) {
            Some("Reloaded") => Ok(true),
            Some("NameOwnerChanged") => self.look().map_err(unheard).map(|()| true),
            _ => Ok(false),
        }
    }
}

impl Drop for FirewalldWatch {
    fn drop(&mut self) {
        hear(None);
    }
}

fn unheard(error: DbusError) -> Error {
    Error::unavailable(format!("firewalld cannot be heard: {error}"))
}
