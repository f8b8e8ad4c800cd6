//! What this kernel can do, tried in a network namespace of its own that is gone
//! when it is known.

use nix::sched::{CloneFlags, unshare};

use circuit_core::{Error, Result};

use crate::netlink::{LinkSpec, Message, Netlink, NetlinkError};
use crate::nft::{Batch, Family, Hook, HookPoint, Nft, PRIORITY_SRCNAT, Rule, Table};

/// `IFLA_VLAN_ID`, and the number of any VLAN.
const VLAN_ID: (u16, u16) = (1, 2);
/// `IFLA_VXLAN_ID`, and any number of a segment.
const VXLAN_ID: (u16, u32) = (1, 7);

/// A kind of interface, whether it lies on another, and what it is told.
type Try = (&'static str, bool, fn(Message) -> Message);

/// Something that networks may need of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kind of interface as plugins call it, or `nftables`.
    pub name: &'static str,
    /// Why it cannot be had; none when it can.
    pub missing: Option<String>,
}

/// Tries each kind of interface and the firewall.
///
/// # Errors
/// When this process may not make a network namespace.
pub fn kernel() -> Result<Vec<Feature>> {
    // A thread's namespace ends with it.
    let trying = std::thread::Builder::new().spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            Error::precondition(format!("cannot make a network namespace: {errno}"))
        })?;
        try_all()
    });
    let trying =
        trying.map_err(|error| Error::internal(format!("cannot try the kernel: {error}")))?;
    trying
        .join()
        .map_err(|_| Error::internal("trying the kernel hit a defect"))?
}

fn try_all() -> Result<Vec<Feature>> {
    let mut socket = Netlink::open(None)?;
    let base = LinkSpec::named("base0");
    let peer = LinkSpec::named("base1");
    let made = socket.create("base0", base.create_veth(&peer));
    let parent = made.as_ref().ok().map(|link| link.index);
    let mut features = vec![feature("veth", made.map(drop))];
    let plain = |message: Message| message;
    let tries: [Try; 6] = [
        ("bridge", false, plain),
        ("macvlan", true, plain),
        ("ipvlan", true, plain),
        ("vlan", true, |m| {
            m.with(VLAN_ID.0, &VLAN_ID.1.to_ne_bytes())
        }),
        ("dummy", false, plain),
        ("vxlan", false, |m| m.with_u32(VXLAN_ID.0, VXLAN_ID.1)),
    ];
    for (kind, lies_on, data) in tries {
        let name = format!("try-{kind}");
        let spec = LinkSpec {
            parent: parent.filter(|_| lies_on),
            ..LinkSpec::named(&name)
        };
        let made = socket.create(&name, spec.create(kind, data));
        // An interface is no macvlan's and ipvlan's at a time.
        let gone = made.and_then(|link| socket.delete_links(&[link.index]));
        features.push(feature(kind, gone));
    }
    features.push(Feature {
        name: "nftables",
        missing: try_nftables().err().map(|error| error.to_string()),
    });
    Ok(features)
}

fn feature(name: &'static str, made: std::result::Result<(), NetlinkError>) -> Feature {
    Feature {
        name,
        missing: made.err().map(|error| error.to_string()),
    }
}

/// A table that masquerades, as networks need it.
fn try_nftables() -> crate::nft::Result<()> {
    let table = Table {
        family: Family::Inet,
        name: "circuit-try",
    };
    let hook = Hook {
        kind: "nat",
        point: HookPoint::Postrouting,
        priority: PRIORITY_SRCNAT,
    };
    let mut batch = Batch::new();
    batch.add_table(table, None);
    batch.add_chain(table, "try", Some(hook));
    batch.add_rule(table, "try", &Rule::new().masquerade());
    let mut nft = Nft::open(None)?;
    let generation = nft.generation()?;
    nft.commit(&batch, generation)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_between_tries() {
        let tried = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let features = try_all().unwrap();
            let links = crate::netlink::links(None).unwrap();
            let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
            names.sort_unstable();
            (features, names)
        });
        let (features, names) = tried.join().unwrap();
        let macvlan = features.iter().find(|it| it.name == "macvlan").unwrap();
        assert_eq!(macvlan.missing, None);
        assert_eq!(names, ["base0", "base1", "lo"]);
    }
}
