//! A lease: whose it is, what the server granted, and when something is to be
//! done about it.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::packet::{Kind, Mac, Options, Packet, get, option};

/// How long a lease lasts whose server does not say.
const DEFAULT_TIME: u32 = 3600;

/// Renewed more often than this, a lease would be nothing but messages.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// So long nothing is done for a lease that was just granted, whatever times its server
/// tells: each renewal is a thread, messages and a file. Shorter leases are none.
const LEAST_REST: Duration = Duration::from_secs(3);

/// Who has a lease.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The container.
    pub container_id: String,
    /// The network's name.
    pub network: String,
    /// The interface's name in the container.
    pub ifname: String,
}

/// What is kept of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lease {
    #[serde(flatten)]
    pub(super) holder: Holder,
    /// The container's namespace, and what tells it from another in the same
    /// place.
    pub(super) netns: PathBuf,
    pub(super) dev: u64,
    pub(super) inode: u64,
    /// The options that the client sends with each request.
    #[serde(with = "hexadecimal")]
    pub(super) sent: Options,
    pub(super) grant: Grant,
}

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grant {
    pub(super) address: Ipv4Addr,
    pub(super) server: Ipv4Addr,
    /// Where the server, or a relay that leads to it, was seen.
    pub(super) server_mac: Mac,
    #[serde(with = "hexadecimal")]
    pub(super) options: Options,
    /// When, in seconds of Unix.
    pub(super) since: u64,
}

/// What a lease is in need of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing yet.
    Nothing(Duration),
    /// To be renewed by its server, for which there is that much time.
    Renewal(Duration),
    /// To be renewed by any server.
    Rebinding(Duration),
    /// It is over.
    Expired,
}

impl Grant {
    /// What an answer that accepts grants; `None` for other answers, and for what lasts
    /// no time.
    pub(super) fn of(answer: &Packet, from: Mac) -> Option<Self> {
        let grants = answer.is(Kind::Ack) && !answer.yours.is_unspecified();
        grants.then_some(())?;
        let grant = Self {
            address: answer.yours,
            server: answer.server()?,
            server_mac: from,
            options: answer.options.clone(),
            since: now(),
        };
        if grant.time() < LEAST_REST {
            tracing::debug!(server = %grant.server, lasts = ?grant.time(), "lease is too short");
            return None;
        }
        Some(grant)
    }

    /// How long it lasts.
    pub(super) fn time(&self) -> Duration {
        seconds(self.number(option::LEASE_TIME).unwrap_or(DEFAULT_TIME))
    }

    fn rebind_after(&self) -> Duration {
        let told = self.number(option::REBINDING_TIME).map(seconds);
        let after = told.unwrap_or(self.time() * 85 / 100);
        after.max(LEAST_REST).min(self.time())
    }

    fn renew_after(&self) -> Duration {
        let told = self.number(option::RENEWAL_TIME).map(seconds);
        let after = told.unwrap_or(self.time() / 2);
        after.max(LEAST_REST).min(self.rebind_after())
    }

    /// The time since it was granted. A clock that was set back counts as a
    /// grant of just now.
    pub(super) fn age(&self) -> Duration {
        seconds_of(now().saturating_sub(self.since))
    }

    /// What is needed at an age.
    pub(super) fn need(&self, age: Duration) -> Need {
        let (renew, rebind, end) = (self.renew_after(), self.rebind_after(), self.time());
        if age < renew {
            Need::Nothing(renew - age)
        } else if age < rebind {
            Need::Renewal(rebind - age)
        } else if age < end {
            Need::Rebinding(end - age)
        } else {
            Need::Expired
        }
    }

    fn number(&self, code: u8) -> Option<u32> {
        let value = get(&self.options, code)?.first_chunk()?;
        Some(u32::from_be_bytes(*value))
    }
}

impl Need {
    /// How long to wait after a try that came to nothing: half of what is
    /// left, or a minute, but not longer than there is a use.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Nothing(rest) => rest,
            Self::Renewal(rest) | Self::Rebinding(rest) => (rest / 2).max(LEAST_PAUSE).min(rest),
            Self::Expired => Duration::ZERO,
        }
    }
}

pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn seconds(number: u32) -> Duration {
    seconds_of(number.into())
}

fn seconds_of(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Options as texts: the number and the value in hexadecimal.
mod hexadecimal {
    use super::Options;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(options: &Options, to: S) -> Result<S::Ok, S::Error> {
        let hex = |value: &[u8]| value.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let texts: Vec<(u8, String)> = options.iter().map(|(c, v)| (*c, hex(v))).collect();
        texts.serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Options, D::Error> {
        let texts = Vec::<(u8, String)>::deserialize(from)?;
        let read = |text: &str| {
            let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
                return None;
            };
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let byte = |pair: &[u8; 2]| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok();
            pairs.iter().map(byte).collect::<Option<Vec<u8>>>()
        };
        texts
            .into_iter()
            .map(|(code, text)| Some((code, read(&text)?)))
            .collect::<Option<Options>>()
            .ok_or_else(|| D::Error::custom("an option is not hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant(times: &[(u8, u32)]) -> Grant {
        let option = |(code, time): &(u8, u32)| (*code, time.to_be_bytes().to_vec());
        Grant {
            address: [10, 1, 0, 9].into(),
            server: [10, 1, 0, 1].into(),
            server_mac: [2; 6],
            options: times.iter().map(option).collect(),
            since: 0,
        }
    }

    #[test]
    fn a_lease_is_renewed_then_rebound_then_over() {
        let at = |grant: &Grant, age| grant.need(seconds_of(age));
        let plain = grant(&[(51, 1000)]);
        assert_eq!(at(&plain, 0), Need::Nothing(seconds_of(500)));
        assert_eq!(at(&plain, 500), Need::Renewal(seconds_of(350)));
        assert_eq!(at(&plain, 850), Need::Rebinding(seconds_of(150)));
        assert_eq!(at(&plain, 1000), Need::Expired);
        assert_eq!(at(&grant(&[]), 1800), Need::Renewal(seconds_of(1260)));
        let told = grant(&[(51, 1000), (58, 10), (59, 20)]);
        assert_eq!(at(&told, 10), Need::Renewal(seconds_of(10)));
        assert_eq!(at(&told, 20), Need::Rebinding(seconds_of(980)));
        // For ever.
        let ever = grant(&[(51, u32::MAX)]);
        assert!(matches!(at(&ever, 1 << 30), Need::Nothing(_)));
    }

    #[test]
    fn tries_come_closer_and_end_in_time() {
        let pause = |rest| Need::Renewal(seconds_of(rest)).pause().as_secs();
        assert_eq!([pause(1000), pause(100), pause(20)], [500, 60, 20]);
    }

    fn times() -> impl Strategy<Value = u32> {
        prop_oneof![0_u32..9, any::<u32>()]
    }

    proptest! {
        #[test]
        fn a_lease_survives_its_file(
            options in proptest::collection::vec(
                (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..4),
        ) {
            let lease = Lease {
                holder: Holder {
                    container_id: "web".into(), network: "net".into(), ifname: "eth0".into(),
                },
                netns: "/run/netns/x".into(),
                dev: 4,
                inode: u64::MAX,
                sent: options.clone(),
                grant: Grant { options, ..grant(&[]) },
            };
            let text = serde_json::to_string(&lease).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
        }

        #[test]
        fn there_is_always_something_to_wait_for(
            lease in any::<u32>(), t1 in any::<u32>(), t2 in any::<u32>(), age in any::<u32>(),
        ) {
            let need = grant(&[(51, lease), (58, t1), (59, t2)]).need(seconds(age));
            prop_assert_eq!(need.pause().is_zero(), need == Need::Expired);
        }

        #[test]
        fn nothing_is_due_at_once_whatever_a_server_tells(
            lease in proptest::option::of(times()),
            t1 in proptest::option::of(times()),
            t2 in proptest::option::of(times()),
        ) {
            let mut ack = Packet::new(Kind::Ack, 1, [2; 6]);
            ack.yours = [10, 1, 0, 9].into();
            ack.set(option::SERVER, vec![10, 1, 0, 1]);
            for (code, time) in [(51, lease), (58, t1), (59, t2)] {
                if let Some(time) = time {
                    ack.set(code, time.to_be_bytes().to_vec());
                }
            }
            match Grant::of(&ack, [2; 6]) {
                None => prop_assert!(seconds(lease.unwrap()) < LEAST_REST),
                Some(grant) => {
                    let need = grant.need(Duration::ZERO);
                    prop_assert!(matches!(need, Need::Nothing(rest) if rest >= LEAST_REST));
                }
            }
        }
    }
}
