//! The conversations of a client with servers.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::lease::Grant;
use super::packet::{Kind, Mac, Options, Packet, option};
use super::port::{Failure, Port, Target};

/// The largest message that is taken.
const MAX_MESSAGE: u16 = 1500;

/// The first pauses between tries to get a lease, and how many of them; after
/// those, pauses begin with the second and double.
const FAST_PAUSE: Duration = Duration::from_secs(2);
const FAST_TRIES: u32 = 4;
const SLOW_PAUSE: Duration = Duration::from_secs(4);

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// One question with its repetitions.
    pub exchange: Duration,
    /// The longest pause between tries.
    pub longest_pause: Duration,
    /// All tries to get a lease.
    pub acquisition: Duration,
}

impl Default for Timing {
    /// The times of the stock plugin.
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(10),
            longest_pause: Duration::from_secs(62),
            acquisition: Duration::from_secs(208),
        }
    }
}

/// A client on one interface.
pub(super) struct Client<'a> {
    pub(super) port: &'a Port,
    /// The options that go with each request, the identity first of all.
    pub(super) sent: &'a Options,
    /// Whether answers are to be broadcast.
    pub(super) broadcast: bool,
    pub(super) timing: Timing,
    /// Whether to give up.
    pub(super) stopped: &'a dyn Fn() -> bool,
}

impl Client<'_> {
    /// Gets a lease, with tries and pauses as the stock plugin makes them, but
    /// for those after a refusal.
    pub(super) fn acquire(&self) -> Result<Grant, Failure> {
        let end = Instant::now() + self.timing.acquisition;
        let (mut fast, mut slow) = (FAST_TRIES, SLOW_PAUSE);
        loop {
            let until = (Instant::now() + self.timing.exchange).min(end);
            let failure = match self.ask(None, until) {
                Err(failure @ (Failure::NoAnswer | Failure::Refused(_))) => failure,
                other => return other,
            };
            let pause = match fast {
                0 => {
                    let pause = slow;
                    slow = (slow * 2).min(self.timing.longest_pause);
                    pause
                }
                _ => {
                    fast -= 1;
                    match failure {
                        // Somebody else was faster: another address is free.
                        Failure::Refused(_) => continue,
                        _ => FAST_PAUSE,
                    }
                }
            };
            self.pause((Instant::now() + jittered(pause)).min(end))?;
            if Instant::now() >= end {
                return Err(failure);
            }
        }
    }

    /// Asks all servers for a lease, of a certain address if there is one.
    pub(super) fn ask(&self, wanted: Option<Ipv4Addr>, until: Instant) -> Result<Grant, Failure> {
        let mut discover = self.message(Kind::Discover, true);
        if let Some(address) = wanted {
            discover.set(option::REQUESTED_ADDRESS, address.octets().to_vec());
        }
        let offered = |_: Mac, offer: &Packet| {
            let good = offer.is(Kind::Offer)
                && !offer.yours.is_unspecified()
                && wanted.is_none_or(|wanted| wanted == offer.yours);
            good.then(|| Some((offer.yours, offer.server()?))).flatten()
        };
        let (address, server) =
            self.port
                .exchange(Target::ALL, &mut discover, until, self.stopped, offered)?;
        let mut request = Packet {
            transaction: discover.transaction,
            ..self.message(Kind::Request, true)
        };
        request.set(option::REQUESTED_ADDRESS, address.octets().to_vec());
        request.set(option::SERVER, server.octets().to_vec());
        self.request(Target::ALL, &mut request, until, Some(server))
    }

    /// Has the server renew a lease.
    pub(super) fn renew(&self, grant: &Grant, until: Instant) -> Result<Grant, Failure> {
        let target = Target {
            mac: grant.server_mac,
            address: grant.server,
        };
        let mut request = self.message(Kind::Request, false);
        request.client = grant.address;
        self.request(target, &mut request, until, Some(grant.server))
    }

    /// Has any server renew a lease.
    pub(super) fn rebind(&self, grant: &Grant, until: Instant) -> Result<Grant, Failure> {
        let mut request = self.message(Kind::Request, true);
        request.client = grant.address;
        self.request(Target::ALL, &mut request, until, None)
    }

    /// Gives a lease back. Servers do not answer that.
    pub(super) fn release(&self, grant: &Grant) -> Result<(), Failure> {
        let target = Target {
            mac: grant.server_mac,
            address: grant.server,
        };
        let mut release = Packet::new(Kind::Release, rand::random(), self.port.mac);
        release.client = grant.address;
        release.set(option::SERVER, grant.server.octets().to_vec());
        let identity = self
            .sent
            .iter()
            .find(|(code, _)| *code == option::CLIENT_ID);
        release.options.extend(identity.cloned());
        Ok(self.port.send(target, &release)?)
    }

    fn request(
        &self,
        target: Target,
        request: &mut Packet,
        until: Instant,
        server: Option<Ipv4Addr>,
    ) -> Result<Grant, Failure> {
        let address = request.client;
        let answered = |from: Mac, answer: &Packet| {
            if server.is_some() && answer.server() != server {
                return None;
            }
            if answer.is(Kind::Nak) {
                let text = answer.option(option::MESSAGE).unwrap_or_default();
                return Some(Err(refusal(text)));
            }
            let grant = Grant::of(answer, from)?;
            // The container has its address already.
            (address.is_unspecified() || grant.address == address).then_some(Ok(grant))
        };
        self.port
            .exchange(target, request, until, self.stopped, answered)?
    }

    fn message(&self, kind: Kind, to_all: bool) -> Packet {
        let mut packet = Packet::new(kind, rand::random(), self.port.mac);
        packet.broadcast = self.broadcast && to_all;
        packet.set(option::MAX_SIZE, MAX_MESSAGE.to_be_bytes().to_vec());
        for (code, value) in self.sent {
            packet.set(*code, value.clone());
        }
        packet
    }

    fn pause(&self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            if (self.stopped)() {
                return Err(Failure::Stopped);
            }
            let rest = until.saturating_duration_since(Instant::now());
            std::thread::sleep(rest.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

fn refusal(text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    Failure::Refused(match text.as_str() {
        "" => text,
        text => format!(": {text}"),
    })
}

/// A second more or less, so that clients that began together do not go on so.
fn jittered(pause: Duration) -> Duration {
    pause + Duration::from_millis(rand::random_range(0..2000)) - Duration::from_secs(1)
}
