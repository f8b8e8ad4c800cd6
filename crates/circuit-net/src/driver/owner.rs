//! Whose an element of a set is, as its comment says.

use circuit_core::datapath::Held;

use crate::driver::Call;
use crate::nft::fnv;

/// The longest parts of a comment; with an interface's name of 15 bytes they
/// make the longest comment that `nft` reads.
const NETWORK_MAX: usize = 36;
const CONTAINER_MAX: usize = 74;

/// An attachment, in words that fit into a comment and are the same each time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    network: String,
    container_id: String,
    ifname: String,
}

impl Owner {
    pub(super) fn new(network: &str, container_id: &str, ifname: &str) -> Self {
        Self {
            network: shortened(network, NETWORK_MAX),
            container_id: shortened(container_id, CONTAINER_MAX),
            ifname: shortened(ifname, 15),
        }
    }

    /// The attachment of a call.
    pub(super) fn of(call: &Call<'_>) -> Self {
        Self::new(call.network(), call.container_id, call.ifname)
    }

    /// Whether the network is the one of that name.
    pub(super) fn is_of_network(&self, network: &str) -> bool {
        self.network == shortened(network, NETWORK_MAX)
    }

    /// Whether the container is that of another attachment.
    pub(super) fn is_of_container_of(&self, other: &Self) -> bool {
        self.container_id == other.container_id
    }

    /// The comment.
    pub(super) fn comment(&self) -> String {
        format!("{} {} {}", self.network, self.container_id, self.ifname)
    }

    /// Reads a comment, if it is one of these.
    pub(super) fn parse(comment: &str) -> Option<Self> {
        let mut parts = comment.split(' ').map(str::to_owned);
        let owner = Self {
            network: parts.next()?,
            container_id: parts.next()?,
            ifname: parts.next()?,
        };
        parts.next().is_none().then_some(owner)
    }

    /// As others know it. A long id is shortened, and so is one that it is compared
    /// with.
    pub(super) fn held(self) -> Held {
        Held {
            cni_id: self.container_id,
            interface: self.ifname,
            address: None,
        }
    }

    /// A key of 16 bytes by which the attachment is found.
    pub(super) fn key(&self) -> Vec<u8> {
        let comment = self.comment();
        let (first, second) = (
            fnv(comment.as_bytes()),
            fnv(format!("{comment} ").as_bytes()),
        );
        [first.to_be_bytes(), second.to_be_bytes()].concat()
    }

    /// For error texts.
    pub(super) fn text(&self) -> String {
        format!(
            "container {} ({} in network {})",
            self.container_id, self.ifname, self.network
        )
    }
}

/// The text, or its start and a digest when it is too long. Neither names nor
/// ids have a `~`.
fn shortened(text: &str, max: usize) -> String {
    let text = text.replace(char::is_whitespace, "_");
    if text.len() <= max {
        return text;
    }
    let digest = format!("~{:x}", fnv(text.as_bytes()));
    let mut end = max.saturating_sub(digest.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned() + &digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::COMMENT_MAX;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comments_fit_and_are_read_back(
            network in "[a-zA-Z0-9_.-]{1,80}",
            id in "[a-zA-Z0-9_.-]{1,120}",
            ifname in "[a-z0-9]{1,15}",
        ) {
            let owner = Owner::new(&network, &id, &ifname);
            let comment = owner.comment();
            prop_assert!(comment.len() <= COMMENT_MAX);
            prop_assert_eq!(Owner::parse(&comment), Some(owner.clone()));
            prop_assert!(owner.is_of_network(&network));
            let other = Owner::new(&network, &format!("{id}x"), &ifname);
            prop_assert_ne!(other.key(), owner.key());
            prop_assert_ne!(other, owner);
        }
    }

    #[test]
    fn other_comments_are_nobodys() {
        assert_eq!(Owner::parse("a b"), None);
        assert_eq!(Owner::parse("a b c d"), None);
    }
}
