//! DNS for containers: names found in the map that look-ups use, everything else
//! asked of the host's servers for those who may.
//!
//! [`Dns`] answers messages, however they came: by [`server`] over UDP and TCP,
//! on addresses of the host or by gRPC.

mod answer;
mod figures;
mod gateways;
mod limit;
mod list;
mod message;
mod reach;
mod server;
mod service;
mod streams;
#[cfg(test)]
mod tests;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use circuit_core::fleet::Snapshot;
use circuit_core::zone::{Networks, Scope, Zone};

pub use answer::{Answered, Client, Door};
pub use circuit_core::zone::{DOMAIN, Domain};
pub use figures::Figures;
pub use gateways::Gateways;
pub use reach::answers_to;
pub use server::{Listener, serve};
pub use upstream::{Servers, Upstreams};

use limit::{Limits, Shares};

/// What DNS is made of.
pub trait Sources: Send + Sync {
    /// The containers, as maps; the first is this node's own.
    fn maps(&self) -> Vec<Snapshot>;

    /// The networks of this node.
    fn networks(&self) -> Arc<Networks>;
}

/// How DNS answers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The containers' domain.
    pub domain: Domain,
    /// For how many seconds others may remember an answer.
    pub ttl: u32,
    /// Where it listens beside networks' gateways.
    pub listen: Vec<SocketAddr>,
    /// How many names that are not ours one source may ask for in a second.
    pub limit: u32,
}

/// DNS for containers.
pub struct Dns {
    settings: Settings,
    sources: Arc<dyn Sources>,
    upstreams: Upstreams,
    limits: Limits,
    /// Of the questions for other servers that are under way.
    shares: Arc<Shares>,
    figures: Figures,
    /// Where resolvers find the zone's server: they know one port.
    addresses: Vec<IpAddr>,
    /// This host's, when it asks itself.
    own: Vec<IpAddr>,
}

/// As many questions for other servers one source may have under way: names of a domain
/// whose servers are silent would keep others from asking.
const UNDER_WAY: usize = 64;
/// The port of DNS.
const PORT: u16 = 53;

impl Dns {
    /// Answers from those sources, and from those servers for other names.
    pub fn new(settings: Settings, sources: Arc<dyn Sources>, servers: Servers) -> Self {
        let beyond = |at: &&SocketAddr| !at.ip().is_loopback() && !at.ip().is_unspecified();
        let listen = || settings.listen.iter().filter(beyond);
        let known = listen().filter(|at| at.port() == PORT);
        Self {
            addresses: known.map(SocketAddr::ip).collect(),
            own: listen().map(SocketAddr::ip).collect(),
            upstreams: Upstreams::new(servers, settings.listen.clone()),
            limits: Limits::new(settings.limit),
            shares: Shares::new(UNDER_WAY),
            figures: Figures::default(),
            settings,
            sources,
        }
    }

    /// How it answers.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it has answered so far.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Where containers find it that have no gateway of this node.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether it answers there for everybody already.
    fn listens_on(&self, address: IpAddr) -> bool {
        let there = |at: &SocketAddr| {
            let all = at.ip().is_unspecified() && at.is_ipv4() == address.is_ipv4();
            at.port() == PORT && (all || at.ip() == address)
        };
        self.settings.listen.iter().any(there)
    }

    /// Finds out which servers ask this one, for ever.
    pub async fn watch(&self) {
        self.upstreams.watch_for_loops().await;
    }

    /// Looks at the zones as they are now.
    fn zone<'a>(
        &'a self,
        networks: &'a Networks,
        maps: &'a [Snapshot],
        scope: Scope<'a>,
    ) -> Zone<'a> {
        Zone {
            domain: &self.settings.domain,
            networks,
            maps,
            scope,
            servers: &self.addresses,
        }
    }
}

/// The time that somebody waits for another server's answer, all in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers whatever these bytes are, for a fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    struct Nothing;
    impl Sources for Nothing {
        fn maps(&self) -> Vec<Snapshot> {
            Vec::new()
        }
        fn networks(&self) -> Arc<Networks> {
            Arc::default()
        }
    }
    let Ok(domain) = Domain::parse(DOMAIN) else {
        return;
    };
    let settings = Settings {
        domain,
        ttl: 0,
        listen: Vec::new(),
        limit: 1,
    };
    let dns = Dns::new(settings, Arc::new(Nothing), Servers::These(Vec::new()));
    let client = Client {
        peer: IpAddr::from([127, 0, 0, 1]),
        local: None,
        door: &Door::Open,
        stream: false,
    };
    let mut out = Vec::new();
    if let Answered::Now = dns.answer(bytes, &client, &mut out) {
        let read = hickory_proto::op::Message::from_vec(&out);
        assert!(read.is_ok() && out.len() <= usize::from(message::LONGEST_DATAGRAM));
    }
}
