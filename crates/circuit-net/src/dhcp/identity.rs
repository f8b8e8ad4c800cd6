//! What a client calls itself, so that servers tell one from the other.

use sha2::{Digest, Sha256};

/// The longest identity that every server takes.
const MAX_CLIENT_ID: usize = 254;

/// What tells a host's clients from those of other hosts: containers of two hosts
/// may have the same name, and a server that takes them for one gives them one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMark([u8; 4]);

impl HostMark {
    /// Of this host: by its machine id, which stays the same over reboots, else by its
    /// name. None when it has neither.
    #[must_use]
    pub fn of_this_host() -> Option<Self> {
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let name = nix::unistd::gethostname().unwrap_or_default();
        Self::of(&id, &name.to_string_lossy())
    }

    /// systemd writes `uninitialized` until a machine has an id.
    fn of(machine_id: &str, name: &str) -> Option<Self> {
        let known = |text: &&str| !text.is_empty() && *text != "uninitialized";
        let text = Some(machine_id.trim()).filter(known);
        let text = text.or(Some(name).filter(known))?;
        // The id itself is nobody's business.
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(format!("circuit dhcp {text}")));
        Some(Self([a, b, c, d]))
    }
}

/// The identity of an attachment to servers: the stock plugin's, after the host's mark.
pub(super) fn client_id(
    host: Option<HostMark>,
    container_id: &str,
    network: &str,
    ifname: &str,
) -> Vec<u8> {
    let mut text = host.map_or_else(String::new, |HostMark(mark)| {
        format!("{:08x}/", u32::from_be_bytes(mark))
    });
    text += &format!("{container_id}/{network}/{ifname}");
    let text = text.as_bytes();
    // Zero says that it is no hardware address.
    [&[0], &text[..text.len().min(MAX_CLIENT_ID)]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_cut_to_what_servers_take() {
        assert_eq!(client_id(None, "c", "n", "eth0"), b"\0c/n/eth0");
        assert_eq!(client_id(None, &"c".repeat(300), "n", "eth0").len(), 255);
    }

    #[test]
    fn hosts_are_told_apart_by_what_stays() {
        let of = |id, name| client_id(HostMark::of(id, name), "c", "n", "eth0");
        let one = of("1f2e\n", "a");
        assert_eq!(one, of("1f2e", "b"));
        assert_eq!(one.len(), b"\x0001234567/c/n/eth0".len());
        assert!(one.ends_with(b"/c/n/eth0"));
        assert_ne!(one, of("1f2f", "a"));
        for none in ["", "\n", "uninitialized\n"] {
            assert_eq!(of(none, "a"), of("", "a"), "{none:?}");
            assert_ne!(of(none, "a"), of(none, "b"), "{none:?}");
        }
        assert_eq!(HostMark::of("", ""), None);
    }
}
